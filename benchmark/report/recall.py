"""The view of the recall task: accuracy against the bytes of the state after the same texts, in every pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.report import numbers
from benchmark.report.groups import Entry, Group, words
from benchmark.report.style import PAGE_WIDTH, style_of
from benchmark.report.summary import headline
from benchmark.report.tables import Printed, Row, Table
from benchmark.statistics import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recalled(NamedTuple):
    """An attention's accuracy and state in one pattern, both for texts of the trained lengths."""

    values: Sequence[float]  # one for each seed
    state_bytes: int | None  # mean over the same texts


def recalled(group: Group) -> dict[str, Recalled]:
    """Returns label -> accuracy and state, for the attentions that have results."""
    found = {}
    for entry in group.entries:
        values = list(entry.values(headline(group)).values()) if group.metrics() else []
        if values:
            found[entry.label] = Recalled(values, _state_bytes(entry, group.settings.eval.get("solvable") or ()))
    return found


def _state_bytes(entry: Entry, solvable: Sequence[str]) -> int | None:
    """Returns the bytes of the state after the texts whose accuracy is the task's first metric; None if they have no state.

    solvable: the families that enter that metric; all of the record if empty.  The metric is a mean over families of the mean over
    trained lengths, and so is the state, because the state of some attentions grows with the text.
    """
    curves = (record.curves.get("recall") for record in entry.completed)
    rows: Sequence[Mapping[str, Any]] = next(filter(None, curves), [])
    by_family: dict[str, list[float | None]] = {}
    for row in rows:
        if row["is_trained"]:
            by_family.setdefault(row["family"], []).append(row.get("state_bytes"))
    chosen = {family: sizes for family, sizes in by_family.items() if family in solvable} or by_family
    if not chosen or any(size is None for sizes in chosen.values() for size in sizes):
        return None
    return round(float(np.mean([np.mean(np.array(sizes, dtype=float)) for sizes in chosen.values()])))


def state_table(groups: Sequence[Group]) -> Table | None:
    """Returns the table of accuracies, with the bytes of the state beside them: a row an attention, two columns a pattern."""
    by_pattern = _by_title(groups)
    labels = list(dict.fromkeys(label for found in by_pattern.values() for label in found))
    if not labels:
        return None
    with_state = [
        title for title, found in by_pattern.items() if any(one.state_bytes is not None for one in found.values())
    ]
    rows, values = [], []
    for label in labels:
        printed = []
        row: dict[str, object] = {"attention": label}
        for title, found in by_pattern.items():
            own = found.get(label)
            summary = None if own is None else summarise(own.values)
            printed.append(numbers.MISSING if summary is None else numbers.mean_and_deviation(summary, 1))
            if title in with_state:
                printed.append(numbers.MISSING if own is None else numbers.size(own.state_bytes))
            row |= {f"{title}: accuracy": None if summary is None else summary.mean}
            row |= {f"{title}: state bytes": None if own is None else own.state_bytes}
        rows.append(Row(label, tuple(map(Printed, printed))))
        values.append(row)
    columns = [
        "attention",
        *(text for title in by_pattern for text in (f"{title}, %", "state")[: 1 + (title in with_state)]),
    ]
    notes = [
        "Accuracy on the asked tokens of texts of the trained lengths, mean ± deviation over seeds. State: bytes carried after the same "
        "texts, in patterns that decode step by step. Both are means over families."
    ]
    return Table("recall-by-state", "Recall: accuracy and state by pattern.", _unique(columns), rows, values, notes)


def _unique(columns: Sequence[str]) -> list[str]:
    """Returns the headings with spaces behind repeated ones, because readers of the table need them to differ."""
    return [name + " " * list(columns[:index]).count(name) for index, name in enumerate(columns)]


def _by_title(groups: Sequence[Group]) -> Mapping[str, Mapping[str, Recalled]]:
    several = len({group.backbone for group in groups}) > 1
    return {
        " · ".join(
            part for part in (words(group.backbone) * several, words(group.pattern), group.difference) if part
        ): found
        for group in groups
        if (found := recalled(group))
    }


def state_figure(groups: Sequence[Group]) -> Figure | None:
    """Draws accuracy against the bytes of the state, with one panel for each pattern."""
    from benchmark.report.figures import legend_below, new_figure
    from benchmark.report.style import bytes_axis

    panels = {
        title: {label: one for label, one in found.items() if one.state_bytes is not None}
        for title, found in _by_title(groups).items()
    }
    panels = {title: found for title, found in panels.items() if found}
    if not panels:
        return None
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, width=max(PAGE_WIDTH * columns / 4, 3.5), height=0.4 + 1.9 * rows)
    most = max(one.state_bytes or 1 for found in panels.values() for one in found.values())
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
        for label, one in found.items():
            mean, style = float(np.mean(one.values)), style_of(label)._asdict() | {"linestyle": "none"}
            spread = [[mean - min(one.values)], [max(one.values) - mean]]
            axis.errorbar(one.state_bytes, mean, yerr=spread, label=label, elinewidth=0.8, markersize=5, **style)
        axis.set(title=title, ylim=(-4, 104), xlabel="state")
        bytes_axis(axis.xaxis, most)
    for empty in axes.flat[len(panels) :]:
        empty.set_axis_off()
    axes.flat[0].set_ylabel("accuracy, %")
    labels = {label for found in panels.values() for label in found}
    legend_below(figure, max(axes.flat, key=lambda axis: len(axis.containers)), len(labels))
    return figure
