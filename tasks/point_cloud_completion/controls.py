"""Controls without a model: the partial cloud as it is, the mean shape of the category, the nearest training shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.files import replacing
from tasks.point_cloud_completion.data import CompletionData, Example
from tasks.point_cloud_completion.geometry import nearest_both
from tasks.point_cloud_completion.metrics import chamfer_l1_of, chamfer_l2_of, f_score_of, nearest_distances

CONTROLS_VERSION = 2  # raised when the controls change; their file's name in the cache depends on it
SHAPES, POINTS = 64, 8192  # at most so many training shapes of a category, and so many of their points together
ROUNDS = 8  # of k-means
CANDIDATES, COMPARED = 512, 128  # nearest shape: at most so many training clouds, and so many points of each
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


def control_columns(
    data: CompletionData, *, threshold: float, cache: Path, num_examples: int | None = None
) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Control -> column -> one value a test cloud, for the controls ``partial``, ``mean_shape`` and ``nearest_shape``.

    They are kept in ``cache``, because every cell on the same data needs them.
    num_examples: how many training examples the rules may read, in the order of the training part; None: all.
    """
    num_examples = min(len(data.parts[0]), len(data.parts[0]) if num_examples is None else num_examples)
    key = json.dumps([CONTROLS_VERSION, data.key, threshold, [len(part) for part in data.parts], num_examples])
    path = cache / f"pcc-controls-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if not path.is_file():
        measured = _measured(data, threshold, num_examples)
        with replacing(path) as file:
            np.savez(file, **measured)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        columns: dict[str, dict[str, np.ndarray]] = {}
        for name, values in stored.items():
            control, _, column = name.partition(".")
            columns.setdefault(control, {})[column] = values
    return columns


def _measured(data: CompletionData, threshold: float, num_examples: int) -> dict[str, np.ndarray]:
    """The columns of all controls, by "<control>.<column>"."""
    test = data.parts[2]
    means, known = mean_shapes(data, num_examples), KnownShapes(data, num_examples)
    found: dict[str, list[np.ndarray]] = {}
    for index in range(len(test)):
        example = test[index]
        clouds = {
            "partial": example.partial[~example.padding],
            "mean_shape": means[test.category_of(index)],
            "nearest_shape": known.nearest(example),
        }
        target = (example.complete * example.scale + example.centre)[None]
        for control, cloud in clouds.items():
            at_home = (cloud * example.scale + example.centre)[None]
            for column, value in columns_of(at_home, target, threshold=threshold).items():
                found.setdefault(f"{control}.{column}", []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


class KnownShapes:
    """Training examples among which the control ``nearest_shape`` looks."""

    def __init__(self, data: CompletionData, num_examples: int) -> None:
        train = data.parts[0]
        examples = [train[index] for index in range(min(num_examples, CANDIDATES))]
        self.partial = torch.stack([example.partial[:COMPARED] for example in examples])
        self.padding = torch.stack([example.padding[:COMPARED] for example in examples])
        self.complete = [example.complete for example in examples]

    def nearest(self, example: Example) -> Tensor:
        """The complete cloud (num_target, 3) of the example with the most similar partial cloud, measured by CD-L1.

        All clouds are in the model's frame.
        """
        partial, padding = (
            x[:COMPARED].expand(len(self.partial), *x[:COMPARED].shape) for x in (example.partial, example.padding)
        )
        distances = nearest_distances(self.partial, partial, predicted_padding=self.padding, target_padding=padding)
        return self.complete[int(chamfer_l1_of(distances).argmin())]


def mean_shapes(data: CompletionData, num_examples: int) -> list[Tensor]:
    """One cloud (num_target, 3) for each category, in the frame that a partial cloud gives.

    Its points are the means of k-means over the points of the category's training shapes: a (locally) best cloud of this
    size, measured by the mean squared distance from those points to it.  A category of which the first num_examples have no
    shape gets the mean of all categories.
    """
    train = data.parts[0]
    everything = range(0, num_examples, max(1, num_examples // SHAPES))
    means = []
    for category in range(len(data.categories)):
        own = [index for index in train.shapes_of(category, SHAPES) if index < num_examples]
        means.append(_mean_shape([train[index].complete for index in own or everything]))
    return means


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
