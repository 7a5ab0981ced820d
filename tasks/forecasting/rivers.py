"""Embedded data: hourly levels of two rivers that meet, where each lower gauge repeats what upper gauges showed hours before."""

from __future__ import annotations

import numpy as np

COLUMNS: tuple[str, ...] = ("north", "south", "mill", "town")
MILL_LATE = 10  # hours from the south gauge to the mill
NORTH_LATE, SOUTH_LATE = 20, 34  # hours from each upper gauge to the town, where the rivers meet
WETTING = 4  # hours over which rain raises an upper gauge
MOST_RAIN, MOST_NOISE = 100, 8  # millimetres an hour; millimetres of level either way


def make_rivers(num_rows: int, seed: int) -> np.ndarray:
    """The levels in whole millimetres, float64 (rows, 4), in the order of COLUMNS.

    - ``north`` and ``south`` are the upper gauges: the rain of the last WETTING hours, which is new every hour.
    - ``mill`` shows ``south`` MILL_LATE hours later, with a little noise.
    - ``town`` shows ``north`` NORTH_LATE hours later plus ``south`` SOUTH_LATE hours later, with a little noise.

    All steps are in whole numbers, so the same arguments give the same bytes on every machine.
    """
    rng = np.random.default_rng(seed)
    before = max(MILL_LATE, NORTH_LATE, SOUTH_LATE)  # rows that the first hours of the lower gauges need
    rain = rng.integers(0, MOST_RAIN, (before + num_rows + WETTING - 1, 2), endpoint=True)
    upper = np.lib.stride_tricks.sliding_window_view(rain, WETTING, axis=0).sum(-1)
    noise = rng.integers(-MOST_NOISE, MOST_NOISE, (num_rows, 2), endpoint=True)
    north, south = upper.T

    def late(levels: np.ndarray, hours: int) -> np.ndarray:
        return levels[before - hours : before - hours + num_rows]

    mill = late(south, MILL_LATE) + noise[:, 0]
    town = late(north, NORTH_LATE) + late(south, SOUTH_LATE) + noise[:, 1]
    return np.stack((late(north, 0), late(south, 0), mill, town), axis=1).astype(np.float64)
