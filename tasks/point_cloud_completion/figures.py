"""Figures of point-cloud completion: the partial cloud, the truth and each attention's completion, from one camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.results import Record
from tasks.point_cloud_completion.packing import unpack

Drawn = Mapping[str, np.ndarray]  # of one shape: "partial", "truth", "completion" -> cloud (points, 3)
AZIMUTH, ELEVATION = 0.7, 0.35  # of the camera, in radians
COLOURS = "viridis_r"  # near points dark


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """``completions_<pattern>`` and, if real scans were completed, ``scans_<pattern>``; each shows the lowest seed."""
    made: dict[str, Figure] = {}
    for pattern in dict.fromkeys(record.cell.pattern for record in records):
        own = [record for record in records if record.cell.pattern == pattern]
        for kind, name in (("shapes", "completions"), ("scans", "scans")):
            names, columns = _by_label(own, kind)
            if columns:
                made[f"{name}_{pattern}"] = _rows(names, columns, f"{name.capitalize()}, {pattern}")
    return made


def _by_label(records: Sequence[Record], kind: str) -> tuple[list[str], dict[str, list[Drawn]]]:
    """Names of the shapes, and attention -> its clouds of each shape.

    A record is left out if its shapes differ from those of the first record, or if files of its clouds are missing.
    """
    found: dict[str, list[Drawn]] = {}
    names: list[str] = []
    for record in sorted(records, key=lambda record: record.cell.seed):
        own = [str(shape["name"]) for shape in record.curves.get(kind) or []]
        clouds = _clouds(record, kind)
        if not clouds or own != (names or own):
            continue
        names = own
        found.setdefault(record.cell.label, clouds)
    return names, found


def _clouds(record: Record, kind: str) -> list[Drawn] | None:
    """The drawn clouds of each shape; None if a file is missing."""
    shapes: list[Drawn] = []
    for shape in record.curves.get(kind) or []:
        contents = {name: record.attachment(stored) for name, stored in shape.items() if name != "name"}
        there = {name: unpack(content) for name, content in contents.items() if content is not None}
        if len(there) < len(contents):
            return None
        shapes.append(there)
    return shapes


def _rows(names: Sequence[str], columns: Mapping[str, Sequence[Drawn]], title: str) -> Figure:
    """A figure with a row for each shape; its first columns are the clouds that all attentions share."""
    shapes = next(iter(columns.values()))
    shared = [name for name in ("partial", "truth") if name in shapes[0]]
    width = len(shared) + len(columns)
    figure = Figure(figsize=(1.7 * width, 1.8 * len(shapes) + 0.4), layout="constrained")
    axes = figure.subplots(len(shapes), width, squeeze=False)
    for row, shape in enumerate(shapes):
        clouds = {name: shape[name] for name in shared}
        clouds |= {label: drawn[row]["completion"] for label, drawn in columns.items()}
        views = {name: seen_from_camera(cloud) for name, cloud in clouds.items()}
        # The truth (or the partial cloud) sets the frame of its row, so that a stray point shrinks no other cloud.
        frame = views["truth" if "truth" in views else "partial"][:, :2]
        middle = (frame.min(0) + frame.max(0)) / 2
        reach = 0.6 * max(float(np.ptp(frame, axis=0).max()), 1e-6)
        for axis, (name, view) in zip(axes[row], views.items(), strict=True):
            _scatter(axis, view, middle, reach)
            if row == 0:
                axis.set_title(name, fontsize=8)
        axes[row, 0].set_ylabel(fill(names[row], 14), fontsize=7)  # a long name would run into the next row's
    figure.suptitle(title, fontsize=10)
    return figure


def seen_from_camera(cloud: np.ndarray) -> np.ndarray:
    """Each point's way to the right, up, and away from the camera.  (n, 3) -> (n, 3)"""
    x, y, z = cloud.T
    right, away = np.cos(AZIMUTH) * x - np.sin(AZIMUTH) * z, -np.sin(AZIMUTH) * x - np.cos(AZIMUTH) * z
    return np.stack(
        (right, np.cos(ELEVATION) * y + np.sin(ELEVATION) * away, np.cos(ELEVATION) * away - np.sin(ELEVATION) * y),
        axis=1,
    )


def _scatter(axis: Axes, view: np.ndarray, middle: np.ndarray, reach: float) -> None:
    """Draws far points first and near points over them."""
    order = view[:, 2].argsort()[::-1]
    right, up, away = view[order].T
    size = max(2.5, 1500 / len(view))  # few points are drawn larger
    # Pixels in vector formats too, because a path for each point would make a figure as large as a megabyte.
    axis.scatter(right, up, c=away, s=size, cmap=COLOURS, linewidths=0, rasterized=True)
    axis.set_xlim(middle[0] - reach, middle[0] + reach)
    axis.set_ylim(middle[1] - reach, middle[1] + reach)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
