"""The tables and sweeps of a report, as the rules of claims look for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmark.interface import PRESETS
from benchmark.report.cards import MEANING, Card
from benchmark.report.claims.rules import Scale, scale_limits
from benchmark.report.degenerate import has_broken_rival
from benchmark.report.groups import Entry, Group, words
from benchmark.report.speed import Sweep
from benchmark.report.tables import data_words
from benchmark.results import Record


class Records(NamedTuple):
    """All that a report was given."""

    groups: Sequence[Group]
    cards: Mapping[int, Card]  # id of a group -> its card
    sweeps: Sequence[Sweep]

    def at(self, task: str, backbone: str, pattern: str) -> list[Group]:
        """Returns the tables of a site, in an order that doesn't depend on that of the records."""
        found = [g for g in self.groups if (g.task, g.backbone, g.pattern) == (task, backbone, pattern)]
        return sorted(found, key=lambda group: (group.title, group.data.sha256 or ""))

    def hold(self, attention: str) -> bool:
        """Returns whether there is a record or a point of this attention."""
        trained = any(entry.attention == attention for group in self.groups for entry in group.entries)
        return trained or any(attention in sweep.attentions for sweep in self.sweeps)


def table_words(group: Group) -> str:
    """Returns the name of a table."""
    return f"{words(group.task)}, {group.title}"


def largest(groups: Sequence[Group], attention: str) -> list[Group]:
    """Returns the tables in which the attention has a result, of the largest preset alone."""
    found = [group for group in groups if any(e.attention == attention and e.completed for e in group.entries)]
    found = [group for group in found if the_entry(group, attention).completed]
    ranks = [PRESETS.index(g.preset) if g.preset in PRESETS else -1 for g in found]
    return [group for group, rank in zip(found, ranks, strict=True) if rank == max(ranks)]


def the_entry(group: Group, attention: str) -> Entry:
    """Returns the row that the claim is about: the one named as the attention, or its only row; else an empty one."""
    own = [entry for entry in group.entries if entry.attention == attention and entry.completed]
    named = [entry for entry in own if entry.label == attention]
    chosen = named if len(named) == 1 else own
    return chosen[0] if len(chosen) == 1 else Entry(attention, attention, ())


def scale_of(group: Group) -> Scale:
    """Returns the preset and the data of a table, and why a verdict from it holds at this scale only."""
    return Scale(group.preset, data_words(group.data), scale_limits(group.preset, embedded=group.data.embedded))


def unresolved(group: Group, card: Card | None, attention: str) -> str:
    """Returns why a site decides nothing of this attention; an empty text if its card is resolved and no other's cell is degenerate."""
    if has_broken_rival(group, attention):
        return "a cell of another attention is degenerate"
    if card is None:
        return "no site card: exact attention has no result"
    if card.verdict is None:
        return f"no site card: {card.reason}"
    return "" if card.is_resolved else f"the site is {words(card.verdict)} ({MEANING[card.verdict]})"


def losses_by_length(record: Record) -> dict[int, Mapping[str, float]]:
    """Returns the losses that language modelling recorded by length of the context; empty if they can't be read."""
    try:
        rows = record.curves.get("loss_by_length") or []
    except ValueError:
        return {}
    return {int(row["length"]): row for row in rows if isinstance(row, Mapping) and "length" in row and "loss" in row}
