"""What a figure shows, as data: the series of each axes, for values under the pointer and for a legend that hides them.

Lines, points and bands of one label get a name in the SVG, and so does the label in the legend.  The page's script reads the data
of the series, and the scale and the place of the axes, from JSON beside the SVG.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = "series:"
"""With this the names in the SVG begin; then come the number of the series in the figure, and one that makes the name unique."""

SCALES = {"linear", "log", "symlog"}  # that the page's script knows; axes of other scales show no values

MOST_POINTS = 400  # of a series; a longer one is a cloud, whose single points nobody looks up


def describe(figure: Figure) -> str:
    """Names the series in the figure, whose layout must be final, and returns their data as JSON; "" if it has none.

    The JSON is ``{"series": [label, …], "axes": [{"box": [left, top, right, bottom], "x":
    {"label", "scale", "limits", …}, "y": …, "lines": [{"series": number, "x": […], "y": […]}, …]}, …]}``.  The box is in units of the
    SVG.  Numbers in ``x`` and ``y`` are pairs of value and text where the axis writes its numbers in a form of its own.  A line
    without ``x`` has that of the line before.  ``note`` tells lines of one series apart.
    """
    labels: dict[str, int] = {}
    names = _Names()
    axes = [found for one in figure.axes if (found := _axes(one, figure, labels, names)) is not None]
    if not axes:
        return ""
    for legend in _legends(figure):
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=False):
            if text.get_text() in labels:
                names.give(text, labels[text.get_text()])
                names.give(handle, labels[text.get_text()])
    return json.dumps({"series": list(labels), "axes": axes}, separators=(",", ":"), ensure_ascii=False)


class _Names:
    """Gives artists names that are unique in the figure."""

    def __init__(self) -> None:
        self.count = 0

    def give(self, artist: Artist | None, series: int) -> None:
        if artist is not None:
            self.count += 1
            artist.set_gid(f"{SERIES}{series}-{self.count}")


def _legends(figure: Figure) -> list[Any]:
    own = [axes.get_legend() for axes in figure.axes]
    return [legend for legend in (*figure.legends, *own) if legend is not None]


def _axes(axes: Axes, figure: Figure, labels: dict[str, int], names: _Names) -> dict[str, Any] | None:
    from matplotlib.collections import LineCollection, PathCollection, PolyCollection
    from matplotlib.lines import Line2D

    lines: list[dict[str, Any]] = []
    errorbars = {id(part): box.get_label() for box in axes.containers for part in _parts(box)}
    colours: dict[Any, int] = {}
    before: list[Any] = []
    for artist in axes.get_children():
        label = str(errorbars.get(id(artist)) or artist.get_label())
        is_named = bool(label) and not label.startswith("_")
        if isinstance(artist, Line2D | PathCollection) and is_named:
            number = labels.setdefault(label, len(labels))
            colours[_colour(artist)] = number
            names.give(artist, number)
            points = np.ma.filled(_points(artist), np.nan)
            points = points[np.isfinite(points).all(1)]
            if 0 < len(points) <= MOST_POINTS:
                line = {"series": number, "y": _numbers(points[:, 1], axes.yaxis)}
                line |= {"note": "dashed"} if any(other["series"] == number for other in lines) else {}
                places = _numbers(points[:, 0], axes.xaxis)
                lines.append(line if places == before else {**line, "x": places})
                before = places
        elif isinstance(artist, LineCollection | PolyCollection | Line2D):
            # A band, error bar or ceiling without a label belongs to the series of its colour that was drawn before it.
            own = colours.get(_colour(artist)) if not is_named else labels.setdefault(label, len(labels))
            if own is not None:
                names.give(artist, own)
    if not lines or not {axes.get_xscale(), axes.get_yscale()} <= SCALES:
        return None
    box = axes.bbox.transformed(figure.dpi_scale_trans.inverted())
    height = figure.get_size_inches()[1]
    place = [box.x0 * 72, (height - box.y1) * 72, box.x1 * 72, (height - box.y0) * 72]
    return {
        "box": [round(edge, 1) for edge in place],
        "x": _axis(axes.xaxis, axes.get_xlim()),
        "y": _axis(axes.yaxis, axes.get_ylim()),
        "lines": lines,
    }


def _parts(box: Any) -> Iterable[Any]:
    """Returns the artists of a container, whose error bars stand in tuples of their own."""
    for part in box:
        if isinstance(part, tuple | list):
            yield from part
        elif part is not None:
            yield part


def _points(artist: Any) -> np.ndarray:
    from matplotlib.lines import Line2D

    if isinstance(artist, Line2D):
        return np.asarray(artist.get_xydata(), dtype=float)
    return np.asarray(artist.get_offsets(), dtype=float)


def _colour(artist: Any) -> Any:
    from matplotlib.colors import to_rgb

    if hasattr(artist, "get_color"):
        colour = artist.get_color()
    else:
        colour = artist.get_facecolor()
    if isinstance(colour, str):
        return to_rgb(colour)
    # Of a collection: one colour for each of its parts, of which the first stands for all.
    first = np.atleast_2d(np.asarray(colour, dtype=float))[:1, :3]
    return tuple(first[0].tolist()) if len(first) else None


def _axis(axis: Any, limits: Sequence[float]) -> dict[str, Any]:
    """Returns label, scale and limits of an axis."""
    transform = axis.get_transform()
    found = {"label": axis.get_label_text(), "scale": axis.get_scale(), "limits": [_short(limit) for limit in limits]}
    if axis.get_scale() == "symlog":
        found |= {"linthresh": transform.linthresh, "linscale": transform.linscale, "base": transform.base}
    return found


def _numbers(values: np.ndarray, axis: Any) -> list[Any]:
    """Returns the values, each with its text if the axis writes numbers in a form of its own (2 ms, 4K, 10 %)."""
    from matplotlib.ticker import FuncFormatter

    formatter = axis.get_major_formatter()
    numbers = [_short(value) for value in values]
    if not isinstance(formatter, FuncFormatter):
        return numbers
    texts = [str(formatter(value, None)) for value in values]
    return [
        number if text.replace(",", "") == f"{number:g}" else [number, text]
        for number, text in zip(numbers, texts, strict=True)
    ]


def _short(value: float) -> float | int:
    number = float(f"{value:.4g}") if abs(value) < 1000 else round(float(value), 1)
    return int(number) if number == int(number) else number
