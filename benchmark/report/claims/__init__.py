"""Verdicts on claims: which records decide a claim, by which rule, and the view that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.report.cards import Card
from benchmark.report.claims.files import read_claims
from benchmark.report.claims.found import Records
from benchmark.report.claims.text import view
from benchmark.report.document import Block, Text
from benchmark.report.groups import Group
from benchmark.report.published import published_blocks
from benchmark.report.speed import Sweep

__all__ = ["claims_blocks"]


def claims_blocks(
    groups: Sequence[Group],
    cards: Sequence[tuple[Group, Card]],
    sweeps: Sequence[Sweep],
    file: Path | None = None,
) -> list[Block]:
    """Returns the view of claims: the verdicts, the figures of each claim, and published figures.

    file: the claims; None for the paper's.  The list is empty if the records hold nothing of the attention that they are about,
    and no attention and site of a published figure.  Raises ConfigError for a damaged file.
    """
    claims = read_claims(file)
    by_group = {id(group): card for group, card in cards}
    judged = [] if claims is None else view(claims, Records(groups, by_group, sweeps))
    published = published_blocks(groups)
    if not judged and not published:
        return []
    about = "" if claims is None else f" about {claims.attention}, of which these records hold nothing"
    return [*(judged or [Text(f"No claim is judged{about}.")]), *published]
