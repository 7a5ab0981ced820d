"""What a point of a sweep may cost, and what it will cost by the lengths that were measured before it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmark.measuring.points import Point

EXTRA_CALLS = 4  # besides the timed ones: warming up, counting memory, counting operations, choosing the repeats


@dataclass(frozen=True)
class Limits:
    """How often a point is timed, and what it may cost.  Raises ValueError for fewer than five rounds."""

    rounds: int = 7
    budget_seconds: float = 10.0  # of one point, all its calls together
    budget_bytes: int | None = None  # of one call; None: half of the memory that is free when the sweep begins
    deadline: float = math.inf  # of the whole sweep, on the monotonic clock

    def __post_init__(self) -> None:
        if self.rounds < 5:
            raise ValueError(f"rounds {self.rounds}: at least 5, for a median with an interval")

    @property
    def num_calls(self) -> int:
        """Calls of one point, the timed ones and all others."""
        return self.rounds + EXTRA_CALLS

    def time_fault(self, seconds: float, opening: str) -> str | None:
        """Why a point that takes so long is not measured, in a sentence with this opening; None where it is within the budget."""
        if seconds <= self.budget_seconds:
            return None
        return f"{opening} {seconds:.3g} s; a point may take {self.budget_seconds:g} s"

    def memory_fault(self, held: float, opening: str) -> str | None:
        """The same for a point whose call holds so many bytes."""
        if self.budget_bytes is None or held <= self.budget_bytes:
            return None
        return f"{opening} {_gib(held)}; a call may hold {_gib(self.budget_bytes)}"


@dataclass
class History:
    """What one attention took at shorter lengths, and why it was stopped, if it was."""

    seconds: list[tuple[int, float]] = field(default_factory=list)  # (length, one call)
    setup: list[tuple[int, float]] = field(default_factory=list)  # (length, building, and filling the state)
    increments: list[tuple[int, float]] = field(default_factory=list)  # (length, bytes beyond the base)
    stopped: tuple[str, str] | None = None  # status and reason of all longer lengths


def row_without_trying(point: Point, limits: Limits, history: History) -> Point | None:
    """The row of a point that is not measured, since shorter lengths say it can't be; None for one that is.

    A prediction beyond the budget also stops all longer lengths of this attention.
    """
    if history.stopped is None:
        seconds = predict(history.seconds, point.length) * limits.num_calls + predict(history.setup, point.length)
        held = predict(history.increments, point.length)
        if time.monotonic() + seconds > limits.deadline:
            return point._replace(status="over_budget", reason="the time of the whole sweep is used up")
        reason = limits.time_fault(seconds, "by shorter lengths it would take")
        reason = reason or limits.memory_fault(held, "by shorter lengths it would hold")
        if reason is not None:
            history.stopped = ("over_budget", reason)
    if history.stopped is None:
        return None
    status, reason = history.stopped
    return point._replace(status=status, reason=reason)


def predict(history: Sequence[tuple[int, float]], length: int) -> float:
    """What this length will take: by the power law through the last two lengths, after a single one by quadratic growth.

    The power is held between 1 and 3.  Below 1 it would only mean that short lengths are mostly overhead.
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
    """Memory that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _gib(count: float) -> str:
    return f"{count / 2**30:.3g} GiB"
