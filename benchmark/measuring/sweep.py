"""Time and memory of attentions by length: ``efficiency.csv``, one row a point.

How a point is measured (every attention of one pattern, mode and length together):

1. Predicted from shorter lengths; what would exceed its budget of time or memory isn't run, and its row says so.
2. The first call warms up; what it takes beyond the median is ``compile_seconds``.
3. Memory and floating-point operations are counted in calls of their own, because counting slows a call down.
4. Timed calls go round by round through all attentions, in an order drawn for each round, so that a machine that slows
   down for a while slows all of them.  ``seconds`` is the median over rounds, with its bootstrap interval.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmark.interface import UnsupportedPattern
from benchmark.measuring.clocks import record_clocks
from benchmark.measuring.memory import allocated_by, is_out_of_memory, keep_freed_memory
from benchmark.measuring.operations import count_operations
from benchmark.measuring.peaks import measure_peaks, write_peaks
from benchmark.measuring.points import BY_TOKEN, FILE_NAME, Point, merge, read_points, write_points
from benchmark.measuring.shape import Shape, Workload
from benchmark.measuring.workloads import MODES, build_workload
from benchmark.registry import check_options, check_pattern, load_attention
from benchmark.statistics import bootstrap_interval

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
_EXTRA_CALLS = 4  # the first, the one that counts memory, the one that counts operations, the one that sets repeats
_SAMPLE_SECONDS = 2e-3  # shorter calls are repeated, so that the clock and the loop around them don't count
_MOST_REPEATS = 100
_CACHE_BYTES = 1 << 28  # more than a GPU's second-level cache holds


@dataclass(frozen=True)
class Limits:
    """How often a point is timed, and what it may cost."""

    rounds: int
    budget_seconds: float  # of one point, all its calls together
    budget_bytes: int  # of one call
    deadline: float  # of the sweep, on the monotonic clock


@dataclass
class History:
    """What one attention took at shorter lengths, and why it is stopped, if it is."""

    seconds: list[tuple[int, float]] = field(default_factory=list)  # (length, one call)
    setup: list[tuple[int, float]] = field(default_factory=list)  # (length, building, and filling the state)
    increments: list[tuple[int, float]] = field(default_factory=list)  # (length, bytes beyond the base)
    stopped: tuple[str, str] | None = None  # status and reason of all longer lengths


class Ready(NamedTuple):
    """A point that is warm and counted, and waits for its timed rounds."""

    point: Point
    workload: Workload
    first_seconds: float
    repeats: int  # calls in one timed sample


def measure(
    attentions: Sequence[str],
    patterns: Sequence[str] = ("causal_self",),
    lengths: Sequence[int] = LENGTHS,
    modes: Sequence[str] = ("forward", "backward"),
    *,
    directory: Path | None = None,
    batch: int = 1,
    tokens: int | None = None,
    num_heads: int = 8,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    rounds: int = 7,
    budget_seconds: float = 10.0,
    budget_bytes: int | None = None,
    total_seconds: float | None = None,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Measures every point, shortest lengths first, and keeps ``directory/efficiency.csv`` up to date all the while.

    tokens           of a batch, which then is as large as the length leaves it; ``batch`` isn't read
    budget_seconds   what one point may take, all its calls together
    budget_bytes     what one call may hold; by default half of the memory that is free
    total_seconds    what the whole sweep may take; what doesn't fit into it any more gets a row that says so
    options          attention -> options of its own
    on_point         called with each row as soon as it is known

    Rows of the file that are none of these points stay in it.  Raises ValueError for a bad argument.
    """
    _check(patterns, lengths, modes, rounds)
    keep_freed_memory()
    device = torch.device(device)
    shape = Shape(batch, num_heads, head_dim, dtype, device, seed, dict(options or {}), tokens)
    budget_bytes = free_bytes(device) // 2 if budget_bytes is None else budget_bytes
    deadline = math.inf if total_seconds is None else time.monotonic() + total_seconds
    limits = Limits(rounds, budget_seconds, budget_bytes, deadline)
    path = None if directory is None else directory / FILE_NAME
    earlier = read_points(path) if path is not None and path.exists() else []
    histories: dict[tuple[str, str, str], History] = {}
    rows: list[Point] = []
    for length, recorded in _with_probes(lengths):
        for pattern in patterns:
            for mode in modes:
                points = [shape.point(mode, pattern, length, name) for name in attentions]
                group = measure_together(points, shape, limits, histories)
                if not recorded:
                    continue
                rows += group
                if path is not None:
                    write_points(path, merge(earlier, rows))
                    if device.type == "cuda":
                        record_clocks(path.parent, mode, pattern, length, device.index or 0)
                for point in group if on_point is not None else ():
                    on_point(point)  # type: ignore[misc]
    return rows


