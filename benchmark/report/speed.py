"""The report's section on ``efficiency.csv``: time and memory by length, and crossings with the exact attentions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.measuring.load import disturbance
from benchmark.measuring.points import BY_TOKEN, FILE_NAME, Point, in_same_rounds, latest, merge, read_points
from benchmark.report import numbers
from benchmark.report.crossing import crossing, fitted_length
from benchmark.report.figures import MODE_WORDS
from benchmark.report.groups import declared, in_order, words
from benchmark.report.tables import Printed, Row, Table, escape


class Sweep(NamedTuple):
    """The points of one mode and pattern on one device, shown by one figure and several tables."""

    mode: str
    pattern: str
    batch: int | None  # rows of every batch; None if ``tokens`` is set
    tokens: int | None  # tokens of every batch, whose rows then depend on the length; None if ``batch`` is set
    num_heads: int
    head_dim: int
    dtype: str
    device: str
    points: tuple[Point, ...] = ()  # the row that counts of each point
    superseded: tuple[
        Point, ...
    ] = ()  # earlier rows of exact attentions, timed in the same rounds as some of the points

    @property
    def title(self) -> str:
        """Pattern and mode."""
        return f"{words(self.pattern).capitalize()}, {MODE_WORDS.get(self.mode, self.mode)}"

    @property
    def conditions(self) -> str:
        """Sizes, dtype and device."""
        batch = f"batch {self.batch}" if self.tokens is None else f"{numbers.count(self.tokens)} tokens a batch"
        return f"{batch}, {self.num_heads} heads of {self.head_dim}, {self.dtype}, {self.device}"

    def caption(self, what: str) -> str:
        """Returns the caption of a figure or table; ``what`` says what it shows."""
        return f"{self.title}: {what}. {self.conditions[0].upper()}{self.conditions[1:]}."

    def timed_caption(self, what: str) -> str:
        """Returns the caption of a figure or table of times, which says if they were disturbed (``measuring/load.py``)."""
        return " ".join([self.caption(what), *filter(None, [disturbance(self.points)])])

    @property
    def slug(self) -> str:
        """The text with which the names of its files begin."""
        batch = self.batch if self.tokens is None else f"{self.tokens}tokens"
        parts = (self.pattern, self.mode, batch, self.num_heads, self.head_dim, self.dtype, self.device)
        return "efficiency-" + "-".join("".join(c if c.isalnum() else "_" for c in str(part)) for part in parts)

    @property
    def attentions(self) -> list[str]:
        """Their names: exact ones first, then in the registry's order, those that are not in the registry last."""
        return in_order(point.attention for point in self.points)

    def of(self, attention: str) -> list[Point]:
        """Returns the points of this attention, by length."""
        return [point for point in self.points if point.attention == attention]

    def beside(self, attention: str, other: str) -> list[Point]:
        """Returns the points of ``other`` to compare this attention's with: of the same rounds, or where there are none, its own."""
        rows, own = (*self.superseded, *self.points), {point.length: point for point in self.of(other)}
        same = [in_same_rounds(point, rows, other) for point in self.of(attention)]
        found = own | {point.length: point for point in same if point is not None}
        return [found[length] for length in sorted(found)]

    def apart(self, attention: str, other: str) -> bool:
        """Returns whether some length of the two attentions was timed, but not in the same rounds."""
        rows, own = (*self.superseded, *self.points), {point.length for point in self.of(other) if point.seconds}
        return any(
            point.seconds is not None and point.length in own and in_same_rounds(point, rows, other) is None
            for point in self.of(attention)
        )


def sweep_files(directories: Iterable[Path]) -> list[Path]:
    """Returns the ``efficiency.csv`` of each folder that has one."""
    return [directory / FILE_NAME for directory in directories if (directory / FILE_NAME).is_file()]


def read_sweeps(directories: Iterable[Path]) -> list[Sweep]:
    """Reads all points of these folders; if a point is in several, the last folder's counts.

    Raises ValueError that names a file which can't be read.
    """
    points: list[Point] = []
    for file in sweep_files(directories):
        rows = read_points(file)
        exact = {row.attention for row in rows if declared(row.attention).get("exact", False)}
        points = merge(points, rows, exact)
    shared = ("mode", "pattern", "num_heads", "head_dim", "dtype", "device")
    alike: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        alike.setdefault(tuple(getattr(point, name) for name in shared), []).append(point)
    by_sweep: dict[Sweep, list[Point]] = {}
    for group in alike.values():
        fixed_tokens = _fixed_tokens(group)
        for point in group:
            tokens = point.batch * point.length if fixed_tokens else None
            own = {name: getattr(point, name) for name in shared}
            sweep = Sweep(**own, batch=None if fixed_tokens else point.batch, tokens=tokens)
            by_sweep.setdefault(sweep, []).append(point)
    sweeps = []
    for sweep, found in by_sweep.items():
        counting = latest(sorted(found, key=lambda point: point.length))
        superseded = tuple(point for point in found if all(point is not other for other in counting))
        sweeps.append(sweep._replace(points=tuple(counting), superseded=superseded))
    return sweeps


def _fixed_tokens(points: Sequence[Point]) -> bool:
    """Returns whether batches have a fixed number of tokens: batch · length then takes fewer values than batch."""
    return len({point.batch * point.length for point in points}) < len({point.batch for point in points})


