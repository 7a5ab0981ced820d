"""The embedded data: an hourly series with seasons, a trend, regimes, noise, and columns that follow each other."""

from __future__ import annotations

import numpy as np

START = np.datetime64("2016-01-01T00:00:00", "s")
HOUR = 3600


def make_series(num_rows: int, num_columns: int, seed: int) -> np.ndarray:
    """The series, float64 (rows, columns), its last column the target.  The same arguments give the same bytes.

    Each column is a sum of
    - seasons: a day (two harmonics, weaker at weekends), a week and a year, each with its own phases;
    - a trend: a slow straight line;
    - regimes: one of three at a time, each lasting ten days on average; it moves the level and stretches the day of all
      columns;
    - noise: an autoregressive process (0.9 an hour), a third of the whole;
    - coupling: the noise of the column before, 24 to 48 hours late.  So the last two days of one column tell the next day
      of another, which neither repetition nor a rule within one column can find.
    """
    rng = np.random.default_rng(seed)
    hours = np.arange(num_rows, dtype=np.float64)
    regime = _regimes(num_rows, rng)
    noise = _autoregressive(rng.standard_normal((num_rows, num_columns)), 0.9)
    columns = np.empty((num_rows, num_columns))
    carried = np.zeros(num_rows)
    for column in range(num_columns):
        level, stretch = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.7, 1.3, 3)
        day = _wave(hours, 24, rng) + 0.4 * _wave(hours, 12, rng)
        week_end = np.where((hours // 24 + 4) % 7 >= 5, rng.uniform(0.4, 0.8), 1.0)  # 2016-01-01 was a Friday
        season = day * week_end * stretch[regime] + 0.3 * _wave(hours, 168, rng) + 0.1 * _wave(hours, 8766, rng)
        trend = rng.uniform(-0.1, 0.1) * hours / 8766
        carried = 0.4 * noise[:, column] + 0.8 * _late(carried, int(rng.integers(24, 49)))
        scale, offset = rng.uniform(2.0, 20.0), rng.uniform(-50.0, 50.0)
        columns[:, column] = offset + scale * (season + trend + level[regime] + carried)
    return np.round(columns, 4)  # because mathematical libraries differ in the last bits


def _wave(hours: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.6, 1.2) * np.sin(2 * np.pi * (hours / period + rng.uniform()))


def _regimes(num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """The regime of each hour, 0 to 2; a change leads to one of the other two.  (rows,)"""
    changes = rng.uniform(size=num_rows) < 1 / 240
    return np.cumsum(np.where(changes, rng.integers(1, 3, num_rows), 0)) % 3


def _autoregressive(shocks: np.ndarray, coefficient: float) -> np.ndarray:
    """x_t = coefficient x_(t-1) + shock_t, scaled to unit variance.  (rows, columns)"""
    values = np.empty_like(shocks)
    state = shocks[0]
    for row, shock in enumerate(shocks):
        state = coefficient * state + (1 - coefficient**2) ** 0.5 * shock
        values[row] = state
    return values


def _late(values: np.ndarray, lag: int) -> np.ndarray:
    """The values ``lag`` rows later, with zeros before them.  (rows,)"""
    return np.concatenate((np.zeros(min(lag, len(values))), values[: max(0, len(values) - lag)]))
