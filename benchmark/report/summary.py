"""Summarises all tables: each attention against the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.report import numbers
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


def summary_table(groups: Sequence[Group], differences: Mapping[int, Mapping[str, Difference]]) -> Table | None:
    """Returns a table with one row for each table of the report and one column for each attention.

    differences: ``id`` of a group -> label -> difference from the exact attention.
    Returns None if there is nothing to compare.
    """
    shown = [group for group in groups if group.reference is not None and group.metrics()]
    entries = [entry for group in shown for entry in group.contenders if entry.completed]
    labels = list(dict.fromkeys(entry.label for entry in entries))
    if len(labels) < 2:
        return None
    rows, values = [], []
    for group in shown:
        title = f"{words(group.task)}: {group.title}, {headline(group)}"
        changes = {label: _change(label, group) for label in labels}
        found = differences.get(id(group), {})
        printed = tuple(_change_printed(label, group, changes[label], found.get(label)) for label in labels)
        rows.append(Row(title, printed))
        verdicts = {f"{label}_verdict": found[label].verdict for label in labels if label in found}
        values.append({"table": title, **changes, **verdicts})
    notes = [
        "Relative difference of each mean from that of the exact attention; positive is better. Better, worse: resolved over seeds, "
        "adjusted by Holm in its table, and over test examples; open: not resolved."
    ]
    return Table("summary", "All tables at a glance.", ["table", *labels], rows, values, notes)


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
    return Printed(f"{numbers.signed(100 * change, 1)} % {verdict}", bold=verdict != "open", shade=shade)
