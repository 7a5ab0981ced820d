"""The report's own figures: training curves, the overview, time and memory by length.  Tasks may add others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.measuring.points import BY_TOKEN, Point
from benchmark.report import numbers
from benchmark.report.differences import Difference
from benchmark.report.groups import Entry, Group, in_order, words
from benchmark.report.style import COLUMN_WIDTH, PAGE_WIDTH, length_axis, style_of, value_axis
from benchmark.report.summary import headline, labels_of
from benchmark.results import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOISE, NOTHING_RANGE = "noise of exact attention", "none: range of seeds"
NO_ATTENTIONS = (
    "Pareto front",
    "measured roof",
    NOISE,
    NOTHING_RANGE,
)  # labels of lines that are no attention's, last in a legend
_BINS = 80  # of a training curve, in which the noise of single batches averages out


def new_figure(rows: int = 1, columns: int = 1, *, width: float = PAGE_WIDTH, height: float = 2.6) -> Any:
    """Returns a figure and the array of its axes.  It bypasses pyplot, which would keep every figure in memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False)


def training_curves(group: Group) -> Figure | None:
    """Draws the training loss and a validation metric by step: the mean over seeds, and their range."""
    from matplotlib.ticker import MaxNLocator

    entries = [entry for entry in group.entries if any(_curve(record, "training") for record in entry.completed)]
    if not entries:
        return None
    validated = _validation_metric(group)
    figure, axes = new_figure(1, 2 if validated else 1, width=PAGE_WIDTH if validated else COLUMN_WIDTH)
    panels = [("training", "loss", "training loss")]
    if validated:
        panels.append(("validation", validated, f"validation {validated}"))
    for axis, (curve, column, title) in zip(axes.flat, panels, strict=True):
        for entry in entries:
            _band(axis, entry, curve, column)
        axis.set(xlabel="step", ylabel=title)
        _cut_start(axis)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    legend_below(figure, axes.flat[0], len(entries))
    return figure


def _curve(record: Record, name: str) -> Mapping[str, Any]:
    return record.curves.get(name) or {}


def _validation_metric(group: Group) -> str | None:
    """Returns the task's first metric if it was measured on validation data, else the first one that was."""
    for record in group.records:
        columns = [name for name in _curve(record, "validation") if name not in ("step", "seconds")]
        if columns:
            first = next(iter(group.metrics()), None)
            return first if first in columns else columns[0]
    return None


def _band(axis: Axes, entry: Entry, curve: str, column: str) -> None:
    """Draws the mean over seeds as a line, and the range from the lowest to the highest seed as a band."""
    series = [_series(record, curve, column) for record in entry.completed]
    series = [(steps, values) for steps, values in series if len(steps)]
    if not series:
        return
    steps = series[0][0]
    stacked = np.stack([np.interp(steps, other, values) for other, values in series])
    style = style_of(entry.label)
    few = len(steps) <= 12
    axis.plot(
        steps,
        stacked.mean(0),
        label=entry.label,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker if few else None,
        markerfacecolor=style.markerfacecolor,
    )
    if len(series) > 1:
        axis.fill_between(steps, stacked.min(0), stacked.max(0), color=style.color, alpha=0.15, linewidth=0)


