"""The first view: how good each attention is, how sure that is, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from benchmark.measuring.points import Point
from benchmark.report import numbers
from benchmark.report.across import Interval
from benchmark.report.aggregate import interval_words
from benchmark.report.differences import Difference, Verdict
from benchmark.report.groups import Entry, Group, declared, words
from benchmark.report.speed import Sweep
from benchmark.report.style import PAGE_WIDTH, style_of, value_axis
from benchmark.report.summary import entry_of, headline, labels_of, relative
from benchmark.report.tables import Printed, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG = 16_384  # tokens, at which costs are compared; the longest measured length below it where it wasn't reached
PATTERN = "causal_self"  # of the costs by length


class Cost(NamedTuple):
    """What one attention costs; None for what was not measured.

    tokens_per_second  in training, geometric mean over the tables that it shares with the exact attention
    speed              the same, as a multiple of the exact attention's in the same tables
    decode_seconds     for one token after a long context
    state_bytes        that decoding carries from token to token
    memory_bytes       that a call forward and backward holds at a long length, beyond inputs and parameters
    pass_seconds       of such a call
    """

    tokens_per_second: float | None = None
    speed: float | None = None
    decode_seconds: float | None = None
    state_bytes: int | None = None
    memory_bytes: int | None = None
    pass_seconds: float | None = None
    memory_status: str = ""  # why there is no memory, if a point says so: "out of memory"
    decode_status: str = ""  # why there is no decoding time, if a point says so


class Costs(NamedTuple):
    """The costs of all attentions, and at which lengths (in tokens) they were measured; None where they weren't."""

    by_label: Mapping[str, Cost]
    decode_length: int | None
    memory_length: int | None
    state_length: int | None


def costs_of(groups: Sequence[Group], sweeps: Sequence[Sweep]) -> Costs:
    """Returns the costs of every attention that is no control: from the records, and from sweeps of ``PATTERN``."""
    labels = labels_of(groups)
    decode, decode_length = _at_long_length(sweeps, ("decode", "generation"))
    call, memory_length = _at_long_length(sweeps, ("backward", "forward"))
    states, state_length = _states(groups)
    found = {}
    for label in labels:
        tokens, speed = _training_speed(label, groups)
        token, step = decode.get(label), call.get(label)
        held = None
        if step is not None and step.peak_bytes is not None and step.base_bytes is not None:
            held = step.peak_bytes - step.base_bytes
        found[label] = Cost(
            tokens,
            speed,
            None if token is None else token.seconds,
            states.get(label),
            held,
            None if step is None else step.seconds,
            _why_not(step),
            _why_not(token),
        )
    return Costs(found, decode_length, memory_length, state_length)


def _why_not(point: Point | None) -> str:
    return "" if point is None or point.status == "completed" else words(point.status)


def _training_speed(label: str, groups: Sequence[Group]) -> tuple[float | None, float | None]:
    """Returns tokens per second, and how many times the exact attention's, as geometric means over shared tables."""
    pairs = []
    for group in groups:
        entry = entry_of(label, group)
        own, other = (_tokens_per_second(one) for one in (entry, group.reference))
        if own and other:
            pairs.append((own, own / other))
    if not pairs:
        return None, None
    tokens, speed = np.exp(np.log(np.array(pairs)).mean(0))
    return float(tokens), float(speed)


def _tokens_per_second(entry: Entry | None) -> float | None:
    records = [] if entry is None else entry.completed
    rates = [record.efficiency.tokens_per_second for record in records]
    known = [rate for rate in rates if rate]
    return float(np.median(known)) if known else None


def _at_long_length(sweeps: Sequence[Sweep], modes: Sequence[str]) -> tuple[dict[str, Point], int | None]:
    """Returns label -> its point at one length of at most LONG tokens, of the first mode that was swept, and that length.

    It is the longest one at which an exact attention has a result or ran out of memory.
    """
    for mode in modes:
        for sweep in sweeps:
            known = [
                p.length
                for p in sweep.points
                if p.length <= LONG and (p.seconds is not None or p.status == "out_of_memory")
                if declared(p.attention).get("exact", False)
            ]
            if (sweep.mode, sweep.pattern) == (mode, PATTERN) and known:
                length = max(known)
                return {p.attention: p for p in sweep.points if p.length == length}, length
    return {}, None


