"""Recall: synthetic texts whose questions can be answered only by what the attention carries."""