def _series(record: Record, curve: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values without nulls; a long curve is averaged to ``_BINS`` points."""
    points = _curve(record, curve)
    pairs = zip(points.get("step") or [], points.get(column) or [], strict=False)
    found = np.array([(step, value) for step, value in pairs if value is not None], dtype=float).reshape(-1, 2)
    if len(found) > _BINS:
        found = np.array([part.mean(0) for part in np.array_split(found, _BINS)])
    return found[:, 0], found[:, 1]


def _cut_start(axis: Axes) -> None:
    """Fits the axis to all values but those of the first steps, whose high losses would flatten the rest."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()]
    lines = [line for line in lines if len(line) >= 10]
    if not lines:
        return
    later = np.concatenate([line[len(line) // 10 :] for line in lines])
    low, high = later.min(), later.max()
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axis.set_ylim(min(low, *(line.min() for line in lines)) - margin, high + margin)


def legend_below(figure: Figure, axis: Axes, count: int) -> None:
    """Puts the legend of an axes below the figure, with about one of its ``count`` entries for each inch of width."""
    handles, labels = axis.get_legend_handles_labels()
    # Matplotlib puts lines before points with bars; readers expect the order of the tables, and lines that are no attention last.
    drawn = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] in NO_ATTENTIONS)
    handles, labels = [handle for handle, _ in drawn], [label for _, label in drawn]
    if drawn:
        rows = math.ceil(count / max(2, round(figure.get_figwidth())))
        figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(count / rows), columnspacing=1.4)


def overview(groups: Sequence[Group], differences: Mapping[int, Mapping[str, Difference]]) -> Figure | None:
    """Draws each attention's relative difference from the exact one in per cent, with its interval over seeds.

    Two bands a row show what a difference is worth: how much two exact attentions differ, and where the seeds of ``none`` lie.
    differences: ``id`` of a group -> label -> difference from the exact attention.
    """
    shown = [group for group in groups if group.reference is not None and group.metrics()]
    if not shown:
        return None
    labels = [label for label in labels_of(shown) if any(label in differences.get(id(group), {}) for group in shown)]
    figure, axes = new_figure(height=0.9 + 0.34 * len(shown))
    axis = axes[0, 0]
    for name, (color, spans) in _null_bands(shown).items():
        heights = [(index - 0.46, 0.92) for index in spans]
        for (begin, end), height in zip(spans.values(), heights, strict=True):
            axis.broken_barh([(begin, end - begin)], height, facecolor=color, linewidth=0, zorder=0)
        if spans:
            axis.broken_barh([], (0, 0), facecolor=color, label=name)
    for number, label in enumerate(labels):
        rows = [
            (index, *change)
            for index, group in enumerate(shown)
            if (change := _relative_interval(group, differences.get(id(group), {}).get(label))) is not None
        ]
        if rows:
            place, middle, low, high = (np.array(column) for column in zip(*rows, strict=True))
            # Attentions stand side by side within a row, so that their intervals don't cover each other.
            place = place + 0.6 * ((number + 0.5) / len(labels) - 0.5)
            style = style_of(label)._asdict() | {"linestyle": "none"}
            spread = [middle - low, high - middle]
            axis.errorbar(middle, place, xerr=spread, label=label, elinewidth=0.7, markersize=4, **style)
    axis.axvline(0, color="#888888", linewidth=0.8)
    if max(abs(limit) for limit in axis.get_xlim()) > 60:  # one bad attention must not squeeze the others together
        axis.set_xscale("symlog", linthresh=10)
        ends = [np.abs(line.get_xdata()).max() for line in axis.get_lines() if len(line.get_xdata()) > 2]
        limit = 3 * max([30.0, *ends])
        axis.set_xlim(max(-limit, axis.get_xlim()[0]), min(limit, axis.get_xlim()[1]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{numbers.trimmed(numbers.signed(value, 1))} %")
    axis.set_yticks(range(len(shown)), [f"{words(group.task)}: {group.title} ({headline(group)})" for group in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("better than exact attention →")
    axis.grid(False, axis="y")
    legend_below(figure, axis, len(labels) + 2)
    return figure


def _null_bands(groups: Sequence[Group]) -> dict[str, tuple[str, dict[int, tuple[float, float]]]]:
    """Returns legend -> colour and, by row, the ends of a band in per cent of the exact attention's mean.

    The first band is as wide as the difference of two exact attentions, on both sides; the second holds the seeds of ``none``.
    """
    noise: dict[int, tuple[float, float]] = {}
    nothing: dict[int, tuple[float, float]] = {}
    for index, group in enumerate(groups):
        reference = group.reference
        twins = [entry for entry in group.contenders if entry.is_exact and entry is not reference and entry.completed]
        found = [_by_seed(group, entry) for entry in twins]
        if any(found):
            widest = max(abs(value) for values in found for value in values)
            noise[index] = -widest, widest
        if group.nothing is not None and (values := _by_seed(group, group.nothing)):
            nothing[index] = min(values), max(values)
    return {NOISE: ("#d5d9dd", noise), NOTHING_RANGE: ("#ecdcbf", nothing)}


def _by_seed(group: Group, entry: Entry) -> list[float]:
    """Returns how much better than the exact attention a row is for each seed, in per cent of the exact attention's mean."""
    reference, metric = group.reference, headline(group)
    if reference is None:
        return []
    first, second = reference.values(metric), entry.values(metric)
    base = abs(sum(first.values()) / len(first)) if first else 0.0
    sign = 1 if group.metrics()[metric].higher_is_better else -1
    return [100 * sign * (second[seed] - first[seed]) / base for seed in first if seed in second] if base else []


def _relative_interval(group: Group, found: Difference | None) -> tuple[float, float, float] | None:
    """Returns a difference and the ends of its interval over seeds in per cent of the exact attention's mean; positive is better."""
    reference, metric = group.reference, headline(group)
    if found is None or reference is None:
        return None
    values = list(reference.values(metric).values())
    base = abs(sum(values) / len(values))
    if not base:
        return None
    test = found.over_seeds
    ends = [test.difference if end is None else end for end in (test.low, test.high)]
    sign = 100 / base if group.metrics()[metric].higher_is_better else -100 / base
    low, high = sorted(sign * end for end in ends)
    return sign * test.difference, low, high


MODE_WORDS = {
    "forward": "forward",
    "backward": "forward and backward",
    "prefill": "filling a state",
    "decode": "decoding",
    "training": "training steps of gpt",
    "checkpointed": "training steps of gpt with checkpointing",
    "generation": "generation by gpt",
}


def time_and_memory(points: Sequence[Point]) -> Figure | None:
    """Draws time and memory by length, for one mode and pattern, with logarithmic axes.

    Memory is what a call holds beyond parameters, inputs and state.
    """
    timed = [point for point in points if point.seconds is not None]
    if not timed:
        return None
    figure, axes = new_figure(1, 2)
    panels = (
        (
            axes[0, 0],
            "seconds a token" if points[0].mode in BY_TOKEN else "time a call",
            _seconds,
            numbers.duration,
            10,
        ),
        (axes[0, 1], "memory held by a call", _increment, numbers.size, 4),
    )
    names = in_order(point.attention for point in timed)
    for axis, title, value_of, as_words, base in panels:
        values: list[float] = []
        for name in names:
            values += _by_length(axis, name, [point for point in timed if point.attention == name], value_of)
        length_axis(axis.xaxis, [point.length for point in timed])
        value_axis(axis.yaxis, values or [1.0], as_words, base=base)
        axis.set(xlabel="length (tokens)", ylabel=title)
    legend_below(figure, axes[0, 0], len(names))
    return figure


def _by_length(axis: Axes, name: str, points: Sequence[Point], value_of: Any) -> list[float]:
    found = [(point.length, *value_of(point)) for point in sorted(points, key=lambda point: point.length)]
    found = [row for row in found if row[1]]
    if not found:
        return []
    lengths, middle, low, high = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    style = style_of(name)
    axis.errorbar(
        lengths,
        middle,
        yerr=[middle - low, high - middle],
        label=name,
        elinewidth=0.8,
        capsize=0,
        **style._asdict(),
    )
    return middle.tolist()


def _seconds(point: Point) -> tuple[float | None, ...]:
    low = point.seconds if point.seconds_low is None else point.seconds_low
    high = point.seconds if point.seconds_high is None else point.seconds_high
    return point.seconds, low, high


def _increment(point: Point) -> tuple[float | None, ...]:
    if point.peak_bytes is None or point.base_bytes is None:
        return None, None, None
    return (point.peak_bytes - point.base_bytes,) * 3
