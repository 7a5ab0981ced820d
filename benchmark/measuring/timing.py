"""How calls are timed: one call by the clock or by a GPU's events, and several calls that take turns round by round."""

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
    """Seconds of the clock, read when the device has finished all work that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def wall_seconds(call: Call, device: torch.device = CPU, *, repeats: int = 1) -> float:
    """Seconds of one call by the clock, the mean of ``repeats`` in a row; a GPU's work is finished before and after."""
    started = now(device)
    for _ in range(repeats):
        call()
    return (now(device) - started) / repeats


def call_seconds(call: Call, device: torch.device = CPU, *, repeats: int = 1, idle_start: bool = True) -> float:
    """Seconds of one call, the mean of ``repeats`` in a row: by the clock on a CPU, between two events on a GPU.

    With ``idle_start`` a GPU has nothing to do at the first event, so the launches of kernels are timed too.  Without it
    the first event waits behind earlier work, and launches count only where the GPU has to wait for them.
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
    """Gives a function that overwrites a GPU's cache, so that a call finds nothing of the one before; on a CPU it does nothing."""
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
    """The samples of each name, one a round: all take turns, so that a slow moment of the machine slows all of them.

    samplers    name -> a function that makes one sample and gives its seconds
    rounds      one sample of each for every item
    generator   draws the order of the turns anew for each round; without it they keep the order of ``samplers``
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in rounds:
        for name in samplers if generator is None else generator.permutation(sorted(samplers)):
            samples[name].append(samplers[name]())
    return samples


def rounds_within(seconds: float, *, least: int, most: int | None = None) -> Iterator[int]:
    """Counts rounds until ``seconds`` have passed since the first began: at least ``least`` and at most ``most`` of them."""
    started = time.perf_counter()
    for number in itertools.count() if most is None else range(most):
        if number >= least and time.perf_counter() - started >= seconds:
            return
        yield number


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector out of the calls that are timed inside the block."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
