"""Compares two sets of results cell by cell: the difference of each metric, tested over seeds and over examples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.registry import nearest
from benchmark.report import numbers
from benchmark.report.differences import LEVEL, has_no_spread, tests_over_examples, verdict_of
from benchmark.report.groups import Entry, Group, canonical, flat, group_records, own_settings, settings_by_name
from benchmark.report.tables import Printed, Row, Table
from benchmark.report.versions import changes
from benchmark.results import records
from benchmark.statistics import PairedTest, holm, paired_t_test, summarise

if TYPE_CHECKING:
    import pandas as pd


def compare(
    a: Sequence[Path],
    b: Sequence[Path] = (),
    attentions: Sequence[str] | None = None,
    *,
    damaged: Callable[[str], None] = warnings.warn,
) -> pd.DataFrame:
    """Returns one row for each metric of each cell (all seeds together) of two sets of results, or of two attentions of one.

    a, b, attentions: the cells in A, in B or in both, of these attentions if some are named; without B two attentions, of
    which the second is compared with the first.  ``difference`` is B - A, or second - first.  ``p_seeds`` comes from the paired t
    test over the seeds that both have.  ``p_examples`` comes from the randomisation test over the test examples of the first such
    seed, if both have values of the same examples.  If examples overlap (windows of one series), they are not independent, so
    ``p_examples`` is too small: it then only shows whether the model has changed.  ``p_holm`` is ``p_seeds`` adjusted for the
    number of tests in this comparison, of headline metrics (``headline``) and of the others apart.

    note: in which data, versions, learning rate, options and settings the two differ, and whether seeds have no spread.
    verdict: "better" or "worse" if the difference is resolved: ``p_holm`` and, where it is known, ``p_examples`` are below LEVEL,
    and the test examples don't say the opposite; else "".  Where every seed gives the same difference, see ``verdict_of``.
    damaged: called with one line for each record that can't be read; it is left out.
    Raises ValueError for a folder that isn't there, for an attention that has no cell, and for attentions that are not two where
    B is left out.
    """
    import pandas as pd

    sides = [group_records(records([Path(folder) for folder in side], damaged=damaged)) for side in (a, b) if side]
    labels = list(dict.fromkeys(entry.label for side in sides for group in side for entry in group.entries))
    for name in attentions or ():
        if name not in labels:
            raise ValueError(f"attention {name!r}: no cell of it{nearest(name, labels)}; there are {', '.join(labels)}")
    if len(sides) == 1:
        if attentions is None or len(attentions) != 2:
            raise ValueError("one set of results needs two attentions to compare")
        pairs = _two_attentions(sides[0], *attentions)
    else:
        first, second = (_rows(side, attentions) for side in sides)
        pairs = [
            pair for key in dict.fromkeys([*first, *second]) for pair in _pairs(first.get(key, ()), second.get(key, ()))
        ]
    found = [row for pair in pairs for row in _compared(*pair)]
    frame = pd.DataFrame(found, columns=list(_COLUMNS))
    frame["p_holm"] = None
    for is_headline in (True, False):
        rows = frame["headline"] == is_headline
        frame.loc[rows, "p_holm"] = holm([None if pd.isna(p) else p for p in frame.loc[rows, "p_seeds"]])
    frame["p_holm"] = frame["p_holm"].astype(float)
    frame["verdict"] = [_verdict(row, p) for row, p in zip(found, frame["p_holm"], strict=True)]
    return frame


NO_SPREAD = "no spread over seeds"
MOST_NOTES = 8  # what differs between two rows; the rest is cut off

_COLUMNS = (
    *("task", "backbone", "pattern", "attention", "preset", "metric", "headline", "higher_is_better", "a", "b"),
    *("difference", "relative", "seeds", "low", "high", "p_seeds", "examples", "p_examples", "note"),
)


def _verdict(row: Mapping[str, Any], p_holm: float) -> str:
    if "tests" not in row:
        return ""
    p = None if math.isnan(p_holm) else p_holm
    over_seeds, over_examples = row["tests"]
    found = verdict_of(over_seeds, over_examples, p, higher_is_better=row["higher_is_better"])
    return "" if found == "open" else found


Side = tuple[Group, Entry] | None


def _rows(groups: Sequence[Group], attentions: Sequence[str] | None) -> dict[str, list[tuple[Group, Entry]]]:
    """Returns the rows of all tables, by the names that must agree for two rows to be compared."""
    found: dict[str, list[tuple[Group, Entry]]] = {}
    for group in groups:
        for entry in group.entries:
            if attentions is None or entry.label in attentions:
                name = entry.records[0].cell.label  # without the options by which a table tells its rows apart
                key = canonical([group.task, group.backbone, group.pattern, group.preset, name])
                found.setdefault(key, []).append((group, entry))
    return found


def _pairs(a: Sequence[tuple[Group, Entry]], b: Sequence[tuple[Group, Entry]]) -> Iterable[tuple[Side, Side]]:
    """Pairs rows of the same names: first those that differ least in data, versions and settings.  What is left over stays alone.

    A pair that differs is noted as such.
    """
    unlike = {(i, j): len(_differing(one, other)) for i, one in enumerate(a) for j, other in enumerate(b)}
    partner: dict[int, int] = {}
    for i, j in sorted(unlike, key=lambda pair: unlike[pair]):
        if i not in partner and j not in partner.values():
            partner[i] = j
    for i, one in enumerate(a):
        yield one, (b[partner[i]] if i in partner else None)
    for j, other in enumerate(b):
        if j not in partner.values():
            yield None, other


def _two_attentions(groups: Sequence[Group], first: str, second: str) -> list[tuple[Side, Side]]:
    """Returns the rows of two attentions in each table that has one of them."""
    pairs: list[tuple[Side, Side]] = []
    for group in groups:
        by_label = {entry.label: (group, entry) for entry in group.entries}
        pair = by_label.get(first), by_label.get(second)
        if any(pair):
            pairs.append(pair)
    return pairs


def _compared(a: Side, b: Side) -> list[dict[str, Any]]:
    group, _ = a or b  # type: ignore[misc]
    names = {"task": group.task, "backbone": group.backbone, "pattern": group.pattern}
    labels = dict.fromkeys(side[1].label for side in (b, a) if side is not None)
    names |= {"attention": " against ".join(labels), "preset": group.preset}
    if a is None or b is None:
        return [{**names, "headline": True, "note": f"only in {'B' if a is None else 'A'}"}]
    metrics = a[0].metrics() | b[0].metrics()
    if not a[1].completed or not b[1].completed:
        return [{**names, "headline": True, "note": f"A: {_status(a[1])}; B: {_status(b[1])}"}]
    over_examples = tests_over_examples(a[1], b[1], list(metrics), group.task)
    differing = _differing(a, b)
    note = "; ".join(differing[:MOST_NOTES] + (["…"] if len(differing) > MOST_NOTES else []))
    rows = []
    for metric, described in metrics.items():
        row = _difference(a[1], b[1], metric, over_examples.get(metric))
        is_headline = metric == next(iter(metrics))
        described_by = {"metric": metric, "headline": is_headline, "higher_is_better": described.higher_is_better}
        notes = "; ".join(part for part in (note, row.get("note", "")) if part)
        rows.append({**names, **described_by, **row, "note": notes})
    return rows


def _status(entry: Entry) -> str:
    return ", ".join(sorted({record.status for record in entry.records}))


def _differing(a: tuple[Group, Entry], b: tuple[Group, Entry]) -> list[str]:
    """Returns notes on data, versions, learning rate, options and settings that differ, because they may be the cause of a difference."""
    (group, entry), (other_group, other) = a, b
    notes = [] if group.data.sha256 == other_group.data.sha256 else ["other data"]
    is_same = entry.attention == other.attention
    if entry.versions is not None and other.versions is not None:
        notes += changes(entry.versions, other.versions, of_attention=is_same)
    first, second = _own(entry, with_options=is_same), _own(other, with_options=is_same)
    notes += _changed(first, second)
    return notes + _changed(settings_by_name(group.settings), settings_by_name(other_group.settings))


def _own(entry: Entry, *, with_options: bool) -> dict[str, Any]:
    """Returns the settings of a row's own.  Options of different attentions are different things, so they are not compared."""
    own = own_settings(entry.records[0])
    options = own.pop("options")
    return {**own, **(flat(options) if with_options else {})}


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {first.get(key)} -> {second.get(key)}"
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    ]


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
        row |= {"tests": (test, by_example), "note": NO_SPREAD if has_no_spread(test) else ""}
        if by_example is not None:
            row |= {"examples": by_example.n, "p_examples": by_example.p}
    row["relative"] = row["difference"] / abs(row["a"]) if row["a"] else None
    return row


