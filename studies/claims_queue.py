"""Simulates workers that claim cells from one folder, with failures (benchmark/running/claims.py): the model of ``studies.cluster``.

A worker that is free takes the first unclaimed cell.  It trains it to the end, unless its machine fails or is preempted.  Then what it did since the
last checkpoint is lost; the claim expires after the lease, and any free worker continues the cell.  The lost worker is
replaced after a while.  Failures are exponential, so how long a worker has lived says nothing about the next failure.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Job(NamedTuple):
    """A cell.  All times are in seconds.

    seconds      of training and evaluation, if nothing fails
    checkpoint   between two checkpoints; infinite if there are none
    """

    seconds: float
    checkpoint: float = math.inf


class Machines(NamedTuple):
    """What the workers run on.  All times are in seconds.

    workers      number of workers, one on each GPU
    failures     mean time between failures of one worker's machine, and between preemptions, each with the time until the worker is replaced
    start        from the start of a worker to its first claim: imports, planning
    setup        from a claim to the first step: data, model, compilation; also when a cell is continued
    lease        until a lost worker's claim has expired
    """

    workers: int
    failures: Sequence[tuple[float, float]] = ()
    start: float = 0.0
    setup: float = 0.0
    lease: float = 0.0


class Outcome(NamedTuple):
    """What a simulated run took.  All times are in seconds."""

    wall: float
    reruns: int  # attempts at cells beyond the first
    lost: float  # work that was done twice, setups included
    down: float  # of all workers together, in which they were being replaced
    ends: tuple[float, ...]  # when each job was done


def simulate(jobs: Sequence[Job], machines: Machines, generator: np.random.Generator | None = None) -> Outcome:
    """Runs the jobs, which are claimed in this order.  generator: for failures; unused if there are none.

    The end of an attempt is drawn when it begins, so jobs that will be lost wait in ``later`` from then on with the time at
    which their claim will have expired.
    """
    generator = generator or np.random.default_rng(0)
    free = [(machines.start, number) for number in range(machines.workers)]  # (time, worker)
    ready = list(range(len(jobs)))  # heaps of jobs: the first one counts
    later: list[tuple[float, int]] = []
    left, ends = [job.seconds for job in jobs], [0.0] * len(jobs)
    reruns, lost, down = 0, 0.0, 0.0
    while ready or later:
        now, worker = heapq.heappop(free)
        while later and later[0][0] <= now:
            heapq.heappush(ready, heapq.heappop(later)[1])
        if not ready:
            heapq.heappush(free, (later[0][0], worker))  # waits until a claim has expired
            continue
        job = heapq.heappop(ready)
        begin = now + machines.setup
        failure, replaced_after = _next_failure(now, machines, generator)
        if begin + left[job] <= failure:
            ends[job] = begin + left[job]
            heapq.heappush(free, (ends[job], worker))
            continue
        done = max(0.0, failure - begin)
        kept = done // jobs[job].checkpoint * jobs[job].checkpoint if math.isfinite(jobs[job].checkpoint) else 0.0
        left[job] -= kept
        reruns, lost, down = reruns + 1, lost + failure - now - kept, down + replaced_after
        heapq.heappush(later, (failure + machines.lease, job))
        heapq.heappush(free, (failure + replaced_after + machines.start, worker))
    return Outcome(max(ends, default=0.0), reruns, lost, down, tuple(ends))


def _next_failure(now: float, machines: Machines, generator: np.random.Generator) -> tuple[float, float]:
    """Returns when the worker fails next, and how long it then takes to replace it."""
    moments = [(now + generator.exponential(mean), replaced) for mean, replaced in machines.failures]
    return min(moments, default=(math.inf, 0.0))


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs in the order in which no long one is left for the end."""
    return sorted(jobs, key=lambda job: -job.seconds)
