"""Embedded data: hourly levels of three creeks and of a snow-fed river, which gauges downstream repeat hours later."""

from __future__ import annotations

import numpy as np

MILLS_LATE = {"mill": 10, "ford": 11, "lock": 12}  # gauge below each creek -> hours from the creek
TOWNS_LATE = {"town": 30, "port": 32}  # gauge below the snow -> hours from the snow
COLUMNS: tuple[str, ...] = ("snow", "north", "middle", "south", *MILLS_LATE, *TOWNS_LATE)
FINE, SLOW = 2, 6  # hours over which rain raises a creek, and melting the snow-fed river
MOST_WATER, MOST_NOISE = 100, 8  # millimetres an hour; millimetres of level either way


def make_rivers(num_rows: int, seed: int) -> np.ndarray:
    """The levels in whole millimetres, float64 (rows, 9), in the order of COLUMNS.

    - ``snow``, ``north``, ``middle`` and ``south`` are the upper gauges: the water of the last SLOW hours (snow) or FINE hours
      (the three creeks), which is new every hour.
    - ``mill``, ``ford`` and ``lock`` show one creek each, in this order, 10, 11 and 12 hours later, with a little noise.
    - ``town`` and ``port`` show the snow 30 and 32 hours later, with a little noise.

    All steps are in whole numbers, so the same arguments give the same bytes on every machine.
    """
    rng = np.random.default_rng(seed)
    before = max(TOWNS_LATE.values())  # rows that the first hours of the lower gauges need
    snow, *creeks = (_level(rng, hours, before + num_rows) for hours in (SLOW, FINE, FINE, FINE))

    def late(levels: np.ndarray, hours: int) -> np.ndarray:
        return levels[before - hours : before - hours + num_rows]

    upper = [late(levels, 0) for levels in (snow, *creeks)]
    lower = [late(creek, hours) for creek, hours in zip(creeks, MILLS_LATE.values(), strict=True)]
    lower += [late(snow, hours) for hours in TOWNS_LATE.values()]
    noise = rng.integers(-MOST_NOISE, MOST_NOISE, (len(lower), num_rows), endpoint=True)
    return np.stack([*upper, *(np.stack(lower) + noise)], axis=1).astype(np.float64)


def _level(rng: np.random.Generator, hours: int, num_rows: int) -> np.ndarray:
    """The sum of the water of the last ``hours`` hours.  int64 (rows,)"""
    water = rng.integers(0, MOST_WATER, num_rows + hours - 1, endpoint=True)
    return np.lib.stride_tricks.sliding_window_view(water, hours).sum(-1)
