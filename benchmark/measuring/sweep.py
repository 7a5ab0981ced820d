"""Time and memory of attentions by length: ``efficiency.csv``, with one row for each point.

A point is one attention in one mode, at one pattern and one length.  The points of all attentions at the same mode, pattern
and length are measured together:

1. Its cost is predicted from shorter lengths.  A point that would exceed its budget of time or memory is not run, and its
   row says so.
2. The first call warms up.  Its time beyond the median of later calls is ``compile_seconds``.
3. Memory and floating-point operations are counted in separate calls, because counting slows a call down.
4. In each round every attention is timed once, in a random order, so that a machine that is slow for a while slows all of
   them alike.  ``seconds`` is the median over rounds, with its bootstrap interval.
5. The load of the machine is recorded with each point, and on what else its time depends (``identity.py``).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmark.interface import PATTERNS, UnsupportedPattern
from benchmark.measuring.clocks import record_clocks
from benchmark.measuring.identity import identified
from benchmark.measuring.limits import History, Limits, add_earlier, free_bytes, row_without_trying
from benchmark.measuring.load import Section, disturbance, load_average
from benchmark.measuring.memory import allocated_by, is_out_of_memory, keep_freed_memory
from benchmark.measuring.missing import Missing, exact_attentions, in_words, missing_points
from benchmark.measuring.operations import count_operations
from benchmark.measuring.peaks import measure_peaks, write_peaks
from benchmark.measuring.points import BY_TOKEN, FILE_NAME, Point, add_points, key_of, latest, read_points
from benchmark.measuring.shape import Shape, Workload
from benchmark.measuring.timing import CPU, cache_emptier, call_seconds, interleaved, no_collection, now
from benchmark.measuring.workloads import MODES, build_workload
from benchmark.registry import check_pattern
from benchmark.statistics import bootstrap_interval

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
# A shorter call is repeated until a sample takes this long, so that the time of the clock and of the loop is negligible.
_SAMPLE_SECONDS = 2e-3
_MOST_REPEATS = 100


@dataclass(frozen=True)
class Grid:
    """The points to measure: every combination of these values.

    Raises ValueError for an unknown pattern or mode, for no length, and for a length below 1.
    """

    attentions: Sequence[str]
    patterns: Sequence[str] = ("causal_self",)
    lengths: Sequence[int] = LENGTHS
    modes: Sequence[str] = ("forward", "backward")

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            check_pattern(pattern)
        for mode in self.modes:
            if mode not in MODES:
                raise ValueError(f"mode {mode!r}: unknown; allowed: {', '.join(MODES)}")
        if not self.lengths or any(length < 1 for length in self.lengths):
            raise ValueError(f"lengths {list(self.lengths)!r}: at least one, each of them at least 1")

    def places(self) -> Iterator[tuple[str, str, int]]:
        """Yields (pattern, mode, length), shortest lengths first."""
        for length in sorted(set(self.lengths)):
            yield from ((pattern, mode, length) for pattern in self.patterns for mode in self.modes)


class Ready(NamedTuple):
    """A point whose call is warmed up, with memory and operations counted.  Only its timed rounds are still missing."""

    point: Point
    workload: Workload
    first_seconds: float  # of the first call, which may compile
    repeats: int  # the number of calls in one timed sample


def measure(
    grid: Grid,
    shape: Shape,
    limits: Limits,
    *,
    directory: Path | None = None,
    only_missing: bool = False,
    on_point: Callable[[Point], None] = lambda _: None,
) -> list[Point]:
    """Measures every point, shortest lengths first, and returns the rows.

    directory: if given, the rows are also written to ``efficiency.csv`` there, as soon as they are known.  Rows of other
    points in this file are kept.
    only_missing: measures only the points that have no row in this file, or a stale one, and with them the exact attentions.
    on_point: called with each row as soon as it is known.
    """
    keep_freed_memory()
    if limits.budget_bytes is None:
        limits = replace(limits, budget_bytes=free_bytes(shape.device) // 2)
    path = None if directory is None else directory / FILE_NAME
    earlier = read_points(path) if path is not None and path.exists() else []
    wanted: dict[tuple[str, str, int], Missing] = {}
    if only_missing:
        missing = missing_points(grid.attentions, grid.places(), shape, limits, earlier)
        wanted = {(one.pattern, one.mode, one.length): one for one in missing}
    histories: dict[tuple[str, str, str], History] = {}
    rows: list[Point] = []
    for length, recorded in _with_probes(grid.lengths):
        for pattern in grid.patterns:
            for mode in grid.modes:
                names: Sequence[str] = grid.attentions
                if only_missing:
                    here = wanted.get((pattern, mode, length))
                    names = _of_all(wanted, pattern, mode) if not recorded else here.attentions if here else ()
                points = [shape.point(mode, pattern, length, name) for name in names]
                if only_missing:
                    unknown = _use_earlier(histories, points, earlier, length if recorded else min(grid.lengths))
                    points = points if recorded else unknown
                if not points:
                    continue
                group = measure_together(points, shape, limits, histories)
                if not recorded:
                    continue
                if only_missing:
                    group = [row for row in group if _is_news(row, wanted[pattern, mode, length], earlier)]
                rows += group
                if path is not None:
                    add_points(path, group, exact_attentions())
                    if shape.device.type == "cuda":
                        record_clocks(path.parent, mode, pattern, length, shape.device.index or 0)
                for point in group:
                    on_point(point)
    return rows


def _of_all(wanted: Mapping[tuple[str, str, int], Missing], pattern: str, mode: str) -> list[str]:
    """Returns the attentions that are measured at any length of this pattern and mode."""
    names = (name for one in wanted.values() if (one.pattern, one.mode) == (pattern, mode) for name in one.attentions)
    return list(dict.fromkeys(names))


def _is_news(row: Point, missing: Missing, earlier: Sequence[Point]) -> bool:
    """Returns whether the row belongs into the table.

    That of an exact attention which was only to be measured beside others, and could not be, must not replace one with a time.
    """
    if row.seconds is not None or row.attention in missing.wanted:
        return True
    return all(key_of(other) != key_of(row) or other.seconds is None for other in earlier)


def _use_earlier(
    histories: dict[tuple[str, str, str], History], points: Sequence[Point], earlier: Sequence[Point], length: int
) -> list[Point]:
    """Adds what earlier rows say about lengths below ``length`` to the histories of these points.

    Returns the points about whose time they say nothing.
    """
    unknown = []
    for point in points:
        history = histories.setdefault(_history_key(point), History())
        shared = key_of(point._replace(length=0, batch=0))
        rows = [row for row in latest(earlier) if key_of(row._replace(length=0, batch=0)) == shared]
        add_earlier(history, rows, length)
        if all(row.seconds is None or row.length >= length for row in rows):
            unknown.append(point)
    return unknown


SHORT = Limits(rounds=5, budget_seconds=6.0)
SHORT_LENGTHS = (*LENGTHS, 16384)
SHORT_MODES = ("forward", "backward", "decode")
SHORT_SECONDS = 120.0  # of the whole sweep; the next one continues with what is missing


def short_sweep(
    attentions: Sequence[str], directory: Path, device: str, say: Callable[[str], None] = lambda _: None
) -> list[Point]:
    """Runs the sweep of ``lavo-bench run --report``, and returns its rows.  It takes two minutes at most on any machine.

    It measures what ``efficiency.csv`` in this folder lacks: points of these attentions in every pattern, and stale ones.
    say: called with lines of text that say what is measured; not called if nothing is missing.
    """
    shape = Shape(device=torch.device(device))
    grid = Grid(attentions, PATTERNS, SHORT_LENGTHS, SHORT_MODES)
    path = directory / FILE_NAME
    earlier = read_points(path) if path.exists() else []
    missing = missing_points(attentions, grid.places(), shape, SHORT, earlier)
    if not missing:
        return []
    for line in in_words(missing):
        say(f"efficiency of {line}")
    write_peaks(directory, measure_peaks(shape.device, torch.float32))
    limits = replace(SHORT, deadline=time.monotonic() + SHORT_SECONDS)
    return measure(grid, shape, limits, directory=directory, only_missing=True)


def measure_to_file(
    directory: Path,
    grid: Grid,
    shape: Shape,
    limits: Limits,
    say: Callable[[str], None],
    *,
    only_missing: bool = False,
) -> Path:
    """Runs the sweep of the command line: measures the peaks of the machine, then every point, or the missing ones.

    say: called with a line of text for each result.  Returns the path of the table.
    """
    peaks = measure_peaks(shape.device, shape.dtype)
    write_peaks(directory, peaks)
    say(f"peak of this machine: {peaks.flops_per_second / 1e9:.4g} GFLOP/s, {peaks.bytes_per_second / 1e9:.4g} GB/s")
    rows = measure(
        grid, shape, limits, directory=directory, only_missing=only_missing, on_point=lambda point: say(_line(point))
    )
    disturbed = disturbance(rows)
    if disturbed is not None:
        say(disturbed)
    return directory / FILE_NAME


def _line(point: Point) -> str:
    where = f"{point.pattern} {point.mode} {point.length} {point.attention}"
    if point.seconds is None:
        return f"{where}: {point.status}: {point.reason}"
    return f"{where}: {1e3 * point.seconds:.4g} ms, {(point.peak_bytes or 0) / 2**20:.4g} MiB"


def parse_lengths(text: str) -> list[int]:
    """Returns the lengths that the text names: ``100,1000`` as they stand, ``256:2048`` by doubling, both ends included.

    Raises a ValueError that says what is allowed.
    """
    try:
        if ":" not in text:
            return [int(part) for part in text.split(",")]
        low, high = (int(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"lengths {text!r}: must be FROM:TO, as 256:8192, or lengths as 256,1000") from None
    if not 1 <= low <= high:
        raise ValueError(f"lengths {text!r}: FROM must be at least 1 and at most TO")
    lengths = [low]
    while 2 * lengths[-1] <= high:
        lengths.append(2 * lengths[-1])
    return lengths


def parse_dtype(text: str) -> torch.dtype:
    """Returns the dtype of this name.  Raises a ValueError that says what is allowed."""
    if text not in DTYPES:
        raise ValueError(f"dtype {text!r}: unknown; allowed: {', '.join(DTYPES)}")
    return DTYPES[text]


def _with_probes(lengths: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Yields the lengths, shortest first, each with whether its rows are recorded.

    If the shortest length is long, two short probes come before it, so that its cost can be predicted.  Probes are not
    recorded.
    """
    ordered = sorted(set(lengths))
    yield from ((probe, False) for probe in (128, 512) if 2 * probe < ordered[0])
    yield from ((length, True) for length in ordered)


