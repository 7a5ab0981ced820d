"""Figures of loss by context length and by position, from the ``curves`` of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmark.results import Record

Curve = tuple[np.ndarray, np.ndarray]  # x, y


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """``loss_by_length`` and ``loss_by_position``, with one line for each attention: the mean over its seeds.

    The band around a line is one standard deviation over seeds.  With one seed the figure by position has the 95 % interval
    over documents instead.  Records without curves are left out; without any record there is no figure.
    """
    records = [record for record in records if record.curves.get("loss_by_length")]
    if not records:
        return {}
    return {
        "loss_by_length": _figure(records, by_length, x_label="context length, tokens"),
        "loss_by_position": _figure(records, by_position, x_label="position in the block, tokens"),
    }


def by_length(curves: Mapping[str, Any]) -> Curve:
    """Loss at each context length."""
    rows = curves["loss_by_length"]
    return np.array([row["length"] for row in rows]), _numbers([row["loss"] for row in rows])


def by_position(curves: Mapping[str, Any]) -> Curve:
    """Loss at the last position of each bin.  Positions count from 1, because a log axis has no 0."""
    curve = curves["loss_by_position"]
    return np.array(curve["edges"][1:]), _numbers(curve["loss"])


def mean_and_deviation(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The x that all seeds have, and the mean and standard deviation of y there (0 with one seed).  (points,) each"""
    common = sorted(set.intersection(*({*x.tolist()} for x, _ in curves)))
    y = np.array([[dict(zip(x.tolist(), y.tolist(), strict=True))[place] for place in common] for x, y in curves])
    deviation = y.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(common))
    return np.array(common), y.mean(axis=0), deviation


def _figure(records: Sequence[Record], curve_of: Any, *, x_label: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    places: set[int] = set()
    groups: dict[str, list[Curve]] = {}
    for record in records:
        groups.setdefault(record.cell.label, []).append(curve_of(record.curves))
    for number, (label, curves) in enumerate(groups.items()):
        x, mean, deviation = mean_and_deviation(curves)
        # There are ten colours; the next ten lines differ by their dashes.
        axes.plot(
            x,
            mean,
            color=f"C{number % 10}",
            linestyle=("-", "--", ":")[number // 10 % 3],
            marker="o",
            ms=3,
            label=label,
        )
        interval = _over_documents(label, records, curve_of) if len(curves) == 1 else None
        if interval is not None:
            axes.fill_between(x, *interval, color=f"C{number % 10}", alpha=0.12, lw=0)
        if len(curves) > 1:
            axes.fill_between(x, mean - deviation, mean + deviation, color=f"C{number % 10}", alpha=0.2, lw=0)
        places.update(x.tolist())
    for training_length in {record.curves["training_length"] for record in records}:
        axes.axvline(training_length, color="0.5", lw=0.8, ls=":", zorder=0)
    _length_axis(axes, sorted(places))
    axes.set(xlabel=f"{x_label} (dotted: training length)", ylabel="loss, nats/token")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _over_documents(label: str, records: Sequence[Record], curve_of: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The 95 % interval over documents of the only seed's curve by position; None if the record has none."""
    curve = next(record for record in records if record.cell.label == label).curves["loss_by_position"]
    if curve_of is not by_position or "low" not in curve:
        return None
    return _numbers(curve["low"]), _numbers(curve["high"])


def _length_axis(axes: Axes, places: Sequence[int]) -> None:
    """Base 2, with a tick at every measured length, or at every other one if there are many; labels are 256, 512, 1K."""
    axes.set_xscale("log", base=2)
    if len(places) == 1:  # one tick alone would not show the scale
        places = [max(1, places[0] // 2), places[0], 2 * places[0]]
        axes.set_xlim(places[0], places[-1])
    axes.xaxis.set_major_locator(FixedLocator(places if len(places) <= 8 else places[::-2][::-1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: length_name(round(x))))


def length_name(length: int) -> str:
    """256, 512, 1K, 1.5K, 128K, 1M."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if length >= size:
            return f"{length / size:.4g}{letter}"
    return str(length)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """Missing values become NaN, where the line has a gap."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
