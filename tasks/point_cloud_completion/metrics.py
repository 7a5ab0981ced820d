"""Chamfer distances and F-score of predicted clouds, one value a cloud.

Clouds are (points, 3) or (batch, points, 3); the value is a scalar or (batch,).  ``predicted_padding`` and
``target_padding``, bool (points,) or (batch, points), are True at points that don't exist.  The search for the nearest
point is exact, and distances come from differences of coordinates, so clouds far from the origin lose no digits.
ValueError is raised for an empty cloud and for a coordinate that is no finite number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.point_cloud_completion.geometry import gather, nearest_both


class Distances(NamedTuple):
    """Nearest-neighbour distances of two clouds; distance and weight are 0 at padded points."""

    to_target: Tensor  # (batch, n), of each predicted point
    to_predicted: Tensor  # (batch, m), of each target point
    predicted_weight: Tensor  # (batch, n), 1 / number of real points
    target_weight: Tensor  # (batch, m)


def chamfer_l1(
    predicted: Tensor, target: Tensor, *, predicted_padding: Tensor | None = None, target_padding: Tensor | None = None
) -> Tensor:
    """Half the sum of the two mean distances: {(0,0,0)} and {(3,4,0)} give 5.  PoinTr's CD-L1 is this times 1000."""
    value = chamfer_l1_of(_checked_distances(predicted, target, predicted_padding, target_padding))
    return value if predicted.dim() == 3 else value[0]


def chamfer_l2(
    predicted: Tensor, target: Tensor, *, predicted_padding: Tensor | None = None, target_padding: Tensor | None = None
) -> Tensor:
    """The sum, not halved, of the two mean squared distances: {(0,0,0)} and {(3,4,0)} give 50.

    PoinTr's CD-L2 is this times 1000.
    """
    value = chamfer_l2_of(_checked_distances(predicted, target, predicted_padding, target_padding))
    return value if predicted.dim() == 3 else value[0]


def f_score(
    predicted: Tensor,
    target: Tensor,
    threshold: float = 0.01,
    *,
    predicted_padding: Tensor | None = None,
    target_padding: Tensor | None = None,
) -> Tensor:
    """Harmonic mean of precision and recall, 0 where both are 0.

    Precision is the share of predicted points whose distance (not its square) to the target is below the threshold,
    recall the share of target points whose distance to the prediction is.
    """
    distances = _checked_distances(predicted, target, predicted_padding, target_padding)
    value = f_score_of(distances, threshold)
    return value if predicted.dim() == 3 else value[0]


def chamfer_l1_of(distances: Distances) -> Tensor:
    """``chamfer_l1`` from known distances.  (batch,)"""
    forth = (distances.to_target * distances.predicted_weight).sum(1)
    return (forth + (distances.to_predicted * distances.target_weight).sum(1)) / 2


def chamfer_l2_of(distances: Distances) -> Tensor:
    """``chamfer_l2`` from known distances.  (batch,)"""
    forth = (distances.to_target.square() * distances.predicted_weight).sum(1)
    return forth + (distances.to_predicted.square() * distances.target_weight).sum(1)


def f_score_of(distances: Distances, threshold: float = 0.01) -> Tensor:
    """``f_score`` from known distances.  (batch,)"""
    precision = ((distances.to_target < threshold) * distances.predicted_weight).sum(1)
    recall = ((distances.to_predicted < threshold) * distances.target_weight).sum(1)
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total.clamp_min(1e-30), 0.0)  # avoids 0 / 0


def nearest_distances(
    predicted: Tensor, target: Tensor, *, predicted_padding: Tensor | None = None, target_padding: Tensor | None = None
) -> Distances:
    """The distances in both directions, without the checks of the public metrics.

    They have gradients in the coordinates of the pairs that the search finds; the search itself has none.
    predicted: (batch, n, 3).  target: (batch, m, 3).
    """
    forth, back = nearest_both(predicted, target, first_padding=predicted_padding, second_padding=target_padding)
    # vector_norm has the gradient 0 at distance 0, where a square root of squares would give NaN.
    to_target = torch.linalg.vector_norm(predicted - gather(target, forth), dim=2)
    to_predicted = torch.linalg.vector_norm(target - gather(predicted, back), dim=2)
    if predicted_padding is not None:
        to_target = to_target.masked_fill(predicted_padding, 0)
    if target_padding is not None:
        to_predicted = to_predicted.masked_fill(target_padding, 0)
    return Distances(
        to_target, to_predicted, _weight(to_target, predicted_padding), _weight(to_predicted, target_padding)
    )


def _weight(distance: Tensor, padding: Tensor | None) -> Tensor:
    """Weights (batch, n) with which a sum over points becomes a mean over the real points."""
    if padding is None:
        return torch.full_like(distance, 1 / distance.shape[1])
    real = (~padding).to(distance.dtype)
    return real / real.sum(1, keepdim=True)


def _checked_distances(
    predicted: Tensor, target: Tensor, predicted_padding: Tensor | None, target_padding: Tensor | None
) -> Distances:
    if predicted.dim() != target.dim():
        raise ValueError(
            f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)}: both (points, 3) or both "
            "(batch, points, 3)"
        )
    pairs = (("predicted", predicted, predicted_padding), ("target", target, target_padding))
    (predicted, predicted_padding), (target, target_padding) = (_checked(*pair) for pair in pairs)
    if len(predicted) != len(target):
        raise ValueError(f"predicted has {len(predicted)} clouds and target {len(target)}: the numbers must be equal")
    return nearest_distances(predicted, target, predicted_padding=predicted_padding, target_padding=target_padding)


def _checked(name: str, cloud: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A batch of clouds and its padding."""
    if cloud.dim() not in (2, 3) or cloud.shape[-1] != 3 or not cloud.is_floating_point():
        raise ValueError(
            f"{name}: a floating-point cloud (points, 3) or (batch, points, 3) is needed, not {cloud.dtype} "
            f"{tuple(cloud.shape)}"
        )
    if padding is not None and (padding.dtype != torch.bool or padding.shape != cloud.shape[:-1]):
        raise ValueError(
            f"{name}_padding: bool {tuple(cloud.shape[:-1])} is needed, True where padded, not {padding.dtype} "
            f"{tuple(padding.shape)}"
        )
    if cloud.dim() == 2:
        cloud, padding = cloud[None], padding if padding is None else padding[None]
    if cloud.shape[1] == 0 or (padding is not None and bool(padding.all(1).any())):
        raise ValueError(f"{name}: an empty cloud has no distance to another")
    if padding is not None:
        cloud = cloud.masked_fill(padding[..., None], 0)
    if not bool(cloud.isfinite().all()):
        raise ValueError(f"{name}: a coordinate is no finite number")
    return cloud, padding