def measure_together(
    points: Sequence[Point], shape: Shape, limits: Limits, histories: dict[tuple[str, str, str], History]
) -> list[Point]:
    """Measures these points, which have the same pattern, mode and length, and returns their rows.

    histories: by (mode, pattern, attention); updated with the new measurements.
    """
    together = secrets.token_hex(4)
    points = [identified(point, shape)._replace(together=together) for point in points]
    finished: dict[str, Point] = {}
    ready: dict[str, Ready] = {}
    for point in points:
        history = histories.setdefault(_history_key(point), History())
        outcome = row_without_trying(point, limits, history) or prepare(point, shape, limits, history)
        if isinstance(outcome, Ready):
            ready[point.attention] = outcome
        else:
            finished[point.attention] = outcome
    before = load_average()
    sections = {name: Section() for name in ready}
    for name, samples in _timed_rounds(ready, shape, limits.rounds, sections).items():
        point = ready[name].point
        history = histories[_history_key(point)]
        if isinstance(samples, Exception):
            finished[name] = _ended(point, history, samples)
        else:
            row = _timed(ready[name], samples, shape.seed)
            finished[name] = row._replace(cpu_share=sections[name].cpu_share, load_average=before)
            history.seconds.append((point.length, float(np.median(samples))))
    return [finished[point.attention] for point in points]


