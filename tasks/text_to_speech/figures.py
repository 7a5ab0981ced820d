"""Figures of text to speech: spectrograms of the truth and of each attention side by side, and learned alignments."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.text_to_speech.shown import unpack

Record = Mapping[str, Any]
PER_ROW = 3


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Name -> figure: for each backbone and pattern the spectrograms, and the alignments if a record has any.

    Records that show other utterances get figures of their own.  The lowest of several seeds is shown.
    """
    made: dict[str, Figure] = {}
    for group in comparable(records):
        backbone, pattern = (group[0]["cell"][key] for key in ("backbone", "pattern"))
        title = f"{backbone}, {pattern}"
        drawn = {"spectrograms": _spectrograms(group, title), "alignments": _alignments(group, title)}
        for kind, figure in drawn.items():
            if figure is not None:
                made[_free(f"{kind}_{backbone}_{pattern}", made)] = figure
    return made


def comparable(records: Sequence[Record]) -> list[list[Record]]:
    """Records that show the same utterances at the same place, one an attention, of the lowest seed."""
    groups: dict[tuple[Any, ...], dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (label_of(r), r["cell"].get("seed", 0))):
        utterances = (record.get("curves") or {}).get("utterances")
        if not utterances:
            continue
        cell = record["cell"]
        names = tuple((u["name"], u["text"], u["truth_seconds"]) for u in utterances)
        groups[cell["backbone"], cell["pattern"], names].setdefault(label_of(record), record)
    return [list(group.values()) for group in groups.values()]


def label_of(record: Record) -> str:
    """What tables call the contender: the attention, or a variant of it with options of its own."""
    return str(record["cell"].get("variant") or record["cell"]["attention"])


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    return free


def _spectrograms(group: Sequence[Record], title: str) -> Figure:
    """The first shown utterance: truth first, then each attention."""
    shown = [record["curves"]["utterances"][0] for record in group]
    panels = [("truth", shown[0]["truth_mel"], shown[0]["truth_seconds"])]
    panels += [(label_of(record), one["mel"], one["seconds"]) for record, one in zip(group, shown, strict=True)]
    figure, axes = _panels(len(panels), f'{title}: "{shown[0]["text"]}"')
    for axis, (name, stored, seconds) in zip(axes, panels, strict=True):
        axis.grid(False)
        axis.imshow(
            unpack(stored), origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1, extent=(0, seconds, 0, 80)
        )
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("seconds", fontsize=8)
    _label_left(axes, "mel band")
    return figure


def _alignments(group: Sequence[Record], title: str) -> Figure | None:
    """Weights of the last cross-attention, where it has any."""
    shown = [(label_of(record), record["curves"]["utterances"][0].get("alignment")) for record in group]
    panels = [(name, unpack(stored)) for name, stored in shown if stored]
    if not panels:
        return None
    figure, axes = _panels(len(panels), f"{title}: alignment of the last cross-attention, mean over heads")
    for axis, (name, weights) in zip(axes, panels, strict=True):
        axis.grid(False)
        axis.imshow(
            weights, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=max(1e-6, float(np.max(weights)))
        )
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("decoder step", fontsize=8)
    _label_left(axes, "symbol")
    return figure


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
