"""How calls are timed: one call by the clock or by events of a GPU, and several calls in turn, round by round."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")
CACHE_BYTES = 1 << 28  # more than a GPU's second-level cache holds

Call = Callable[[], Any]


def now(device: torch.device = CPU) -> float:
    """Returns the seconds of the clock when the device has finished all work that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def wall_seconds(call: Call, device: torch.device = CPU, *, repeats: int = 1) -> float:
    """Returns the seconds of one call by the clock, the mean of ``repeats`` calls in a row.

    On a GPU, the clock is read when all queued work is done, before and after the calls.
    """
    started = now(device)
    for _ in range(repeats):
        call()
    return (now(device) - started) / repeats


def call_seconds(call: Call, device: torch.device = CPU, *, repeats: int = 1, idle_start: bool = True) -> float:
    """Returns the seconds of one call, the mean of ``repeats`` calls in a row.

    On a CPU they are read from the clock, on a GPU between two events.  With ``idle_start`` the GPU has nothing to do at the
    first event, so the time to launch the kernels is included.  Without it the first event comes after earlier work, and
    launches take time only if the GPU has to wait for them.
    """
    if device.type != "cuda":
        return wall_seconds(call, device, repeats=repeats)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if idle_start:
        torch.cuda.synchronize(device)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def cache_emptier(device: torch.device) -> Callable[[], None]:
    """Returns a function that overwrites the cache of a GPU, so that a call finds no data of the call before it.

    On a CPU the function does nothing.
    """
    if device.type != "cuda":
        return lambda: None
    cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device=device)

    def empty() -> None:
        cache.zero_()

    return empty


def interleaved(
    samplers: Mapping[str, Callable[[], float]],
    rounds: Iterable[object],
    *,
    generator: np.random.Generator | None = None,
) -> dict[str, list[float]]:
    """Takes one sample of each name in every round, so that a slow moment of the machine slows all of them alike.

    samplers    name -> a function that takes one sample and returns its seconds
    rounds      an iterable with one item for each round
    generator   draws a new order of the names for each round; without it, the order is always that of ``samplers``

    Returns name -> the samples of all rounds.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in rounds:
        for name in samplers if generator is None else generator.permutation(sorted(samplers)):
            samples[name].append(samplers[name]())
    return samples


def rounds_within(seconds: float, *, least: int, most: int | None = None) -> Iterator[int]:
    """Yields the numbers of rounds until ``seconds`` have passed since the first one began.

    There are at least ``least`` rounds, and at most ``most``.
    """
    started = time.perf_counter()
    for number in itertools.count() if most is None else range(most):
        if number >= least and time.perf_counter() - started >= seconds:
            return
        yield number


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside the block, Python's garbage collector is off, so that it does not run in calls that are timed."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
