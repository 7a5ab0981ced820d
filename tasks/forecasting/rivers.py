"""Embedded data: hourly levels of a creek and of a snow-fed river, which gauges downstream repeat hours later."""

from __future__ import annotations

import numpy as np

COLUMNS: tuple[str, ...] = ("snow", "creek", "mill", "ford", "town")
MILL_LATE, FORD_LATE = 10, 11  # hours from the creek to the mill and to the ford
TOWN_LATE = 30  # hours from the snow to the town
FINE, SLOW = 2, 10  # hours over which rain raises the creek, and melting the snow-fed river
MOST_WATER, MOST_NOISE = 100, 8  # millimetres an hour; millimetres of level either way


def make_rivers(num_rows: int, seed: int) -> np.ndarray:
    """The levels in whole millimetres, float64 (rows, 5), in the order of COLUMNS.

    - ``snow`` and ``creek`` are the upper gauges: the water of the last SLOW and FINE hours, which is new every hour.
    - ``mill`` and ``ford`` show the creek MILL_LATE and FORD_LATE hours later, with a little noise.
    - ``town`` shows the snow TOWN_LATE hours later, with a little noise.

    All steps are in whole numbers, so the same arguments give the same bytes on every machine.
    """
    rng = np.random.default_rng(seed)
    snow, creek = (_level(rng, hours, TOWN_LATE + num_rows) for hours in (SLOW, FINE))
    noise = rng.integers(-MOST_NOISE, MOST_NOISE, (num_rows, 3), endpoint=True)

    def late(levels: np.ndarray, hours: int) -> np.ndarray:
        return levels[TOWN_LATE - hours : TOWN_LATE - hours + num_rows]

    lower = np.stack((late(creek, MILL_LATE), late(creek, FORD_LATE), late(snow, TOWN_LATE)), axis=1) + noise
    return np.concatenate((late(snow, 0)[:, None], late(creek, 0)[:, None], lower), axis=1).astype(np.float64)


def _level(rng: np.random.Generator, hours: int, num_rows: int) -> np.ndarray:
    """The sum of the water of the last ``hours`` hours.  int64 (rows,)"""
    water = rng.integers(0, MOST_WATER, num_rows + hours - 1, endpoint=True)
    return np.lib.stride_tricks.sliding_window_view(water, hours).sum(-1)
