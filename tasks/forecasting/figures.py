"""Figures of forecasting: forecasts beside the truth, and the error by step of the horizon."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmark.results import Record

LINES = ("-", "--", "-.", ":")  # besides colours, so that lines differ in print and for the colour-blind


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Name -> figure, two for each pattern; records of other data or another horizon get figures of their own.

    Forecasts show the lowest seed, errors by step the mean over seeds.
    """
    made: dict[str, Figure] = {}
    for group in _comparable(records):
        pattern = group[0].cell.pattern
        for kind, draw in (("forecasts", _forecasts), ("error_by_step", _error_by_step)):
            name = f"{kind}_{pattern}"
            number = 2
            while name in made:
                name, number = f"{kind}_{pattern}_{number}", number + 1
            made[name] = draw(group, pattern)
    return made


def _comparable(records: Sequence[Record]) -> list[list[Record]]:
    """Records with curves, grouped by pattern, target, horizon and drawn windows."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        curves = record.curves
        if not curves.get("mse_by_step"):
            continue
        starts = tuple(window["start"] for window in curves["windows"])
        key = (record.cell.pattern, curves["target"], len(curves["mse_by_step"]), starts)
        groups[key].append(record)
    return list(groups.values())


def _by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each attention in the order of the records, the lowest seed first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.cell.seed):
        groups[record.cell.label].append(record)
    return dict(groups)


def _forecasts(records: Sequence[Record], pattern: str) -> Figure:
    windows = records[0].curves["windows"]
    figure = Figure(figsize=(8, 2.6 * max(1, len(windows)) + 0.6), layout="constrained")
    axes = figure.subplots(max(1, len(windows)), 1, squeeze=False)[:, 0]
    curves = records[0].curves
    for index, (axis, window) in enumerate(zip(axes, windows, strict=False)):
        past, ahead = np.arange(-len(window["history"]), 0), np.arange(len(window["truth"]))
        axis.plot(past, window["history"], color="0.6")
        axis.plot(ahead, window["truth"], color="black", linewidth=2, label="truth")
        for number, (label, group) in enumerate(_by_label(records).items()):
            line = LINES[number // 10 % len(LINES)]
            axis.plot(ahead, group[0].curves["windows"][index]["forecast"], line, color=f"C{number % 10}", label=label)
        axis.axvline(-0.5, color="0.8", linewidth=1)
        axis.set_title(f"forecast from {window['start'].replace('T', ' ')}", fontsize=9)
        axis.set_ylabel(curves["target"])
    axes[-1].set_xlabel(f"steps of {curves['step']}")
    if windows:
        axes[0].legend(fontsize=7, ncols=3)
    figure.suptitle(f"Forecasts, {pattern}", fontsize=10)
    return figure


def _error_by_step(records: Sequence[Record], pattern: str) -> Figure:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, (label, group) in enumerate(_by_label(records).items()):
        errors = np.mean([record.curves["mse_by_step"] for record in group], axis=0)
        line = LINES[number // 10 % len(LINES)]
        marker = "." if len(errors) == 1 else None
        axis.plot(np.arange(1, len(errors) + 1), errors, line, marker=marker, color=f"C{number % 10}", label=label)
    axis.set_xlabel(f"step ahead ({records[0].curves['step']})")
    axis.set_ylabel("MSE, standardised")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, ncols=2)
    axis.set_title(f"Error by step of the horizon, {pattern}", fontsize=10)
    return figure