def time_table(sweep: Sweep) -> Table:
    """Returns the table of median times by length; their intervals are in the CSV file."""

    def as_words(point: Point) -> str:
        if point.seconds is None:
            return numbers.MISSING
        return numbers.duration(point.seconds)

    table = _by_length(sweep, "time", as_words, "seconds", "seconds_low", "seconds_high", "kernel", "status", "reason")
    what = "a token after a context of that length" if sweep.mode in BY_TOKEN else "a call"
    table.caption = sweep.timed_caption(f"median time of {what}")
    rounds = sorted({point.rounds for point in sweep.points if point.rounds})
    if rounds:
        table.notes.append(
            f"Medians of {rounds[0]}"
            + (f" to {rounds[-1]}" if rounds[-1] != rounds[0] else "")
            + " interleaved rounds; the bars in the figure and the CSV file give 95 % bootstrap intervals."
        )
    return table


def memory_table(sweep: Sweep) -> Table:
    """Returns the table of the memory that a call holds beyond parameters, inputs and state."""

    def as_words(point: Point) -> str:
        if point.peak_bytes is None or point.base_bytes is None or point.status != "completed":
            return numbers.MISSING
        return numbers.size(point.peak_bytes - point.base_bytes)

    table = _by_length(sweep, "memory", as_words, "base_bytes", "peak_bytes", "flops", "moved_bytes", "status")
    table.caption = sweep.caption("the most memory that a call holds beyond parameters, inputs and state")
    return table


def throughput_table(sweep: Sweep) -> Table:
    """Returns the table of tokens per second, for the modes that measure a whole model."""

    def rate(point: Point) -> float | None:
        tokens = point.batch * (1 if point.mode in BY_TOKEN else point.length)
        return None if point.seconds is None else tokens / point.seconds

    def as_words(point: Point) -> str:
        found = rate(point)
        return numbers.MISSING if found is None else numbers.significant(found)

    table = _by_length(sweep, "throughput", as_words, "batch")
    for value, point in zip(table.values, sweep.points, strict=True):
        value["tokens_per_second"] = rate(point)
    table.caption = sweep.timed_caption("tokens per second by length of the context")
    return table


def _by_length(sweep: Sweep, name: str, as_words: Callable[[Point], str], *columns: str) -> Table:
    lengths = sorted({point.length for point in sweep.points})
    rows, notes = [], []
    for attention in sweep.attentions:
        found = {point.length: point for point in sweep.of(attention)}
        if all(point.status == "unsupported" for point in found.values()):
            rows.append(Row(attention, message=f"not supported: {next(iter(found.values())).reason}"))
            continue
        printed = [Printed(as_words(found[length]) if length in found else numbers.MISSING) for length in lengths]
        rows.append(Row(attention, tuple(printed)))
        notes += _stopped(attention, found.values())
    values = [
        {"attention": point.attention, "length": point.length} | {column: getattr(point, column) for column in columns}
        for point in sweep.points
    ]
    headings = ["attention", *map(numbers.length, lengths)]
    return Table(f"{sweep.slug}-{name}", "", headings, rows, values, notes if name == "time" else [])


def _stopped(attention: str, points: Iterable[Point]) -> list[str]:
    """Returns a line for each reason why points are missing: the first such length, its status and the reason."""
    first: dict[str, Point] = {}
    for point in points:
        if point.status not in ("completed", "unsupported"):
            first.setdefault(point.status, point)
    return [
        f"{escape(attention)} at {numbers.length(point.length)}: {words(status)} ({escape(str(point.reason))})."
        for status, point in first.items()
    ]


def crossing_table(sweeps: Sequence[Sweep]) -> Table | None:
    """Returns the table of lengths from which on each attention is faster than each exact one."""
    exact = list(dict.fromkeys(a for sweep in sweeps for a in sweep.attentions if declared(a).get("exact", False)))
    rows, values = [], []
    apart: list[str] = []
    for sweep in sweeps:
        for attention in sweep.attentions:
            if attention in exact or declared(attention).get("control", False):
                continue
            found = {name: crossing(sweep.of(attention), sweep.beside(attention, name)) for name in exact}
            if not any(found.values()):
                continue
            apart += [f"{escape(attention)} and {escape(name)}" for name in exact if sweep.apart(attention, name)]
            label = f"{attention}: {words(sweep.pattern)}, {MODE_WORDS.get(sweep.mode, sweep.mode)}"
            several = len({other.conditions for other in sweeps}) > 1
            label = f"{label} ({sweep.conditions})" if several else label
            fitted = {name: fitted_length(sweep.of(attention), sweep.beside(attention, name)) for name in exact}
            as_words = [Printed(str(found[name] or numbers.MISSING)) for name in exact]
            rows.append(Row(label, (*as_words, *(Printed(numbers.count(fitted[name])) for name in exact))))
            for name, where in found.items():
                if where is not None:
                    row = {"attention": attention, "against": name, "pattern": sweep.pattern, "mode": sweep.mode}
                    values.append(row | where._asdict() | {"fitted": fitted[name]})
    if not rows:
        return None
    notes = [
        "An attention overtakes between two measured lengths: the last at which it is clearly slower, and the first from which on it "
        "is clearly faster (the intervals of the medians are apart). The number in front of them is interpolated between the two "
        "lengths at which the medians change places. The table says nothing of lengths beyond those measured.",
        "Fitted: the length at which a line through the attention's times meets a parabola through those of the exact one, from 512 to "
        "8,192 tokens: CAB's efficiency length (measured there without a causal mask, forward, against an unfused softmax). It has "
        "no interval and depends on the lengths measured, so use it only for a comparison with CAB's tables.",
    ]
    if apart:
        notes.append(
            f"Not timed in the same rounds, so the machine may have changed between them: {', '.join(dict.fromkeys(apart))}."
        )
    columns = ["attention", *(f"faster than {name}" for name in exact), *(f"fitted, {name}" for name in exact)]
    return Table(
        "efficiency-crossing",
        "From which length on an attention is faster.",
        columns,
        rows,
        values,
        notes,
        is_prose=True,
    )
