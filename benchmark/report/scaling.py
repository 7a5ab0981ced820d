"""Shows how cost grows with length: slopes, the longest length that fits into a memory, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.measuring.peaks import Peaks
from benchmark.measuring.points import Point
from benchmark.report import numbers
from benchmark.report.figures import MODE_WORDS, new_figure
from benchmark.report.groups import declared, words
from benchmark.report.speed import Sweep
from benchmark.report.style import COLUMN_WIDTH, PAGE_WIDTH, length_axis, style_of, value_axis
from benchmark.report.tables import Printed, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 4096  # tokens, from which on fixed overheads are small compared with the cost that grows
MEMORIES = tuple(2**power for power in (24, 26, 28, 30, 32))  # bytes: 16 MiB to 4 GiB


class Slope(NamedTuple):
    """The power of the length with which time grows: the slope of log time over log length, by least squares."""

    value: float
    low: float | None  # 95 % interval by Student's t; None with two lengths
    high: float | None
    shortest: int  # the shortest and the longest length used
    longest: int
    num_lengths: int

    def __str__(self) -> str:
        """Writes the slope, with its interval where it has at least two degrees of freedom: with one it tells nothing."""
        has_none = self.low is None or self.high is None or self.num_lengths < 4
        interval = "" if has_none else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval}"


def slope(points: Sequence[Point], shortest: int = LONG) -> Slope | None:
    """Returns the slope of the time per row of the batch, over lengths from ``shortest`` on; None with fewer than two."""
    from scipy.stats import t

    found = sorted((p.length, p.seconds / p.batch) for p in points if p.seconds and p.length >= shortest)
    if len(found) < 2:
        return None
    x, y = np.log(np.array(found, dtype=float)).T
    centred = x - x.mean()
    value = float(centred @ y / (centred @ centred))
    if len(found) == 2:
        return Slope(value, None, None, found[0][0], found[-1][0], 2)
    residuals = y - y.mean() - value * centred
    deviation = math.sqrt(float(residuals @ residuals) / (len(found) - 2) / float(centred @ centred))
    half = float(t.ppf(0.975, len(found) - 2)) * deviation
    return Slope(value, value - half, value + half, found[0][0], found[-1][0], len(found))


def slope_table(sweeps: Sequence[Sweep]) -> Table | None:
    """Returns the table of slopes, with one row for each attention and one column for each sweep; None if there are none."""
    names = _attentions(sweeps)
    found = {(name, sweep): slope(sweep.of(name)) for name in names for sweep in sweeps}
    shown = [sweep for sweep in sweeps if any(found[name, sweep] for name in names)]
    if not shown:
        return None
    rows, values = [], []
    for name in names:
        slopes = [found[name, sweep] for sweep in shown]
        if any(slopes):
            rows.append(Row(name, tuple(Printed(str(one) if one else numbers.MISSING) for one in slopes)))
        for sweep, one in zip(shown, slopes, strict=True):
            if one is not None:
                values.append({"attention": name, "pattern": sweep.pattern, "mode": sweep.mode} | one._asdict())
    notes = [
        f"Least squares of log seconds against log length over the measured lengths from {numbers.length(LONG)} on, with the 95 % "
        "interval (Student's t) where four or more were measured: 1 is linear, 2 quadratic. The CSV file gives the lengths that each slope is made of."
    ]
    columns = ["attention", *(_title(sweep, shown) for sweep in shown)]
    return Table("efficiency-slope", "The power of length with which time grows.", columns, rows, values, notes)


class Reach(NamedTuple):
    """The longest measured length whose peak stays within a memory."""

    length: int | None  # None if even the shortest doesn't fit
    by_memory: bool  # True if a longer length didn't fit; False if the sweep ended before that


def reach(points: Sequence[Point], memory: int) -> Reach:
    """Returns the longest of these points whose peak is at most ``memory`` bytes.

    A peak consists of parameters, inputs, state, and what a call holds besides.
    """
    fits = [p.length for p in points if p.peak_bytes is not None and p.peak_bytes <= memory and p.status == "completed"]
    beyond = [p.length for p in points if p.peak_bytes is not None and p.peak_bytes > memory]
    full = [p.length for p in points if p.status == "out_of_memory" or "would hold" in (p.reason or "")]
    longest = max(fits, default=None)
    return Reach(longest, any(longest is None or length > longest for length in (*beyond, *full)))


def reach_table(sweep: Sweep) -> Table:
    """Returns the table of the longest length within each of MEMORIES, with one row for each attention."""
    rows, values = [], []
    for name in sweep.attentions:
        points = sweep.of(name)
        if all(point.peak_bytes is None for point in points):
            continue
        found = [reach(points, memory) for memory in MEMORIES]
        printed = [_reach_words(one) for one in found]
        rows.append(Row(name, tuple(map(Printed, printed))))
        values += [
            {"attention": name, "memory": memory, "length": one.length, "by_memory": one.by_memory}
            for memory, one in zip(MEMORIES, found, strict=True)
        ]
    notes = [
        "The longest measured length whose peak (inputs, parameters, state, and what a call holds besides) stays within the memory. "
        "≥: longer lengths were not measured, or took too much time."
    ]
    caption = sweep.caption("the longest length that fits into a given memory")
    columns = ["attention", *map(numbers.size, MEMORIES)]
    return Table(f"{sweep.slug}-reach", caption, columns, rows, values, notes)


def _reach_words(found: Reach) -> str:
    if found.length is None:
        return numbers.MISSING
    return numbers.length(found.length) if found.by_memory else f"≥ {numbers.length(found.length)}"


def reach_figure(sweep: Sweep) -> Figure | None:
    """Draws, as bars, the longest length of each attention within the largest memory that limits one of them."""
    names = [name for name in sweep.attentions if any(p.peak_bytes is not None for p in sweep.of(name))]
    found = {memory: {name: reach(sweep.of(name), memory) for name in names} for memory in MEMORIES}
    stopping = [memory for memory in MEMORIES if any(one.by_memory and one.length for one in found[memory].values())]
    if not stopping:
        return None
    memory = stopping[-1]
    bars = [(name, one) for name, one in found[memory].items() if one.length]
    figure, axes = new_figure(width=COLUMN_WIDTH, height=0.5 + 0.28 * len(bars))
    axis = axes[0, 0]
    lengths = [one.length or 1 for _, one in bars]
    left = min(point.length for point in sweep.points) / 1.5
    axis.barh(
        range(len(bars)), [n - left for n in lengths], left=left, color=[style_of(name).color for name, _ in bars]
    )
    axis.set_yticks(range(len(bars)), [name for name, _ in bars])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    for place, (_, one) in enumerate(bars):
        axis.annotate(
            _reach_words(one), (one.length, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
        )
    length_axis(axis.xaxis, sorted({point.length for point in sweep.points}))
    axis.set_xlim(left, max(lengths) * 3)
    axis.set_xlabel(f"longest length within {numbers.size(memory)} (tokens)")
    return figure


def roofline(sweep: Sweep, peaks: Peaks) -> Figure | None:
    """Draws the rate of matrix products against operations per byte of least traffic, below the measured roof."""
    timed = [p for p in sweep.points if p.seconds and p.flops and p.moved_bytes]
    if not timed:
        return None
    figure, axes = new_figure(width=PAGE_WIDTH / 1.4, height=2.9)
    axis = axes[0, 0]
    intensities, rates = [], []
    for name in sweep.attentions:
        own = [p for p in timed if p.attention == name]
        x = [p.flops / p.moved_bytes for p in own if p.flops and p.moved_bytes]
        y = [p.flops / p.seconds for p in own if p.flops and p.seconds]
        if own:
            axis.plot(x, y, label=name, **style_of(name)._asdict())
            intensities += x
            rates += y
    ridge = peaks.flops_per_second / peaks.bytes_per_second
    low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2
    xs = np.geomspace(low, high, 100)
    roof = np.minimum(peaks.flops_per_second, xs * peaks.bytes_per_second)
    axis.plot(xs, roof, color="#1d2329", linewidth=1.0, label="measured roof")
    value_axis(axis.xaxis, [low, high], lambda value: numbers.significant(value, 2))
    value_axis(axis.yaxis, [*rates, *roof], lambda value: f"{numbers.significant(value / 1e9, 2)}")
    axis.set(xlabel="operations of matrix products per byte of least traffic", ylabel="GFLOP/s")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def share_table(sweep: Sweep, peaks: Peaks) -> Table | None:
    """Returns the table of rates at each attention's longest length, and their shares of the measured peaks."""
    rows, values = [], []
    for name in sweep.attentions:
        timed = [p for p in sweep.of(name) if p.seconds and p.moved_bytes]
        if not timed or declared(name).get("control", False):
            continue
        last = timed[-1]
        assert last.seconds is not None
        assert last.moved_bytes is not None
        bandwidth = last.moved_bytes / last.seconds
        rate = last.flops / last.seconds if last.flops else None
        printed = [
            numbers.length(last.length),
            numbers.MISSING if rate is None else numbers.significant(rate / 1e9),
            numbers.MISSING if rate is None else f"{100 * rate / peaks.flops_per_second:.0f} %",
            numbers.significant(bandwidth / 1e9),
            f"{100 * bandwidth / peaks.bytes_per_second:.1f} %",
        ]
        rows.append(Row(name, tuple(map(Printed, printed))))
        shares = {"flops_per_second": rate, "bytes_per_second": bandwidth, "length": last.length}
        values.append(
            {"attention": name, **shares, "peak_flops": peaks.flops_per_second, "peak_bytes": peaks.bytes_per_second}
        )
    if not rows:
        return None
    caption = (
        f"{sweep.title}: rates at the longest length measured. Peaks of the machine, measured with the sweep: "
        f"{numbers.significant(peaks.flops_per_second / 1e9)} GFLOP/s in products of matrices, "
        f"{numbers.significant(peaks.bytes_per_second / 1e9)} GB/s in copies ({peaks.threads} threads)."
    )
    columns = ["attention", "length", "GFLOP/s", "share of peak", "GB/s of least traffic", "share of peak "]
    notes = [
        "Operations are those of matrix products; for a causal kernel, those that it computes. The least traffic reads or writes inputs, "
        "outputs, gradients and state once each. A share above 100 %: the machine was slower while its peaks were measured."
    ]
    return Table(f"{sweep.slug}-rates", caption, columns, rows, values, notes)


