"""Compares two sets of results cell by cell: the difference of each metric, tested over seeds and over examples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.interface import Sums, mean_of
from benchmark.report import numbers
from benchmark.report.groups import Entry, Group, canonical, group_records, settings_by_name, task_metrics, words
from benchmark.report.tables import Printed, Row, Table
from benchmark.results import Record, records
from benchmark.statistics import (
    PairedTest,
    holm,
    paired_randomisation,
    paired_t_test,
    paired_test_of_sums,
    resample,
    summarise,
)

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
    over_examples = _tests_over_examples(a[1], b[1], list(metrics), group.task)
    note = "; ".join(_differing(a[0], b[0]))
    rows = []
    for metric, described in metrics.items():
        row = _difference(a[1], b[1], metric, over_examples.get(metric))
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


def _difference(a: Entry, b: Entry, metric: str, by_example: PairedTest | None) -> dict[str, Any]:
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
        if by_example is not None:
            row |= {"examples": by_example.n, "p_examples": by_example.p}
    row["relative"] = row["difference"] / abs(row["a"]) if row["a"] else None
    return row


def _tests_over_examples(a: Entry, b: Entry, metrics: Sequence[str], task: str) -> dict[str, PairedTest]:
    """Tests over the examples of the first seed that both have: metric -> test.

    Empty if the examples aren't the same.  Metrics that can't be computed from their columns are left out, and so are those for which
    the columns give another figure than the record has.
    """
    seeds = [record.cell.seed for record in b.completed]
    pair = next(((one, _of_seed(b, one.cell.seed)) for one in a.completed if one.cell.seed in seeds), None)
    if pair is None or pair[0].data.sha256 != pair[1].data.sha256:
        return {}
    try:
        first, second = ({str(name): column.to_numpy() for name, column in r.examples.items()} for r in pair)
    except ValueError:  # recorded without examples, or copied without them
        return {}
    if first.keys() != second.keys() or len({len(column) for column in (*first.values(), *second.values())}) != 1:
        return {}
    forms = {name: form for name in metrics if (form := _sums(name, task, first)) is not None}
    known = task_metrics(task)
    tests = {
        name: paired_randomisation(first, second, known[name].value, draws=_DRAWS)
        for name in metrics
        if name in known and name not in forms
    }
    terms = {name: (form.terms(first), form.terms(second)) for name, form in forms.items()}
    if not terms:
        return tests
    found = resample(
        *(np.concatenate([pair[side] for pair in terms.values()], axis=1) for side in (0, 1)), draws=_DRAWS
    )
    begin = 0
    for name, (one, _) in terms.items():
        part = slice(begin, begin := begin + one.shape[1])
        test = paired_test_of_sums(found.only(part), forms[name].value)
        if _agrees(forms[name].value(found.totals[0, part]), pair[0].value(name)):
            tests[name] = test
    return tests


def _of_seed(entry: Entry, seed: int) -> Record:
    return next(record for record in entry.completed if record.cell.seed == seed)


def _agrees(computed: Any, recorded: float | None) -> bool:
    return recorded is not None and math.isclose(float(computed), recorded, rel_tol=1e-5, abs_tol=1e-9)


def _sums(metric: str, task: str, columns: Mapping[str, np.ndarray]) -> Sums | None:
    """Returns the form of the metric that can be resampled: the task's, or the mean of its column if the task isn't installed."""
    known = task_metrics(task)
    if metric in known:
        return known[metric].sums
    return mean_of(metric, unit="", card="").sums if metric in columns else None


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
