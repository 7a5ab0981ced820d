"""Compares two sets of results cell by cell: the difference of each metric, tested over seeds and over examples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.report import numbers
from benchmark.report.groups import Entry, Group, canonical, group_records, settings_by_name, task_metrics, words
from benchmark.report.tables import Printed, Row, Table
from benchmark.results import Record, records
from benchmark.statistics import PairedTest, Statistic, holm, paired_randomisation, paired_t_test, summarise

if TYPE_CHECKING:
    import pandas as pd

_DRAWS = 1000  # random exchanges of the test over examples


def compare(a: Sequence[Path], b: Sequence[Path], *, damaged: Callable[[str], None] = warnings.warn) -> pd.DataFrame:
    """Returns one row for each metric of each cell (all seeds together) that is in A, in B or in both.

    ``difference`` is B - A.  ``p_seeds`` comes from the paired t test over the seeds that both have.  ``p_examples`` comes from
    the randomisation test over the test examples of the first such seed, if both have values of the same examples.  If examples
    overlap (windows of one series), they are not independent, so ``p_examples`` is too small: it then only shows whether the
    model has changed.  ``p_holm`` is ``p_seeds`` adjusted for the number of tests in this comparison.

    damaged: called with one line for each record that can't be read; it is left out.
    Raises ValueError for a folder that isn't there.
    """
    import pandas as pd

    sides = (records([Path(folder) for folder in side], damaged=damaged) for side in (a, b))
    first, second = (_cells(group_records(side)) for side in sides)
    rows = [row for key in dict.fromkeys([*first, *second]) for row in _compared(first.get(key), second.get(key))]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    frame["p_holm"] = holm([None if pd.isna(p) else p for p in frame["p_seeds"]])
    return frame


_COLUMNS = (
    *("task", "backbone", "pattern", "attention", "preset", "metric", "higher_is_better", "a", "b", "difference"),
    *("relative", "seeds", "low", "high", "p_seeds", "examples", "p_examples", "note"),
)


def _cells(groups: Sequence[Group]) -> dict[str, tuple[Group, Entry]]:
    """Returns each row with its group, by the names that must agree for two cells to be compared.

    Data and settings may differ; the comparison then notes it.
    """
    cells = {}
    for group in groups:
        for entry in group.entries:
            key = canonical([group.task, group.backbone, group.pattern, group.preset, entry.label])
            # If several tables of a set have a row of this name, their settings are added to the key.
            cells[key if key not in cells else canonical([key, settings_by_name(group.settings)])] = (group, entry)
    return cells


def _compared(a: tuple[Group, Entry] | None, b: tuple[Group, Entry] | None) -> list[dict[str, Any]]:
    group, entry = a or b  # type: ignore[misc]
    names = {"task": group.task, "backbone": group.backbone, "pattern": group.pattern}
    names |= {"attention": entry.label, "preset": group.preset}
    if a is None or b is None:
        return [{**names, "note": f"only in {'B' if a is None else 'A'}"}]
    metrics = a[0].metrics() | b[0].metrics()
    if not a[1].completed or not b[1].completed:
        return [{**names, "note": f"A: {_status(a[1])}; B: {_status(b[1])}"}]
    rows = []
    for metric, described in metrics.items():
        row = _difference(a[1], b[1], metric, group.task)
        note = "; ".join(_differing(a[0], b[0]))
        rows.append({**names, "metric": metric, "higher_is_better": described.higher_is_better, **row, "note": note})
    return rows


def _status(entry: Entry) -> str:
    return ", ".join(sorted({record.status for record in entry.records}))


def _differing(a: Group, b: Group) -> list[str]:
    """Returns notes on data and settings that differ, because they may be the cause of a difference."""
    notes = []
    if a.data.sha256 != b.data.sha256:
        notes.append("other data")
    first, second = settings_by_name(a.settings), settings_by_name(b.settings)
    changed = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    notes += [f"{key} {first.get(key)} -> {second.get(key)}" for key in changed[:4]]
    return notes + (["…"] if len(changed) > 4 else [])


def _difference(a: Entry, b: Entry, metric: str, task: str) -> dict[str, Any]:
    first, second = a.values(metric), b.values(metric)
    if not first or not second:
        return {}
    row: dict[str, Any] = {"a": summarise(list(first.values())).mean, "b": summarise(list(second.values())).mean}
    seeds = [seed for seed in first if seed in second]
    difference = row["b"] - row["a"]
    row |= {"difference": difference, "seeds": len(seeds)}
    if seeds:
        test = paired_t_test([first[seed] for seed in seeds], [second[seed] for seed in seeds])
        row |= {"difference": test.difference, "low": test.low, "high": test.high, "p_seeds": test.p}
        by_example = _over_examples(_of_seed(a, seeds[0]), _of_seed(b, seeds[0]), metric, task)
        if by_example is not None:
            row |= {"examples": by_example.n, "p_examples": by_example.p}
    row["relative"] = row["difference"] / abs(row["a"]) if row["a"] else None
    return row


def _of_seed(entry: Entry, seed: int) -> Record:
    return next(record for record in entry.completed if record.cell.seed == seed)


def _over_examples(a: Record, b: Record, metric: str, task: str) -> PairedTest | None:
    """Tests over examples.  Returns None if they aren't the same, or if the metric can't be computed from their columns."""
    if a.data.sha256 != b.data.sha256:
        return None
    statistic = _statistic(metric, task)
    try:
        first, second = ({str(name): column.to_numpy() for name, column in r.examples.items()} for r in (a, b))
    except ValueError:  # recorded without examples, or copied without them
        return None
    same = first.keys() == second.keys() and len(next(iter(first.values()), ())) == len(next(iter(second.values()), ()))
    if not same or (metric not in task_metrics(task) and metric not in first):
        return None
    return paired_randomisation(first, second, statistic, draws=_DRAWS)


def _statistic(metric: str, task: str) -> Statistic:
    """Returns the function from columns to the metric: the task's, or the mean if the task isn't installed."""
    known = task_metrics(task)
    if metric in known:
        return known[metric].value

    def mean(columns: Mapping[str, np.ndarray]) -> float:
        return float(columns[metric].mean())

    return mean


def comparison_table(frame: pd.DataFrame) -> Table:
    """Returns the comparison as a table of the report."""
    columns = [
        "cell",
        "metric",
        "A",
        "B",
        "B − A",
        "relative",
        "95 % interval",
        "seeds",
        "p",
        "p (Holm)",
        "p (examples)",
    ]
    rows = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        label = f"{words(row['task'])}, {words(row['backbone'])}, {words(row['pattern'])}, {row['attention']}"
        label += f" ({row['preset']}{'; ' + row['note'] if row['note'] else ''})"
        if row["difference"] is None:
            rows.append(Row(label, message=row["note"] or "no value"))
            continue
        arrow = "↑" if row["higher_is_better"] else "↓"
        interval = (
            "–" if row["low"] is None else f"[{numbers.significant(row['low'])}, {numbers.significant(row['high'])}]"
        )
        figures = [
            f"{row['metric']} {arrow}",
            numbers.significant(row["a"], 4),
            numbers.significant(row["b"], 4),
            numbers.significant(row["difference"]),
            "–" if row["relative"] is None else f"{numbers.signed(100 * row['relative'], 1)} %",
            interval,
            numbers.count(row["seeds"]),
            *(numbers.p_value(row[name]) for name in ("p_seeds", "p_holm", "p_examples")),
        ]
        rows.append(Row(label, tuple(map(Printed, figures))))
    notes = [
        "p: paired t test over seeds; Holm: adjusted for the number of rows; examples: randomisation test over the test examples of "
        "one seed, which is too small where examples overlap or depend on each other."
    ]
    return Table(
        "comparison",
        "B against A.",
        columns,
        rows,
        [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")],
        notes,
    )
