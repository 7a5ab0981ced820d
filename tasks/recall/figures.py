"""Figures of recall: accuracy by pairs, by length and by the bytes of the state, with ceilings as thin dashed lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from benchmark.results import Record
from tasks.recall.ceilings import state_ceiling
from tasks.recall.families import FAMILIES

Row = Mapping[str, Any]  # of ``curves.py``
PANELS_A_ROW = 4
CEILING: Any = {"linestyle": "--", "linewidth": 0.7, "alpha": 0.8}


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """``accuracy_by_pairs``, ``accuracy_by_length`` and ``accuracy_by_state``, with one panel for each family.

    Lines are means over the seeds of an attention, with bands of one standard deviation.  A figure is left out if no family
    has two points for it, or no attention has a state.
    """
    records = [record for record in records if record.curves.get("recall")]
    made = {
        "accuracy_by_pairs": _lines(records, "pairs", by_pairs, "pairs"),
        "accuracy_by_length": _lines(records, "length", by_length, "length, words"),
        "accuracy_by_state": _states(records),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def by_pairs(rows: Sequence[Row]) -> list[Row]:
    """The shortest text of each number of pairs."""
    shortest: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row["pairs"], row["length"])):
        shortest.setdefault(row["pairs"], row)
    return list(shortest.values())


def by_length(rows: Sequence[Row]) -> list[Row]:
    """The texts of each length that have as many pairs as the first one that was trained."""
    pairs = next(row["pairs"] for row in rows if row["is_trained"])
    return sorted((row for row in rows if row["pairs"] == pairs), key=lambda row: row["length"])


def hardest(rows: Sequence[Row]) -> list[Row]:
    """The text with the most pairs, the longest of them."""
    return [max(rows, key=lambda row: (row["pairs"], row["length"]))]


Curves = Mapping[str, list[list[Row]]]  # label of an attention -> the rows of each seed


def _curves(records: Sequence[Record], family: str, choose: Callable[[Sequence[Row]], list[Row]]) -> Curves:
    """The chosen rows of one family, for each attention and seed."""
    found: dict[str, list[list[Row]]] = {}
    for record in records:
        rows = [row for row in record.curves["recall"] if row["family"] == family]
        if rows:
            found.setdefault(record.cell.label, []).append(choose(rows))
    return found


def _families(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row["family"] for record in records for row in record.curves["recall"]))


def _panels(families: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    columns = min(PANELS_A_ROW, len(families))
    rows = -(-len(families) // columns)
    figure = Figure(figsize=(max(3.4, 2.2 * columns), 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for empty in axes[len(families) :]:
        empty.set_axis_off()
    panels = dict(zip(families, axes, strict=False))
    for family, panel in panels.items():
        panel.set_title(family.replace("_", " "), fontsize=8)
        panel.set_ylim(-3, 103)
    next(iter(panels.values())).set_ylabel("accuracy, %")
    return figure, panels


def _lines(
    records: Sequence[Record], key: str, choose: Callable[[Sequence[Row]], list[Row]], x_label: str
) -> Figure | None:
    curves = {family: _curves(records, family, choose) for family in _families(records)}
    curves = {family: found for family, found in curves.items() if len(_common(found, key)) > 1}
    if not curves:
        return None
    figure, panels = _panels(list(curves))
    for family, axes in panels.items():
        places = _common(curves[family], key)
        for number, (label, seeds) in enumerate(curves[family].items()):
            _line(axes, label, number, places, _values(seeds, key, "accuracy", places))
            ceiling = _values(seeds, key, "window", places)
            if np.isfinite(ceiling).all():
                axes.plot(places, ceiling.mean(0), color=f"C{number % 10}", label=label, **CEILING)
        _rules(axes, places, _values(next(iter(curves[family].values())), key, "bag", places))
        axes.axvline(_trained(curves[family], key), color="0.5", lw=0.8, ls=":", zorder=0)
        _doubling_axis(axes, places)
        axes.set_xlabel(f"{x_label} (dotted: trained)")
    _legend(next(iter(panels.values())))
    return figure


def _line(axes: Axes, label: str, number: int, places: Sequence[int], values: np.ndarray) -> None:
    """values: (seeds, places)."""
    mean, colour = values.mean(0), f"C{number % 10}"
    axes.plot(places, mean, color=colour, linestyle=("-", "-.", ":")[number // 10 % 3], marker="o", ms=3, label=label)
    if len(values) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(places, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)


def _rules(axes: Axes, places: Sequence[int], bag: np.ndarray) -> None:
    """What guessing among the answers of the text gets, where that is defined: the ceiling of a mean without bindings."""
    if np.isfinite(bag).all():
        axes.plot(places, bag[0], color="0.6", label="_bag", **CEILING)


def _states(records: Sequence[Record]) -> Figure | None:
    curves = {family: _curves(records, family, hardest) for family in _families(records)}
    curves = {
        family: found
        for family, found in curves.items()
        if any(row["state_bytes"] is not None for seeds in found.values() for rows in seeds for row in rows)
    }
    if not curves:
        return None
    figure, panels = _panels(list(curves))
    for family, axes in panels.items():
        largest = 1
        for number, (label, seeds) in enumerate(curves[family].items()):
            rows = [row for (row,) in seeds]
            accuracies = np.array([row["accuracy"] for row in rows])
            size = rows[0]["state_bytes"] or 0
            largest = max(largest, size)
            axes.plot([size], [accuracies.mean()], color=f"C{number % 10}", marker="o", ms=5, ls="", label=label)
        row = next(iter(curves[family].values()))[0][0]
        _state_ceiling(axes, row, largest)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.5, 4 * largest)
        axes.set_xlabel("state, bytes")
        axes.set_title(f"{family.replace('_', ' ')}, {row['pairs']} pairs, {row['length']} words", fontsize=8)
    _legend(next(iter(panels.values())))
    return figure


def _state_ceiling(axes: Axes, row: Row, largest: int) -> None:
    """The ceiling of every size of state up to the largest, for texts of this row."""
    values = FAMILIES[row["family"]].values
    if values is None:
        return
    sizes = [0, *np.unique(np.geomspace(1, 4 * largest, 60).astype(int)).tolist()]
    answers = round(100 / row["guess"])
    ceiling = [state_ceiling(8 * size, row["pairs"], answers, repeated=values == "independent") for size in sizes]
    axes.plot(sizes, ceiling, color="0.4", label="_ceiling", **CEILING)


def _values(seeds: Sequence[Sequence[Row]], key: str, name: str, places: Sequence[int]) -> np.ndarray:
    """One value for each seed and place; NaN where there is none.  (seeds, places)"""
    found = [{row[key]: row[name] for row in rows} for rows in seeds]
    return np.array([[np.nan if one[place] is None else one[place] for place in places] for one in found], float)


def _common(curves: Curves, key: str) -> list[int]:
    """The places that all attentions and seeds have."""
    places = [{row[key] for row in rows} for seeds in curves.values() for rows in seeds]
    return sorted(set.intersection(*places)) if places else []


def _trained(curves: Curves, key: str) -> int:
    rows = next(iter(curves.values()))[0]
    return next(row[key] for row in rows if row["is_trained"])


def _doubling_axis(axes: Axes, places: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _legend(axes: Axes) -> None:
    """One entry an attention; its ceiling has the same colour."""
    handles = {str(line.get_label()): line for line in reversed(axes.get_lines())}
    shown = [handle for label, handle in reversed(handles.items()) if not label.startswith("_")]
    axes.legend(handles=shown, frameon=False, fontsize="x-small")
