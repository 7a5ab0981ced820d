"""The load of the machine while a point is timed, and the rule by which a point counts as disturbed.

The report reads it, so this file does not import torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmark.measuring.points import Point

LEAST_SHARE = (
    0.9  # CPU seconds of the process per second of the clock; a process that is never kept waiting has 1 or more
)
MOST_WAITING = 0.5  # by how much the load average may exceed the number of cores

RULE = (
    f"the process had less than {LEAST_SHARE:g} s of CPU time in a second, or the load average exceeded the number of cores by more "
    f"than {MOST_WAITING:g}"
)


@dataclass
class Section:
    """Adds up the CPU time of this process, with all its threads, and the time of the clock, over all uses of its block."""

    cpu_seconds: float = 0.0
    clock_seconds: float = 0.0

    def __enter__(self) -> None:
        self._started = time.process_time(), time.perf_counter()

    def __exit__(self, *_error: Any) -> None:
        cpu, clock = self._started
        self.cpu_seconds += time.process_time() - cpu
        self.clock_seconds += time.perf_counter() - clock

    @property
    def cpu_share(self) -> float | None:
        """CPU seconds per second of the clock, or None if nothing has run in the block."""
        return self.cpu_seconds / self.clock_seconds if self.clock_seconds > 0 else None


def load_average() -> float | None:
    """Returns the number of threads that ran or waited for a core, averaged over the last minute; None if it is unknown."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def is_disturbed(point: Point) -> bool:
    """Returns whether other work took so much of the machine that the point's time can't be relied on (see RULE).

    On a GPU the load average alone counts, because the process has nothing to do while the GPU works.  A point without
    recorded load is not called disturbed.
    """
    kept_waiting = point.device == "cpu" and point.cpu_share is not None and point.cpu_share < LEAST_SHARE
    known = point.load_average is not None and point.cores is not None
    crowded = known and (point.load_average or 0) > (point.cores or 0) + MOST_WAITING
    return kept_waiting or crowded


def disturbance(points: Iterable[Point]) -> str | None:
    """Returns a sentence that says how many of the timed points were disturbed, and the rule; None if none was."""
    timed = [point for point in points if point.seconds is not None]
    count = sum(map(is_disturbed, timed))
    if not count:
        return None
    return f"Disturbed: {count} of {len(timed)} points were timed beside other work ({RULE})."