def _states(groups: Sequence[Group]) -> tuple[dict[str, int], int | None]:
    """Returns label -> bytes of its state after the longest text of the recall task, and the length of that text."""
    group = next((group for group in groups if (group.task, group.pattern) == ("recall", PATTERN)), None)
    entries = [] if group is None else group.contenders
    rows: dict[str, Mapping[str, float]] = {entry.label: _longest_row(entry) for entry in entries}
    sizes = {
        label: int(row["state_bytes"]) for label, row in rows.items() if row and row.get("state_bytes") is not None
    }
    lengths = {int(rows[label]["length"]) for label in sizes}
    return (sizes, lengths.pop()) if len(lengths) == 1 else ({}, None)


def _longest_row(entry: Entry) -> Mapping[str, float]:
    """Returns the row of the recall curve with the longest text; empty if the records have no such curve."""
    curves = (record.curves.get("recall") for record in entry.completed)
    rows: Sequence[Mapping[str, float]] = next(filter(None, curves), [])
    return max(rows, key=lambda row: row["length"], default={})


def overview_table(
    groups: Sequence[Group],
    differences: Iterable[Mapping[str, Difference]],
    scores: Mapping[str, Interval],
    costs: Costs,
) -> Table | None:
    """Returns one row for each attention: its score, how many differences are resolved, and its costs.

    differences: of the tables that the scores are over, from the exact attention by label.
    """
    differences = list(differences)
    labels = labels_of(groups)
    reference = next((group.reference.label for group in groups if group.reference is not None), None)
    if reference is None or len(labels) < 2:
        return None
    rows: list[Row] = []
    values: list[dict[str, Any]] = []
    for label in labels:
        counts = _verdicts(label, differences)
        cost = costs.by_label[label]
        score = scores.get(label)
        printed = [
            *(
                [Printed(numbers.MISSING) if score is None else Printed(interval_words(score), bold=True)]
                if scores
                else []
            ),
            Printed("reference" if label == reference and None in counts.values() else _verdict_words(counts)),
            Printed(_speed_words(cost, is_reference=label == reference)),
            Printed(cost.decode_status or numbers.duration(cost.decode_seconds)),
            Printed(numbers.size(cost.state_bytes)),
            Printed(cost.memory_status or numbers.size(cost.memory_bytes)),
        ]
        rows.append(Row(label, tuple(printed)))
        interval = {} if score is None else {"score": score.value, "low": score.low, "high": score.high}
        values.append({"attention": label, **interval, **counts, **cost._asdict()})
    columns = [
        "attention",
        *(["score [95 %]"] if scores else []),
        "better · open · worse",
        "training, tokens/s",
        _at("decoding a token", costs.decode_length),
        _at("state", costs.state_length),
        _at("memory", costs.memory_length),
    ]
    caption = f"How good, how sure, at what cost: all tables together, against {reference}."
    return Table(
        "overview",
        caption,
        columns,
        rows,
        values,
        _notes(reference, costs, len(differences), bool(scores)),
        is_dense=True,
    )


def _at(title: str, length: int | None) -> str:
    return title if length is None else f"{title} at {numbers.length(length)}"


def _verdicts(label: str, differences: Iterable[Mapping[str, Difference]]) -> dict[str, int | None]:
    """Returns verdict -> number of tables; None if no table has a test, which needs two seeds."""
    tested = [found[label] for found in differences if label in found and found[label].p_holm is not None]
    verdicts = [one.verdict for one in tested]
    return {verdict: verdicts.count(verdict) if verdicts else None for verdict in get_args(Verdict)}


def _verdict_words(counts: Mapping[str, int | None]) -> str:
    known = [counts[verdict] for verdict in ("better", "open", "worse")]
    return numbers.MISSING if None in known else " · ".join(map(str, known))


def _speed_words(cost: Cost, *, is_reference: bool) -> str:
    if cost.tokens_per_second is None or cost.speed is None:
        return numbers.MISSING
    rate = numbers.count(float(f"{cost.tokens_per_second:.3g}"))
    return rate if is_reference else f"{rate} (×{cost.speed:.2f})"


