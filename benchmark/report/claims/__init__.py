"""Verdicts on claims: which records decide a claim, by which rule, and the view that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.report.cards import Card
from benchmark.report.claims.files import read_claims
from benchmark.report.claims.found import Records
from benchmark.report.claims.text import view
from benchmark.report.document import Block
from benchmark.report.groups import Group
from benchmark.report.speed import Sweep

__all__ = ["claims_blocks"]


def claims_blocks(
    groups: Sequence[Group],
    cards: Sequence[tuple[Group, Card]],
    sweeps: Sequence[Sweep],
    file: Path | None = None,
) -> list[Block]:
    """Returns the view of claims: a heading, the verdicts, and the figures of each claim.

    file: the claims; None for the paper's.  The list is empty if the records hold nothing of the attention that they are about.
    Raises ConfigError for a damaged file.
    """
    claims = read_claims(file)
    if claims is None:
        return []
    return view(claims, Records(groups, {id(group): card for group, card in cards}, sweeps))
