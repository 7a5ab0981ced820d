"""Figures of text to speech: spectrograms of the truth and of each attention side by side, and learned alignments."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.results import Record
from tasks.text_to_speech.audio import NUM_MELS
from tasks.text_to_speech.shown import unpack

PER_ROW = 3
# Without interpolation a PNG file of the figure has half the bytes.
IMAGE: Any = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}


class Panel(NamedTuple):
    """One picture of a figure."""

    title: str
    values: np.ndarray  # (rows, columns)
    seconds: float  # that its columns take


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Name -> figure: for each backbone and pattern the spectrograms, and the alignments if a record has any.

    Records that show other utterances get figures of their own.  The lowest of several seeds is shown.
    """
    made: dict[str, Figure] = {}
    for group in comparable(records):
        backbone, pattern = group[0].cell.backbone, group[0].cell.pattern
        title = f"{backbone}, {pattern}"
        drawn = {"spectrograms": _spectrograms(group, title), "alignments": _alignments(group, title)}
        for kind, figure in drawn.items():
            if figure is not None:
                made[_free(f"{kind}_{backbone}_{pattern}", made)] = figure
    return made


def comparable(records: Sequence[Record]) -> list[list[Record]]:
    """Groups of records with the same backbone, pattern and utterances; in each, the lowest seed of each attention."""
    groups: dict[tuple[Any, ...], dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.cell.seed):
        utterances = record.curves.get("utterances")
        if not utterances:
            continue
        cell = record.cell
        names = tuple((u["name"], u["text"], u["truth_seconds"]) for u in utterances)
        groups[cell.backbone, cell.pattern, names].setdefault(cell.label, record)
    return [list(group.values()) for group in groups.values()]


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    return free


def _spectrograms(group: Sequence[Record], title: str) -> Figure | None:
    """The first utterance that the records show, the truth and then each attention; None if no record has pictures."""
    first = group[0].curves["utterances"][0]
    panels = _shown(group[:1], "truth_mel", "truth_seconds", title="truth") + _shown(group, "mel", "seconds")
    if not panels:
        return None
    figure, axes = _panels(len(panels), f'{title}: "{first["text"]}"')
    for axis, panel in zip(axes, panels, strict=True):
        axis.grid(False)
        extent = (0, panel.seconds, 0, NUM_MELS)
        axis.imshow(panel.values, **IMAGE, vmin=0, vmax=1, extent=extent)
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel("seconds", fontsize=8)
    _label_left(axes, "mel band")
    return figure


def _alignments(group: Sequence[Record], title: str) -> Figure | None:
    """The weights of the last cross-attention; None if no record has any."""
    panels = _shown(group, "alignment", "seconds")
    if not panels:
        return None
    figure, axes = _panels(len(panels), f"{title}: alignment of the last cross-attention, mean over heads")
    for axis, panel in zip(axes, panels, strict=True):
        axis.grid(False)
        strongest = max(1e-6, float(np.max(panel.values)))
        axis.imshow(panel.values, **IMAGE, vmin=0, vmax=strongest)
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel("decoder step", fontsize=8)
    _label_left(axes, "symbol")
    return figure


def _shown(group: Sequence[Record], picture: str, seconds: str, *, title: str | None = None) -> list[Panel]:
    """This picture of the first utterance of every record that has it."""
    panels = []
    for record in group:
        utterance = record.curves["utterances"][0]
        content = record.attachment(utterance[picture])
        if content is not None:
            panels.append(Panel(title or record.cell.label, unpack(content), utterance[seconds]))
    return panels


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    columns = min(PER_ROW, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.2 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    figure.suptitle(textwrap.fill(title, max(48, 26 * columns)), fontsize=9)
    for axis in axes:
        axis.tick_params(labelsize=7)
    return figure, list(axes[:count])


def _label_left(axes: Sequence[Axes], text: str) -> None:
    for axis in axes[::PER_ROW]:
        axis.set_ylabel(text, fontsize=8)
