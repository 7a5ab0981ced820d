"""A pair: the texts to summarise, and their summaries.  Every source of data gives pairs."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """One example before it is tokenised."""

    name: str  # for messages and records
    documents: tuple[str, ...]  # the texts to summarise
    references: tuple[str, ...]  # one summary or several; sentences may stand on lines of their own
    question: str = ""  # the summary answers it; it stands before the documents and is no part of them