def short_sweep(attentions: Sequence[str], directory: Path, device: str | torch.device = "cpu") -> list[Point]:
    """The sweep of a quick run: about a minute, whatever the machine."""
    write_peaks(directory, measure_peaks(torch.device(device), torch.float32))
    return measure(attentions, directory=directory, device=device, rounds=5, budget_seconds=6.0, total_seconds=60.0)


def measure_to_file(
    directory: Path,
    *,
    attentions: Sequence[str],
    patterns: Sequence[str],
    lengths: Sequence[int],
    modes: Sequence[str],
    batch: int,
    tokens: int | None,
    num_heads: int,
    head_dim: int,
    dtype: str,
    rounds: int,
    budget_seconds: float,
    device: str,
    options: Mapping[str, Mapping[str, Any]],
    say: Callable[[str], None],
) -> Path:
    """The sweep of the command line, and the peaks of the machine beside it; a line for each point as it comes.

    Gives the path of the table.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: unknown; allowed: {', '.join(DTYPES)}")
    for name, own in options.items():
        check_options(name, load_attention(name), own)
    _check(patterns, lengths, modes, rounds)
    peaks = measure_peaks(torch.device(device), DTYPES[dtype])
    write_peaks(directory, peaks)
    say(f"peak of this machine: {peaks.flops_per_second / 1e9:.4g} GFLOP/s, {peaks.bytes_per_second / 1e9:.4g} GB/s")
    measure(
        attentions,
        patterns,
        lengths,
        modes,
        directory=directory,
        batch=batch,
        tokens=tokens,
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=DTYPES[dtype],
        device=device,
        rounds=rounds,
        budget_seconds=budget_seconds,
        options=options,
        on_point=lambda point: say(_line(point)),
    )
    return directory / FILE_NAME


def _line(point: Point) -> str:
    where = f"{point.pattern} {point.mode} {point.length} {point.attention}"
    if point.seconds is None:
        return f"{where}: {point.status}: {point.reason}"
    return f"{where}: {1e3 * point.seconds:.4g} ms, {(point.peak_bytes or 0) / 2**20:.4g} MiB"


def parse_lengths(text: str) -> list[int]:
    """``256:2048`` in powers of two, both ends included, or ``100,1000``.  Raises ValueError with what is allowed."""
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


def _check(patterns: Sequence[str], lengths: Sequence[int], modes: Sequence[str], rounds: int) -> None:
    for pattern in patterns:
        check_pattern(pattern)
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: unknown; allowed: {', '.join(MODES)}")
    if not lengths or any(length < 1 for length in lengths):
        raise ValueError(f"lengths {list(lengths)!r}: at least one, each of them at least 1")
    if rounds < 5:
        raise ValueError(f"rounds {rounds}: at least 5, for a median with an interval")


def _with_probes(lengths: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Lengths, shortest first, and whether they are recorded.

    A sweep that begins with a long length is preceded by short ones, so that no long call is made without a prediction.
    """
    ordered = sorted(set(lengths))
    yield from ((probe, False) for probe in (128, 512) if 2 * probe < ordered[0])
    yield from ((length, True) for length in ordered)


def measure_together(
    points: Sequence[Point], shape: Shape, limits: Limits, histories: dict[tuple[str, str, str], History]
) -> list[Point]:
    """The rows of these points: all attentions at one pattern, mode and length."""
    finished: dict[str, Point] = {}
    ready: dict[str, Ready] = {}
    for point in points:
        history = histories.setdefault((point.mode, point.pattern, point.attention), History())
        outcome = refusal(point, limits, history) or prepare(point, shape, limits, history)
        if isinstance(outcome, Ready):
            ready[point.attention] = outcome
        else:
            finished[point.attention] = outcome
    for name, samples in _timed_rounds(ready, shape, limits.rounds).items():
        point = ready[name].point
        history = histories[point.mode, point.pattern, name]
        if isinstance(samples, Exception):
            finished[name] = _ended(point, history, samples)
        else:
            finished[name] = _timed(ready[name], samples, shape.seed)
            history.seconds.append((point.length, float(np.median(samples))))
    return [finished[point.attention] for point in points]


