"""The conformance suite of ``lavo-bench check``: one file for each kind of requirement on an attention."""
