"""Summarises all tables: each attention against the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.report import numbers
from benchmark.report.cards import Card
from benchmark.report.degenerate import MARK, faults
from benchmark.report.differences import Difference
from benchmark.report.groups import Entry, Group, words
from benchmark.report.tables import Printed, Row, Table

FULL_SHADE = 0.5
"""The relative difference from which on a cell has its full colour."""


def headline(group: Group) -> str:
    """Returns the name of the task's first metric."""
    return next(iter(group.metrics()))


def relative(entry: Entry, group: Group, metric: str) -> float | None:
    """Returns by how much an entry's mean is better (positive) or worse than the reference's, as a share of the latter.

    Only seeds that both have are used.  Returns None if there are none.
    """
    reference = group.reference
    if reference is None:
        return None
    first, second = reference.values(metric), entry.values(metric)
    seeds = [seed for seed in first if seed in second]
    base = sum(first[seed] for seed in seeds)
    if not seeds or base == 0:
        return None
    change = (sum(second[seed] for seed in seeds) - base) / abs(base)
    return change if group.metrics()[metric].higher_is_better else -change


def entry_of(label: str, group: Group) -> Entry | None:
    """Returns the group's row with this label, or None if no seed of it has completed."""
    return next((entry for entry in group.contenders if entry.label == label and entry.completed), None)


def labels_of(groups: Sequence[Group]) -> list[str]:
    """Returns the labels of all attentions with results that are no controls: exact ones first, then as in the tables."""
    entries = [entry for group in groups for entry in group.contenders if entry.completed]
    exact = [entry.label for entry in entries if entry.is_exact]
    return list(dict.fromkeys([*exact, *(entry.label for entry in entries)]))


def summary_table(
    groups: Sequence[Group], differences: Mapping[int, Mapping[str, Difference]], cards: Mapping[int, Card]
) -> Table | None:
    """Returns a table with one row for each table of the report and one column for each attention but the reference.

    differences, cards: by ``id`` of a group; differences from the exact attention by label.
    Returns None if there is nothing to compare.
    """
    shown = [group for group in groups if group.reference is not None and group.metrics()]
    labels = labels_of(shown)
    if len(labels) < 2:
        return None
    references = dict.fromkeys(group.reference.label for group in shown if group.reference is not None)
    labels = [label for label in labels if label not in references or len(references) > 1]
    rows, values = [], []
    for group in shown:
        title = _site(group, shown)
        changes = {label: _change(label, group) for label in labels}
        found = differences.get(id(group), {})
        card = cards.get(id(group))
        verdict = words(card.verdict) if card is not None and card.verdict is not None else numbers.MISSING
        printed = [_change_printed(label, group, changes[label], found.get(label)) for label in labels]
        rows.append(Row(title, (Printed(verdict), *printed)))
        verdicts = {f"{label}_verdict": found[label].verdict for label in labels if label in found}
        values.append({"table": title, "metric": headline(group), "site": verdict, **changes, **verdicts})
    notes = [
        "Positive is better. Better, worse: resolved over seeds, adjusted by Holm in its table, and over test examples; open: not "
        "resolved. Only a resolved site tells attentions apart."
    ]
    if any(faults(entry) for group in shown for entry in group.contenders):
        notes.append(f"{MARK} degenerate in a seed: its table says why.")
    caption = f"Each site: relative difference of the first metric from that of {', '.join(references)}."
    return Table("summary", caption, ["site", "it is", *labels], rows, values, notes, is_dense=True)


def _site(group: Group, shown: Sequence[Group]) -> str:
    """Returns task and site, with the backbone only if the task has several."""
    several = len({other.backbone for other in shown if other.task == group.task}) > 1
    parts = [words(group.backbone) if several else "", words(group.pattern), group.difference]
    return f"{words(group.task)}: {' · '.join(part for part in parts if part)}"


def _change(label: str, group: Group) -> float | None:
    entry = entry_of(label, group)
    return None if entry is None else relative(entry, group, headline(group))


def _change_printed(label: str, group: Group, change: float | None, difference: Difference | None) -> Printed:
    if group.reference is not None and label == group.reference.label:
        return Printed("reference")
    if change is None:
        return Printed(numbers.MISSING)
    verdict = "open" if difference is None else difference.verdict
    shade = None if verdict == "open" else float(np.clip(change / FULL_SHADE, -1, 1))
    entry = entry_of(label, group)
    mark = MARK if entry is not None and faults(entry) else ""
    percent = numbers.signed(100 * change, 1 if abs(change) < 0.0995 else 0)
    return Printed(f"{percent} % {verdict}{mark}", bold=verdict != "open", shade=shade)
