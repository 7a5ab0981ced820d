"""What a point of a sweep may cost, and a prediction of its cost from shorter lengths.

A point is one attention in one mode, at one pattern and one length: a row of the table of results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmark.measuring.points import Point

DEADLINE_WORDS = "it would end after the deadline of the whole sweep"  # the end of a reason
EXTRA_CALLS = 4  # calls that are not timed rounds: to warm up, count memory, count operations, and choose the repeats


@dataclass(frozen=True)
class Limits:
    """How often a point is timed, and what it may cost.  Raises ValueError for fewer than five rounds.

    rounds: the number of timed rounds.
    budget_seconds: the time that one point may take, with all its calls.
    budget_bytes: the memory that one call may hold on top of parameters, buffers, inputs and state.  None is no limit here;
    ``sweep.measure`` replaces None by half of the memory that is free when the sweep begins.
    deadline: the time at which the whole sweep must be finished, on the clock ``time.monotonic``.
    """

    rounds: int = 7
    budget_seconds: float = 10.0
    budget_bytes: int | None = None
    deadline: float = math.inf

    def __post_init__(self) -> None:
        if self.rounds < 5:
            raise ValueError(
                f"rounds {self.rounds}: must be at least 5, because fewer give no confidence interval of the median"
            )

    @property
    def num_calls(self) -> int:
        """The number of calls of one point, timed or not."""
        return self.rounds + EXTRA_CALLS

    def time_fault(self, seconds: float, opening: str) -> str | None:
        """Returns a sentence that begins with ``opening`` and says that ``seconds`` exceeds the budget.

        Returns None if it does not exceed it.
        """
        if seconds <= self.budget_seconds:
            return None
        return f"{opening} {seconds:.3g} s; {self.time_words}"

    @property
    def time_words(self) -> str:
        """The words that name the limit of time, at the end of a reason."""
        return f"the limit for a point is {self.budget_seconds:g} s"

    def memory_fault(self, held: float, opening: str) -> str | None:
        """Returns the same about the bytes that a call holds, ``held``."""
        if self.budget_bytes is None or held <= self.budget_bytes:
            return None
        return f"{opening} {_gib(held)}; the limit for a call is {_gib(self.budget_bytes)}"


@dataclass
class History:
    """What one attention cost at shorter lengths, in one mode and pattern.

    seconds: (length, seconds of one call).
    setup: (length, seconds to build the module and fill its state).
    increments: (length, bytes that a call holds on top of ``Workload.base_bytes``).
    stopped: the status and the reason that all longer lengths get; None while the attention is still measured.
    """

    seconds: list[tuple[int, float]] = field(default_factory=list)
    setup: list[tuple[int, float]] = field(default_factory=list)
    increments: list[tuple[int, float]] = field(default_factory=list)
    stopped: tuple[str, str] | None = None


def add_earlier(history: History, rows: Sequence[Point], length: int) -> None:
    """Adds what rows of an earlier sweep, of the same attention, mode and pattern, say about lengths below ``length``."""
    for costs, cost_of in ((history.seconds, _seconds), (history.increments, _increment)):
        known = {measured for measured, _ in costs}
        for row in rows:
            cost = cost_of(row)
            if cost is not None and row.length < length and row.length not in known:
                costs.append((row.length, cost))
                known.add(row.length)
        costs.sort()
    full = [row.length for row in rows if row.status == "out_of_memory" and row.length < length]
    if full and history.stopped is None:
        history.stopped = ("out_of_memory", f"already out of memory at length {min(full)}")


def _seconds(row: Point) -> float | None:
    return row.seconds


def _increment(row: Point) -> float | None:
    return None if row.peak_bytes is None or row.base_bytes is None else row.peak_bytes - row.base_bytes


def row_without_trying(point: Point, limits: Limits, history: History) -> Point | None:
    """Returns the finished row if the point must be skipped, or None if it should be measured.

    A point is skipped if its attention was stopped at a shorter length, or if shorter lengths predict that it is too costly.
    If the prediction exceeds the budget of a point, all longer lengths of this attention are skipped, too.
    """
    if history.stopped is None:
        seconds = predict(history.seconds, point.length) * limits.num_calls + predict(history.setup, point.length)
        held = predict(history.increments, point.length)
        if time.monotonic() + seconds > limits.deadline:
            reason = f"judging by shorter lengths, {DEADLINE_WORDS}"
            return point._replace(status="over_budget", reason=reason)
        fault = limits.time_fault(seconds, "judging by shorter lengths, it would take")
        fault = fault or limits.memory_fault(held, "judging by shorter lengths, it would hold")
        if fault is not None:
            history.stopped = ("over_budget", fault)
    if history.stopped is None:
        return None
    status, reason = history.stopped
    return point._replace(status=status, reason=reason)


def predict(history: Sequence[tuple[int, float]], length: int) -> float:
    """Extrapolates to ``length`` with the power law through the last two measured lengths.

    history: (length, cost), shortest length first.  With only one length, growth is assumed to be quadratic.  Returns 0 if
    there is none.
    The power is limited to the range from 1 to 3.  A power below 1 only means that the cost of short lengths is mostly
    overhead.  Known attentions grow at most quadratically, so a power above 3 comes from a disturbed measurement.
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


def free_bytes(device: torch.device) -> int:
    """Returns the bytes of memory that are free now on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _gib(count: float) -> str:
    return f"{count / 2**30:.3g} GiB"
