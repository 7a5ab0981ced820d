"""From a series to three parts of windows: lengths, split, filling, standardising, time features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmark.interface import Splits
from tasks.forecasting.series import Missing, Series, describe_step
from tasks.forecasting.settings import DataSettings
from tasks.forecasting.sources import load_series
from tasks.forecasting.synthetic import HOUR

# Name and features -> horizon -> seq_len and label_len, from Informer's scripts (github zhouhaoyi/Informer2020,
# scripts/{ETTh1,…}.sh).
LENGTHS: dict[tuple[str, str], dict[int, tuple[int, int]]] = {
    ("ETTh1", "M"): {24: (48, 48), 48: (96, 48), 168: (168, 168), 336: (168, 168), 720: (336, 336)},
    ("ETTh1", "S"): {24: (720, 168), 48: (720, 168), 168: (720, 336), 336: (720, 336), 720: (720, 336)},
    ("ETTh2", "M"): {24: (48, 48), 48: (96, 96), 168: (336, 336), 336: (336, 168), 720: (720, 336)},
    ("ETTh2", "S"): {24: (48, 48), 48: (96, 96), 168: (336, 336), 336: (336, 168), 720: (336, 336)},
    ("ETTm1", "M"): {24: (672, 96), 48: (96, 48), 96: (384, 384), 288: (672, 288), 672: (672, 384)},
    ("ETTm1", "S"): {24: (96, 48), 48: (96, 48), 96: (384, 384), 288: (384, 384), 672: (384, 384)},
    ("WTH", "M"): {24: (168, 168), 48: (96, 96), 168: (336, 168), 336: (720, 168), 720: (720, 336)},
    ("WTH", "S"): {24: (720, 168), 48: (720, 168), 168: (168, 168), 336: (336, 336), 720: (720, 336)},
}
TARGETS = {"WTH": "WetBulbCelsius", "ECL": "MT_320"}
MONTH = 30 * 24 * HOUR
ROUNDING = 1e-12  # of a column's largest size: sums of doubles differ by less where their true values are equal
MOST_DEVIATIONS = 1e6  # of a value from the training part's mean; errors on larger ones would hide all others


class Lengths(NamedTuple):
    """The number of steps of the encoder's history, of the decoder's known part, and of the forecast."""

    seq_len: int
    label_len: int
    pred_len: int


class Window(NamedTuple):
    """One example; the future follows directly on the history."""

    history: Tensor  # float32 (seq_len, columns), standardised
    history_times: Tensor  # float32 (seq_len, time features)
    decoder_times: Tensor  # float32 (label_len + pred_len, time features): the end of the history, and the future
    future: Tensor  # float32 (pred_len, columns), standardised


class Windows(Sequence[Window]):
    """All windows whose future lies in rows first … stop - 1; the history of a window may begin before ``first``."""

    def __init__(
        self, values: Tensor, times: Tensor, *, first: int, stop: int, lengths: Lengths, stride: int = 1
    ) -> None:
        self.values, self.times, self.lengths = values, times, lengths
        self.forecast_starts = range(first, stop - lengths.pred_len + 1, stride)

    def __len__(self) -> int:
        return len(self.forecast_starts)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        now, (seq_len, label_len, pred_len) = self.forecast_starts[index], self.lengths
        return Window(
            self.values[now - seq_len : now],
            self.times[now - seq_len : now],
            self.times[now - label_len : now + pred_len],
            self.values[now : now + pred_len],
        )

    def thinned(self, count: int) -> Windows:
        """At most ``count`` of these windows, at even distances; all of them if they are no more."""
        starts = self.forecast_starts
        thinner = copy.copy(self)
        thinner.forecast_starts = starts[:: -(-len(starts) // max(1, min(count, len(starts))))]
        return thinner

    @property
    def clusters(self) -> np.ndarray:
        """The stretch of the series in which the future of each window begins: as long as a whole window.  (windows,)

        Errors of neighbouring windows depend on each other.  Stretches as long as a window are a compromise: shorter ones depend
        on each other more, and longer ones are too few for a test.
        """
        starts = np.array(self.forecast_starts)
        return (starts - starts[0]) // (self.lengths.seq_len + self.lengths.pred_len)

    def histories(self) -> Tensor:
        """The histories of all windows, as one view.  (windows, seq_len, columns)"""
        return self._unfolded(-self.lengths.seq_len, self.lengths.seq_len)

    def futures(self) -> Tensor:
        """The futures of all windows, as one view.  (windows, pred_len, columns)"""
        return self._unfolded(0, self.lengths.pred_len)

    def _unfolded(self, offset: int, length: int) -> Tensor:
        starts = self.forecast_starts
        return self.values[starts[0] + offset :].unfold(0, length, starts.step).transpose(1, 2)[: len(starts)]


class ForecastData(NamedTuple):
    """The loaded data: the parts, and all facts that the model, the controls and the plots need."""

    splits: Splits
    parts: tuple[Windows, Windows, Windows]  # train, validation and test of the splits
    lengths: Lengths
    num_time_features: int
    season: int  # in steps
    target_index: int
    mean: np.ndarray  # (columns,), of the training rows
    deviation: np.ndarray  # (columns,)
    dates: np.ndarray  # datetime64[s] (rows,)


def load_forecast_data(
    settings: DataSettings, data_root: Path | None, *, stride: int = 1, drop_last: int = 0
) -> ForecastData:
    """The windows of the three parts.  Raises ValueError, in one line, for data that can't be used.

    stride     takes every stride-th window of validation and test; 1 takes all
    drop_last  keeps a multiple of this many test windows, as the published loader does; 0 keeps all
    """
    series, name, embedded = load_series(settings, data_root)
    target = _target(settings, series, name)
    lengths = _lengths(settings, name, embedded)
    if settings.features == "S":
        index = series.columns.index(target)
        series = series._replace(values=series.values[:, index : index + 1], columns=(target,))
    bounds = _split(settings, series, name, lengths)
    values = fill(series, bounds, settings.missing, name)
    mean, deviation, constant = fit_scaler(values[: bounds[1]], series.columns, name)
    times = torch.from_numpy(time_features(series.dates, series.step))
    parts = _parts(
        _standardise(values, mean, deviation, series.columns, name), times, bounds, lengths, stride, drop_last
    )
    by_part = ("train", "validation", "test")
    details = {
        "columns": list(series.columns),
        "target": target,
        "positions": "sinusoidal and the time's features, whatever the attention",
        "features": settings.features,
        "step": describe_step(series.step),
        "first": str(series.dates[0]),
        "rows": len(values),
        "rows_by_part": dict(zip(by_part, np.diff(bounds).tolist(), strict=True)),
        "windows_by_part": dict(zip(by_part, map(len, parts), strict=True)),
        "lengths": lengths._asdict(),
        "evaluation_stride": stride,
        "evaluation_drop_last": drop_last,
        "missing": settings.missing,
        "duplicates": settings.duplicates,
        **series.notes,
        "constant_columns": constant,
        **({"series": settings.name} if embedded else {}),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
    }
    return ForecastData(
        Splits(*parts, name, series.fingerprint, embedded, details),
        parts,
        lengths,
        num_time_features=times.shape[1],
        season=season_of(series.step),
        target_index=series.columns.index(target),
        mean=mean,
        deviation=deviation,
        dates=series.dates,
    )


def _parts(
    values: Tensor, times: Tensor, bounds: Sequence[int], lengths: Lengths, stride: int, drop_last: int
) -> tuple[Windows, Windows, Windows]:
    """The windows of each part.

    The history of a training window lies in the training part; in the other parts it may begin in the part before.
    """
    _, validation_first, test_first, end = bounds
    test_stop = end
    if drop_last:
        num_windows = len(range(test_first, end - lengths.pred_len + 1, stride))
        kept = num_windows // drop_last * drop_last
        if not kept:
            raise ValueError(f"eval.drop_last {drop_last} leaves none of {num_windows} test windows")
        test_stop = test_first + (kept - 1) * stride + lengths.pred_len
    spans = (
        (lengths.seq_len, validation_first, 1),
        (validation_first, test_first, stride),
        (test_first, test_stop, stride),
    )
    train, validation, test = (
        Windows(values, times, first=first, stop=stop, lengths=lengths, stride=step) for first, stop, step in spans
    )
    return train, validation, test


def _standardise(
    values: np.ndarray, mean: np.ndarray, deviation: np.ndarray, columns: Sequence[str], name: str
) -> Tensor:
    """The standardised values, float32 (rows, columns).

    Raises ValueError for a column that leaves the range of its training part altogether.
    """
    standardised = (values - mean) / deviation
    for column, largest in zip(columns, np.abs(standardised).max(0), strict=True):
        if largest > MOST_DEVIATIONS:
            raise ValueError(
                f"{name}, column {column!r}: a value lies {largest:g} deviations of the training part from its mean, more "
                f"than {MOST_DEVIATIONS:g}; allowed is a file without it, or data.columns without the column"
            )
    return torch.from_numpy(standardised.astype(np.float32))


def _target(settings: DataSettings, series: Series, name: str) -> str:
    target = settings.target or TARGETS.get(name, series.columns[-1])
    if target not in series.columns:
        raise ValueError(
            f"data.target {target!r}: {name} has no such column; there are {', '.join(series.columns[:20])}"
        )
    return target


def _lengths(settings: DataSettings, name: str, embedded: bool) -> Lengths:
    if settings.seq_len is not None and settings.label_len is not None:
        return Lengths(settings.seq_len, settings.label_len, settings.pred_len)
    table = LENGTHS.get(("ETTh1" if embedded else name, settings.features), {})
    if settings.pred_len not in table:
        horizons = f"; it has {', '.join(map(str, table))}" if table else ""
        raise ValueError(
            f"data.pred_len {settings.pred_len}: no published lengths for {name}, features {settings.features}, at this "
            f"horizon{horizons}; give data.seq_len and data.label_len"
        )
    return Lengths(*table[settings.pred_len], settings.pred_len)


def _split(settings: DataSettings, series: Series, name: str, lengths: Lengths) -> list[int]:
    """The rows at which the parts begin, and the end of the last part: [0, validation, test, end]."""
    num_rows = len(series.values)
    if settings.split == "months" or (settings.split == "auto" and name.startswith("ETT")):
        if MONTH % series.step:
            raise ValueError(
                f"{name}: data.split=months needs a step that divides 30 days, this one is {describe_step(series.step)}"
            )
        bounds = [month * MONTH // series.step for month in (0, 12, 16, 20)]
        if bounds[-1] > num_rows:
            raise ValueError(
                f"{name}: {num_rows} rows, data.split=months needs {bounds[-1]} (20 months of 30 days, "
                f"{describe_step(series.step)} a row); allowed is data.split=ratio"
            )
    else:
        train, test = int(num_rows * settings.ratio[0]), int(num_rows * settings.ratio[2])
        bounds = [0, train, num_rows - test, num_rows]
    needs = (lengths.seq_len + lengths.pred_len, lengths.pred_len, lengths.pred_len)
    for part, first, stop, needed in zip(("training", "validation", "test"), bounds, bounds[1:], needs, strict=False):
        if stop - first < needed:
            raise ValueError(
                f"{name}: {stop - first} rows in the {part} part, at least {needed} are needed for one window "
                f"(seq_len {lengths.seq_len}, pred_len {lengths.pred_len}); allowed are shorter lengths or more rows "
                f"(the file has {num_rows})"
            )
    return bounds


def fill(series: Series, bounds: Sequence[int], missing: Missing, name: str) -> np.ndarray:
    """The values without NaN.  (rows, columns)

    ``interpolate`` draws a line between neighbours, but uses no value of a later part in an earlier one: at the end of a
    part it carries the last value on, as ``forward_fill`` does everywhere.
    Raises ValueError for a column that begins with a gap, because there is no value before it.
    """
    values = series.values.copy()
    for index, column in enumerate(series.columns):
        if np.isnan(values[0, index]):
            raise ValueError(
                f"{name}, column {column!r}: no value on the first row, {series.dates[0]}, so data.missing={missing} has "
                "no earlier value to fill with; allowed is a file that begins where the column does, or data.columns without it"
            )
        for first, stop in zip(bounds, [*bounds[1:], len(values)], strict=True):
            gaps = first + np.flatnonzero(np.isnan(values[first:stop, index]))
            known = np.flatnonzero(~np.isnan(values[:stop, index]))
            if missing == "interpolate":
                values[gaps, index] = np.interp(gaps, known, values[known, index])
            else:
                values[gaps, index] = values[known[np.searchsorted(known, gaps) - 1], index]
    return values


def fit_scaler(training: np.ndarray, columns: Sequence[str], name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and population deviation of the training rows, each (columns,), and the names of the constant columns.

    training: (rows, columns).  A column that is constant, but for rounding, gets the deviation 1.
    Raises ValueError for a column whose numbers are too large to be squared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        constant = training.max(0) - training.min(0) <= ROUNDING * np.abs(training).max(0)
        mean = np.where(constant, training[0], training.mean(0))
        deviation = np.where(constant, 1.0, training.std(0))
    for index, column in enumerate(columns):
        if not (np.isfinite(mean[index]) and np.isfinite(deviation[index]) and deviation[index] > 0):
            raise ValueError(
                f"{name}, column {column!r}: its mean or deviation can't be computed in double precision (largest size "
                f"{np.abs(training[:, index]).max():g}); allowed is a column in another unit, or data.columns without it"
            )
    return mean, deviation, [column for column, flat in zip(columns, constant, strict=True) if flat]


def time_features(dates: np.ndarray, step: int) -> np.ndarray:
    """Informer's calendar features, scaled to [-0.5, 0.5].  float32 (rows, features)

    The step decides which of them change and are used.  For steps under a minute: second, minute, hour, weekday, day of
    month, day of year.  Under an hour: from minute on.  Under a day: from hour on.  Under a week: from weekday on.  From
    a week on: day of month and week of year.
    """
    index = pd.DatetimeIndex(dates)
    week_of_year = index.isocalendar().week.to_numpy(dtype=np.float64)
    by_size = [
        (60, index.second / 59.0),
        (3600, index.minute / 59.0),
        (86_400, index.hour / 23.0),
        (604_800, index.day_of_week / 6.0),
        (None, (index.day - 1) / 30.0),
        (604_800, (index.day_of_year - 1) / 365.0),
    ]
    chosen = [np.asarray(feature) for size, feature in by_size if size is None or step < size]
    if step >= 604_800:
        chosen.append((week_of_year - 1) / 52.0)
    return (np.stack(chosen, axis=1) - 0.5).astype(np.float32)


def season_of(step: int) -> int:
    """The number of steps in a season, step in seconds.

    The season is the shortest of a day, a week and a year of 52 weeks that is a larger multiple of the step; 1 if none is.
    """
    for size in (86_400, 604_800, 52 * 604_800):
        if step < size and size % step == 0:
            return size // step
    return 1
