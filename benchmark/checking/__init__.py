"""The conformance suite of ``lavo-bench check``: one file for each kind of promise."""
