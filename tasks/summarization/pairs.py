"""What every source of data gives: texts and their summaries."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """One example before it is tokenised."""

    name: str  # what messages and records call it
    documents: tuple[str, ...]  # what is summarised
    references: tuple[str, ...]  # one summary or several; sentences may stand on lines of their own
    question: str = ""  # what the summary shall answer; stands before the documents, and is never part of them
