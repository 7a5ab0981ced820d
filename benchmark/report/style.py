"""The style of figures: a colour and a marker for each attention, and axes of lengths, seconds and bytes.

Figures have the width of a paper's column or page and text of 8 points.  The colours (Okabe and Ito) can be told apart by
colour-blind readers; markers help as well.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.registry import ATTENTIONS
from benchmark.report import numbers

COLUMN_WIDTH = 3.3  # inches
PAGE_WIDTH = 7.0
GRID = "#e4e4e4"

SETTINGS: Any = {
    "font.size": 8,
    "figure.titlesize": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.09,  # inches, because a reader's font may be a little wider than ours
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text, so that files are small and words can be searched
    "svg.hashsalt": "lavo-bench",  # so that equal figures have equal bytes
    "pdf.fonttype": 42,
}

_COLOURS = (
    "#D55E00",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#8C6D31",
    "#E69F00",
    "#6A51A3",
)  # black and grey are for data
# For attentions that are not in the registry: Tol's muted colours, which are none of the above.
_OTHER_COLOURS = ("#882255", "#117733", "#332288", "#AA4499", "#44AA99", "#999933")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")


class Style(NamedTuple):
    """Keywords of ``Axes.plot``.  Attentions outside the registry have dashed lines and hollow markers."""

    color: str
    marker: str
    linestyle: str
    markerfacecolor: str


def style_of(label: str) -> Style:
    """Returns the style for a row's label, such as ``lavo`` or ``lavo (window 32)``: the same in every report.

    It depends on the attention's place in the registry's table, and for all other labels on a hash of the label.
    """
    names = list(ATTENTIONS)
    if label in names:
        index = names.index(label)
        colour = _COLOURS[index % len(_COLOURS)]
        return Style(colour, _MARKERS[index % len(_MARKERS)], "-", colour)
    code = int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big")
    colour = _OTHER_COLOURS[code % len(_OTHER_COLOURS)]
    return Style(colour, _MARKERS[code // len(_OTHER_COLOURS) % len(_MARKERS)], "--", "white")


def recolour(figure: Any, styles: Mapping[str, Style]) -> None:
    """Recolours the lines of a task's figure that are labelled with an attention, and their bands and legend entries."""
    from matplotlib.colors import to_rgb

    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if line.get_label() in styles]
        new = {to_rgb(line.get_color()): styles[line.get_label()].color for line in lines}
        for line in lines:
            line.set_color(styles[line.get_label()].color)
        for band in axes.collections:
            faces = band.get_facecolor()
            if len(faces) == 1 and tuple(faces[0][:3]) in new:
                band.set_facecolor((*to_rgb(new[tuple(faces[0][:3])]), faces[0][3]))
        legend = axes.get_legend()
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True) if legend else ():
            if text.get_text() in styles and hasattr(handle, "get_linestyle"):
                handle.set_color(styles[text.get_text()].color)


def fit_page(figure: Any) -> None:
    """Makes a figure that is wider than a paper's page as wide as one; letters and lines keep their size."""
    from matplotlib.collections import PathCollection

    width, height = figure.get_size_inches()
    scale = PAGE_WIDTH / width
    if scale >= 1:
        return
    figure.set_size_inches(PAGE_WIDTH, height * scale)
    for points in figure.findobj(PathCollection):  # clouds of points, whose sizes belong to the drawing
        points.set_sizes(points.get_sizes() * scale**2)


def length_axis(axis: Any, lengths: Sequence[float]) -> None:
    """Makes the axis logarithmic, with labels such as 256, 512, 1K at measured lengths (at every second if crowded)."""
    wanted = sorted(set(lengths))
    while len(wanted) > 7:
        wanted = wanted[::-2][::-1]
    _log_axis(axis, wanted, numbers.length)
    low, high = min(lengths), max(lengths)
    margin = 1.15 if high > low else 2.0
    axis.axes.set(**{f"{axis.axis_name}lim": (low / margin, high * margin)})


def value_axis(axis: Any, values: Sequence[float], words: Callable[[float], str], *, base: int = 10) -> None:
    """Makes the axis logarithmic, with at least two labelled ticks even if the values span less than a decade."""
    low, high = min(values), max(values)
    # A margin of a fifth around the values; a single value gets a factor of two to each side.
    low, high = (low / 1.2, high * 1.2) if high > low * 1.01 else (low / 2, high * 2)
    ticks = log_ticks(low, high, base=base)
    _log_axis(axis, ticks, words)
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})


def bytes_axis(axis: Any, most: float) -> None:
    """Makes the axis one of bytes from none to ``most``: linear up to 64 B, logarithmic above, with labels at 1 KiB, 32 KiB, 1 MiB, …."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    getattr(axis.axes, f"set_{axis.axis_name}scale")("symlog", linthresh=64, base=2)
    axis.set_major_locator(FixedLocator([0.0, *(2.0**power for power in range(10, 61, 5) if 2.0**power <= 4 * most)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.trimmed(numbers.size(value))))
    axis.set_minor_locator(NullLocator())
    axis.axes.set(**{f"{axis.axis_name}lim": (-16, 4 * most)})


# Factors of the powers of the base, from few ticks to many.  Those of 4 are round numbers of KiB or MiB.
_FACTORS: Mapping[int, Sequence[Sequence[float]]] = {
    10: ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)),
    4: ((1,), (1, 2), (1, 1.5, 2, 3), (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5), [factor / 16 for factor in range(16, 64)]),
}


def log_ticks(low: float, high: float, *, base: int = 10) -> list[float]:
    """Returns round numbers from low to high, at least two and at most about seven."""
    for factors in _FACTORS[base]:
        exponents = range(math.floor(math.log(low, base)) - 1, math.ceil(math.log(high, base)) + 1)
        ticks = [factor * float(base) ** exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            step = math.ceil(len(ticks) / 7)
            return ticks[::-step][::-1]
    from matplotlib.ticker import MaxNLocator

    for count in (4, 8, 16):
        ticks = [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 2:
            return ticks
    return [low, high]


def _log_axis(axis: Any, ticks: Sequence[float], words: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.trimmed(words(value))))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