def _history_key(point: Point) -> tuple[str, str, str]:
    return point.mode, point.pattern, point.attention


def prepare(point: Point, shape: Shape, limits: Limits, history: History) -> Ready | Point:
    """Builds the workload, warms it up, and counts memory and operations.

    Returns the finished row instead if the point is too costly or raises.
    """
    try:
        started = now(CPU)
        workload = build_workload(shape, point)
        setup = now(CPU) - started
        first = call_seconds(workload.call, shape.device)
        steady = first
        if setup + first * limits.num_calls > limits.budget_seconds:
            # The first call may have taken longer because it compiled.
            steady = call_seconds(workload.call, shape.device)
        fault = limits.time_fault(setup + steady * limits.num_calls, "judging by its first calls, it would take")
        if fault is not None:
            history.stopped = ("over_budget", fault)
            return point._replace(status="over_budget", reason=fault, kernel=workload.kernel())
        history.setup.append((point.length, setup))
        point = counted(point, workload, shape.device)
        held = (point.peak_bytes or 0) - (point.base_bytes or 0)
        history.increments.append((point.length, held))
        fault = limits.memory_fault(held, "a call holds")
        if fault is not None:
            history.stopped = ("over_budget", fault)
            return point._replace(status="over_budget", reason=fault)
        return Ready(point, workload, first, _repeats(call_seconds(workload.call, shape.device), point, limits.rounds))
    except Exception as error:  # an attention from outside this project may raise anything, and the sweep must go on
        return _ended(point, history, error)