def refusal(point: Point, limits: Limits, history: History) -> Point | None:
    """The row of a point that isn't even tried; None for one that may be."""
    if history.stopped is None:
        seconds = predict(history.seconds, point.length) * (limits.rounds + _EXTRA_CALLS)
        seconds += predict(history.setup, point.length)
        held = predict(history.increments, point.length)
        if time.monotonic() + seconds > limits.deadline:
            return point._replace(status="over_budget", reason="the time of the whole sweep is used up")
        if seconds > limits.budget_seconds:
            reason = f"by shorter lengths it would take {seconds:.3g} s; a point may take {limits.budget_seconds:g} s"
            history.stopped = ("over_budget", reason)
        elif held > limits.budget_bytes:
            reason = f"by shorter lengths it would hold {_gib(held)}; a call may hold {_gib(limits.budget_bytes)}"
            history.stopped = ("over_budget", reason)
    if history.stopped is not None:
        status, reason = history.stopped
        return point._replace(status=status, reason=reason)
    return None


def predict(history: Sequence[tuple[int, float]], length: int) -> float:
    """What this length will take, by the power law through the last two; after one alone, by quadratic growth.

    The power is held between 1 and 3: the overheads of short lengths must not promise that longer ones are free.
    """
    if not history:
        return 0.0
    last_length, last = history[-1]
    power = 2.0
    if len(history) > 1:
        before_length, before = history[-2]
        if before > 0 and last > 0:
            power = math.log(last / before) / math.log(last_length / before_length)
    return last * (length / last_length) ** min(max(power, 1.0), 3.0)


def prepare(point: Point, shape: Shape, limits: Limits, history: History) -> Ready | Point:
    """Builds and warms up, counts memory and operations.  A row where it ends there."""
    try:
        started = time.perf_counter()
        workload = build_workload(shape, point)
        setup = time.perf_counter() - started
        first = call_seconds(workload, 1, shape.device)
        steady = first
        if setup + first * (limits.rounds + _EXTRA_CALLS) > limits.budget_seconds:
            steady = call_seconds(workload, 1, shape.device)  # the first one may have compiled
        seconds = setup + steady * (limits.rounds + _EXTRA_CALLS)
        if seconds > limits.budget_seconds:
            reason = f"by its first calls it would take {seconds:.3g} s; a point may take {limits.budget_seconds:g} s"
            history.stopped = ("over_budget", reason)
            return point._replace(status="over_budget", reason=reason, kernel=workload.kernel())
        history.setup.append((point.length, setup))
        point = counted(point, workload, shape.device)
        held = (point.peak_bytes or 0) - (point.base_bytes or 0)
        history.increments.append((point.length, held))
        if held > limits.budget_bytes:
            reason = f"it holds {_gib(held)}; a call may hold {_gib(limits.budget_bytes)}"
            history.stopped = ("over_budget", reason)
            return point._replace(status="over_budget", reason=reason)
        return Ready(point, workload, first, _repeats(call_seconds(workload, 1, shape.device), point, limits.rounds))
    except Exception as error:  # a stranger's attention may raise anything, and the sweep goes on
        return _ended(point, history, error)


def _ended(point: Point, history: History, error: Exception) -> Point:
    """The row of a point that raised."""
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
    """The point with its kernel, memory, operations and least traffic."""
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
    """Calls in one sample; a context that is being decoded grows by an eighth at most in all rounds together.

    One on a GPU, whose events are fine enough and whose cache a second call would find warm.
    """
    if point.device != "cpu":
        return 1
    repeats = min(max(math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9)), 1), _MOST_REPEATS)
    return min(repeats, max(1, point.length // (8 * rounds))) if point.mode in BY_TOKEN else repeats


def _timed_rounds(ready: Mapping[str, Ready], shape: Shape, rounds: int) -> dict[str, list[float] | Exception]:
    """Seconds of a call by round, for every attention; the exception instead where one raises."""
    generator = np.random.default_rng(shape.seed)
    samples: dict[str, list[float]] = {name: [] for name in ready}
    errors: dict[str, Exception] = {}
    cache = torch.empty(_CACHE_BYTES if shape.device.type == "cuda" else 0, dtype=torch.int8, device=shape.device)
    with _no_collection():
        for _ in range(rounds):
            for name in generator.permutation(sorted(samples.keys() - errors.keys())):
                cache.zero_()  # what the last call left there must not serve this one
                try:
                    samples[name].append(call_seconds(ready[name].workload, ready[name].repeats, shape.device))
                except Exception as error:  # as in prepare()
                    errors[name] = error
    return {**samples, **errors}


def call_seconds(workload: Workload, repeats: int, device: torch.device) -> float:
    """Seconds of one call, the mean of ``repeats`` in a row; a GPU is timed by its own events."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(repeats):
            workload.call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats
    started = time.perf_counter()
    for _ in range(repeats):
        workload.call()
    return (time.perf_counter() - started) / repeats


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector stays out of the timed calls."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timed(ready: Ready, samples: Sequence[float], seed: int) -> Point:
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


def free_bytes(device: torch.device) -> int:
    """Memory that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _gib(count: float) -> str:
    return f"{count / 2**30:.3g} GiB"