def _notes(reference: str, costs: Costs, num_tables: int, has_scores: bool) -> list[str]:
    score = f"Score: 0 is a model without attention (none), 1 is {reference}; interquartile mean over seeds and resolved tables. "
    notes = [
        f"{score if has_scores else ''}Better, open, worse: in how many resolved tables (of {num_tables}, without every) the "
        f"difference from {reference} is resolved, or open; {numbers.MISSING}: no test, which needs two seeds. Tokens per second: "
        f"geometric mean over tables (× {reference} in the same tables)."
    ]
    if costs.memory_length is not None:
        notes.append(
            f"Memory: what a call forward and backward on {numbers.length(costs.memory_length)} tokens holds beyond inputs. "
            f"{numbers.MISSING}: not measured."
        )
    else:
        notes.append(
            f"{numbers.MISSING}: not measured; `lavo-bench efficiency` measures decoding and memory by length."
        )
    return notes


def quality_and_cost(groups: Sequence[Group], scores: Mapping[str, Interval], costs: Costs) -> Figure | None:
    """Draws quality against cost, with the Pareto front: in the tables' own training and, if swept, at a long length."""
    from benchmark.report.figures import legend_below, new_figure

    quality = {label: scores[label] for label in costs.by_label if label in scores} or _mean_changes(groups, costs)
    panels = [
        (
            "training time a token (× exact)",
            {label: 1 / cost.speed for label, cost in costs.by_label.items() if cost.speed},
        )
    ]
    seconds = {label: cost.pass_seconds for label, cost in costs.by_label.items() if cost.pass_seconds}
    if len(seconds) > 1 and costs.memory_length is not None:
        panels.append((f"forward and backward at {numbers.length(costs.memory_length)} tokens", seconds))
    panels = [(title, {n: x for n, x in found.items() if n in quality}) for title, found in panels]
    panels = [(title, found) for title, found in panels if len(found) > 1]
    if not panels:
        return None
    figure, axes = new_figure(1, len(panels), width=PAGE_WIDTH, height=2.5)
    for axis, (_, found) in zip(axes.flat, panels, strict=True):
        for label, x in found.items():
            style, value = style_of(label), quality[label]
            spread = [[value.value - value.low], [value.high - value.value]]
            axis.errorbar(
                x,
                value.value,
                yerr=spread,
                label=label,
                elinewidth=0.8,
                capsize=0,
                **style._asdict() | {"linestyle": "none"},
                markersize=5.5,
            )
    for axis, (title, found) in zip(axes.flat, panels, strict=True):
        _front(axis, [(x, quality[label].value) for label, x in found.items()])
        as_words = numbers.duration if "at" in title else lambda value: f"×{numbers.significant(value, 2)}"
        value_axis(axis.xaxis, list(found.values()), as_words)
        axis.set_xlabel(f"{title} →")
    is_score = bool(scores)
    axes.flat[0].set_ylabel("score (0: none, 1: exact)" if is_score else "better than exact, % (mean of tables)")
    legend_below(figure, axes.flat[0], len(panels[0][1]) + 1)
    return figure


def _mean_changes(groups: Sequence[Group], costs: Costs) -> dict[str, Interval]:
    """Returns label -> mean relative difference from the exact attention over tables, in per cent, without an interval."""
    found = {}
    for label in costs.by_label:
        changes = [
            relative(entry, group, headline(group))
            for group in groups
            if group.metrics() and (entry := entry_of(label, group)) is not None
        ]
        known = [100 * change for change in changes if change is not None and math.isfinite(change)]
        if known:
            mean = float(np.mean(known))
            found[label] = Interval(mean, mean, mean)
    return found


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points (cost, quality) that no other one beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _front(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draws the front as steps behind the points: at each cost, the best quality for at most that cost."""
    front = pareto(points)
    x, y = zip(*front, strict=True)
    axis.plot(
        [*x, max(cost for cost, _ in points)],
        [*y, y[-1]],
        color="#9aa3ab",
        linewidth=1.0,
        linestyle=(0, (4, 2)),
        drawstyle="steps-post",
        label="Pareto front",
        zorder=0,
    )