def _ended(point: Point, history: History, error: Exception) -> Point:
    """Returns the row of a point whose call raised ``error``; stops longer lengths if they cannot succeed either."""
    if isinstance(error, UnsupportedPattern):
        history.stopped = ("unsupported", str(error))
        return point._replace(status="unsupported", reason=str(error))
    lines = str(error).splitlines() or ["no message"]
    reason = f"{type(error).__name__}: {lines[0]}"
    if not is_out_of_memory(error):
        return point._replace(status="failed", reason=reason)
    history.stopped = ("out_of_memory", f"already out of memory at length {point.length}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return point._replace(status="out_of_memory", reason=reason)


def counted(point: Point, workload: Workload, device: torch.device) -> Point:
    """Returns the point with its kernel, bytes and operations filled in."""
    base = workload.base_bytes()
    increment = allocated_by(workload.call, device)
    return point._replace(
        kernel=workload.kernel(),
        base_bytes=base,
        peak_bytes=base + increment,
        flops=count_operations(workload.call),
        moved_bytes=workload.moved_bytes(),
    )


def _repeats(seconds: float, point: Point, rounds: int) -> int:
    """Returns the number of calls in one timed sample.  seconds: of one call.

    On a GPU it is one, because events are precise enough for a short call, and a second call would find the data of the
    first one in the cache.
    In modes of one token every call lengthens the context, so the number is limited: all rounds together lengthen it by an
    eighth at most.
    """
    if point.device != "cpu":
        return 1
    repeats = min(max(math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9)), 1), _MOST_REPEATS)
    return min(repeats, max(1, point.length // (8 * rounds))) if point.mode in BY_TOKEN else repeats


def _timed_rounds(
    ready: Mapping[str, Ready], shape: Shape, rounds: int, sections: Mapping[str, Section]
) -> dict[str, list[float] | Exception]:
    """Returns for each attention the seconds of a call in every round, or the exception if a call raised one.

    sections: add up the CPU time and the time of the clock of each attention's calls.
    """
    errors: dict[str, Exception] = {}
    empty_cache = cache_emptier(shape.device)

    def sample(name: str) -> float:
        if name in errors:
            return math.nan
        empty_cache()
        try:
            with sections[name]:
                return call_seconds(ready[name].workload.call, shape.device, repeats=ready[name].repeats)
        except Exception as error:  # as in prepare()
            errors[name] = error
            return math.nan

    with no_collection():
        samplers = {name: partial(sample, name) for name in ready}
        samples = interleaved(samplers, range(rounds), generator=np.random.default_rng(shape.seed))
    return {**samples, **errors}


def _timed(ready: Ready, samples: Sequence[float], seed: int) -> Point:
    """Returns the row of a point from its samples, the seconds of a call in every round."""
    median = float(np.median(samples))
    low, high = bootstrap_interval(samples, seed=seed)
    return ready.point._replace(
        kernel=ready.workload.kernel(),
        rounds=len(samples),
        seconds=median,
        seconds_low=low,
        seconds_high=high,
        compile_seconds=max(0.0, ready.first_seconds - median),
    )
