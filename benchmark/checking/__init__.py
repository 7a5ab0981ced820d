"""The checks of ``lavo-bench check``, and the attention that they try."""