def comparison_table(frame: pd.DataFrame, names: tuple[str, str] = ("A", "B"), *, all_metrics: bool = True) -> Table:
    """Returns the comparison as a table.

    names: of the two sides.  all_metrics: False for the first metric of each cell alone.
    """
    wide = ["relative", "seeds", "p", "p (Holm)", "p (examples)"] if all_metrics else ["relative"]
    columns = ["cell", "metric", *names, f"{names[1]} {numbers.MINUS} {names[0]} [95 %]", *wide, ""]
    shown = frame if all_metrics else frame[frame["headline"]]
    rows, several = [], frame["attention"].nunique() > 1
    for row in shown.astype(object).where(shown.notna(), None).to_dict("records"):
        label = f"{row['backbone']}.{row['pattern']}"
        label += f", {row['attention']}" if several else ""
        label += f" ({row['preset']}{'; ' + row['note'] if row['note'] else ''})" if all_metrics else ""
        if row["difference"] is None:
            rows.append(Row(label, message=row["note"] or "no value"))
            continue
        interval = (
            "" if row["low"] is None else f" [{numbers.significant(row['low'])}, {numbers.significant(row['high'])}]"
        )
        figures = [
            f"{row['metric']} {'↑' if row['higher_is_better'] else '↓'}",
            numbers.significant(row["a"], 4),
            numbers.significant(row["b"], 4),
            numbers.significant(row["difference"]) + interval,
            "–" if row["relative"] is None else f"{numbers.signed(100 * row['relative'], 1)} %",
        ]
        if all_metrics:
            figures += [
                numbers.count(row["seeds"]),
                *(numbers.p_value(row[name]) for name in ("p_seeds", "p_holm", "p_examples")),
            ]
        rows.append(Row(label, (*map(Printed, figures), Printed(row["verdict"], bold=True))))
    notes = [
        f"Better, worse: resolved at {100 * LEVEL:g} % by the paired t test over seeds, adjusted by Holm over the cells, and, where there "
        "are values by example, by the randomisation test over the test examples of one seed, which is too easy where examples "
        "overlap or depend on each other."
    ]
    values = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    return Table("comparison", f"{names[1]} against {names[0]}.", columns, rows, values, notes)
