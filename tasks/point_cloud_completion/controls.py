"""Controls without a model: the partial cloud as it is, and the mean shape of the category."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.files import replacing
from tasks.point_cloud_completion.data import CompletionData
from tasks.point_cloud_completion.geometry import nearest_both
from tasks.point_cloud_completion.metrics import chamfer_l1_of, chamfer_l2_of, f_score_of, nearest_distances

MEAN_SHAPE_VERSION = 1  # raised when the mean shapes change; their file's name in the cache depends on it
SHAPES, POINTS = 64, 8192  # at most so many training shapes of a category, and so many of their points together
ROUNDS = 8  # of k-means
UNIT = 1000.0  # tables show Chamfer distances times this


def columns_of(
    predicted: Tensor, target: Tensor, *, threshold: float, predicted_padding: Tensor | None = None
) -> dict[str, Tensor]:
    """The task's columns (batch,) of a batch, with Chamfer distances in the unit of the tables.

    predicted: (batch, n, 3).  target: (batch, m, 3).  Both are in the data's coordinates.
    predicted_padding: bool (batch, n), True where padded.
    """
    distances = nearest_distances(predicted.double(), target.double(), predicted_padding=predicted_padding)
    return {
        "chamfer_l1": chamfer_l1_of(distances) * UNIT,
        "chamfer_l2": chamfer_l2_of(distances) * UNIT,
        "f_score": f_score_of(distances, threshold),
    }


def control_columns(data: CompletionData, *, threshold: float, cache: Path) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Control -> column -> one value a test cloud, for the controls ``partial`` and ``mean_shape``.

    They are kept in ``cache``, because every cell on the same data needs them.
    """
    key = json.dumps([MEAN_SHAPE_VERSION, data.key, threshold, [len(part) for part in data.parts]])
    path = cache / f"pcc-controls-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if not path.is_file():
        measured = _measured(data, threshold)
        with replacing(path) as file:
            np.savez(file, **measured)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        columns: dict[str, dict[str, np.ndarray]] = {}
        for name, values in stored.items():
            control, _, column = name.partition(".")
            columns.setdefault(control, {})[column] = values
    return columns


def _measured(data: CompletionData, threshold: float) -> dict[str, np.ndarray]:
    """The columns of both controls, by "<control>.<column>"."""
    test = data.parts[2]
    means = mean_shapes(data)
    found: dict[str, list[np.ndarray]] = {}
    for index in range(len(test)):
        example = test[index]
        at_home = [x * example.scale + example.centre for x in (example.partial, means[test.category_of(index)])]
        target = (example.complete * example.scale + example.centre)[None]
        seen = at_home[0][~example.padding]
        for control, cloud in (("partial", seen), ("mean_shape", at_home[1])):
            for column, value in columns_of(cloud[None], target, threshold=threshold).items():
                found.setdefault(f"{control}.{column}", []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def mean_shapes(data: CompletionData) -> list[Tensor]:
    """One cloud (num_target, 3) for each category, in the frame that a partial cloud gives.

    Its points are the means of k-means over the points of the category's training shapes: a (locally) best cloud of this
    size, measured by the mean squared distance from those points to it.
    """
    train = data.parts[0]
    everything = range(0, len(train), max(1, len(train) // SHAPES))
    return [
        _mean_shape([train[i].complete for i in train.shapes_of(category, SHAPES) or everything])
        for category in range(len(data.categories))
    ]


def _mean_shape(clouds: Sequence[Tensor]) -> Tensor:
    pooled = torch.cat(list(clouds))
    num = len(clouds[0])
    generator = torch.Generator().manual_seed(0)
    pooled = pooled[torch.randperm(len(pooled), generator=generator)[: max(POINTS, num)]]
    means = pooled[:num].clone()
    for _ in range(ROUNDS):
        nearest = nearest_both(pooled[None], means[None])[0][0]
        sums = torch.zeros_like(means).index_add_(0, nearest, pooled)
        count = torch.bincount(nearest, minlength=num)[:, None]
        means = torch.where(count > 0, sums / count.clamp_min(1), means)
    return means