def listing(sweeps: Sequence[Sweep]) -> str:
    """Returns all points, one a line, as ``mode B T H D attention``: batch, tokens, heads, head_dim."""
    lines = [
        f"{'mode':<28} {'B':>4} {'T':>8} {'H':>3} {'D':>4} {'attention':<12} {'ms':>12} {'MiB':>10}  kernel or reason"
    ]
    for sweep in sweeps:
        for p in sweep.points:
            time = numbers.MISSING if p.seconds is None else f"{1e3 * p.seconds:.4f}"
            held = numbers.MISSING if p.peak_bytes is None else f"{p.peak_bytes / 2**20:.1f}"
            last = (p.kernel or "") if p.seconds is not None else f"{words(p.status)}: {p.reason}"
            where = f"{p.pattern} {p.mode}"
            lines.append(
                f"{where:<28} {p.batch:>4} {p.length:>8} {p.num_heads:>3} {p.head_dim:>4} {p.attention:<12} {time:>12} {held:>10}  {last}"
            )
    return "\n".join(lines)


def peaks_of(sweep: Sweep, known: Sequence[Peaks]) -> Peaks | None:
    """Returns the peaks of the sweep's device and dtype, or None if they were not measured."""
    return next((one for one in known if (one.device, one.dtype) == (sweep.device, sweep.dtype)), None)


def _attentions(sweeps: Sequence[Sweep]) -> list[str]:
    names = dict.fromkeys(name for sweep in sweeps for name in sweep.attentions)
    return [name for name in names if not declared(name).get("control", False)]


def _title(sweep: Sweep, shown: Sequence[Sweep]) -> str:
    title = f"{words(sweep.pattern)}, {MODE_WORDS.get(sweep.mode, sweep.mode)}"
    return f"{title} ({sweep.conditions})" if len({other.conditions for other in shown}) > 1 else title
