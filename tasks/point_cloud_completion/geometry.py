"""Nearest points, neighbours and farthest-point sampling of batches of clouds, in plain PyTorch.

A padding is bool (batch, points), True where a point is padded.  The content of a padded point changes nothing, even NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# The number of squared distances held at once: 2 MiB of float64 stay in a CPU's cache, a GPU needs larger pieces.
CPU_BLOCK, GPU_BLOCK = 2**18, 2**26


def nearest_both(
    first: Tensor, second: Tensor, *, first_padding: Tensor | None = None, second_padding: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each point of either cloud the index of the nearest point of the other.

    first: (batch, n, 3).  second: (batch, m, 3).  Returns int64 (batch, n), indices into second, and (batch, m), into first.
    """
    forth = first.new_zeros(first.shape[:2], dtype=torch.int64)
    back = first.new_zeros(second.shape[:2], dtype=torch.int64)
    least = torch.full(second.shape[:2], torch.inf, dtype=torch.float64, device=first.device)
    for clouds, rows, distance in _squared_distances(first, second, first_padding, second_padding):
        forth[clouds, rows] = distance.argmin(2)
        value, index = distance.min(1)
        closer = value < least[clouds]
        least[clouds] = torch.where(closer, value, least[clouds])
        back[clouds] = torch.where(closer, index + rows.start, back[clouds])
    return forth, back


def neighbours(points: Tensor, source: Tensor, k: int, *, source_padding: Tensor | None = None) -> Tensor:
    """The k nearest source points of each point, nearest first.

    If the source has fewer than k points, the nearest one is repeated.
    points: (batch, n, 3).  source: (batch, m, 3).  Returns int64 (batch, n, k), indices into source.
    """
    found = points.new_zeros((*points.shape[:2], k), dtype=torch.int64)
    available = min(k, source.shape[1])
    for clouds, rows, distance in _squared_distances(points, source, None, source_padding):
        values, index = distance.topk(available, dim=2, largest=False)
        index = torch.where(values.isinf(), index[..., :1], index)
        found[clouds, rows, :available] = index
        found[clouds, rows, available:] = index[..., :1]
    return found


def farthest_points(points: Tensor, num: int, *, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Farthest-point sampling: first the point farthest from the mean, then each time the one farthest from all chosen.

    points: (batch, n, 3).  Returns int64 (batch, num), and its padding, bool, True where the cloud has no point left.
    The first m of num chosen points are the points that a sampling of m would choose.
    """
    batch, n, _ = points.shape
    real = torch.ones(batch, n, dtype=torch.bool, device=points.device) if padding is None else ~padding
    count = real.sum(1)
    points = torch.where(real[..., None], points.detach(), 0)
    # Centred in float64 first, so that float32 differences stay exact for a cloud far from the origin.
    mean = points.double().sum(1, keepdim=True) / count.clamp_min(1)[:, None, None]
    x, y, z = (points.double() - mean).float().unbind(2)  # each (b, n), because long rows vectorise
    farthest = torch.where(real, x.square() + y.square() + z.square(), -1.0).argmax(1)
    distance = torch.where(real, torch.inf, -1.0)
    rows = torch.arange(batch, device=points.device)
    chosen = []
    for _ in range(num):  # a loop, because each choice depends on all before it
        chosen.append(farthest)
        own = farthest[:, None]
        squared = (x - x.gather(1, own)).square_()
        squared += (y - y.gather(1, own)).square_()
        squared += (z - z.gather(1, own)).square_()
        torch.minimum(distance, squared, out=distance)
        distance[rows, farthest] = -1.0  # otherwise one of several equal points would be chosen again and again
        farthest = distance.argmax(1)
    none_left = torch.arange(num, device=points.device) >= count[:, None]
    return torch.stack(chosen, dim=1), none_left


def gather(values: Tensor, indices: Tensor) -> Tensor:
    """Each cloud's values at its indices.  values: (batch, n, c).  indices: int64 (batch, …).  Returns (batch, …, c)."""
    firsts = torch.arange(len(values), device=values.device).view(-1, *[1] * (indices.dim() - 1)) * values.shape[1]
    return F.embedding(indices + firsts, values.flatten(0, 1))


def _squared_distances(
    first: Tensor, second: Tensor, first_padding: Tensor | None, second_padding: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields block by block: the clouds, their rows of ``first``, and float64 (clouds, rows, m), infinite where padded.

    A block is one matrix product of (−2 x, |x|², 1) and (y, 1, |y|²).  The product subtracts large numbers, but nothing
    is lost: centred float32 coordinates have 24 bits, their squares 48, and float64 has 53.  So it orders distances more
    exactly than direct differences in float32 would, and takes about half their time.
    """
    first, second = first.detach().double(), second.detach().double()
    centre = _mean(second, second_padding)
    x, x2 = _centred(first, centre, first_padding)
    y, y2 = _centred(second, centre, second_padding)
    left = torch.cat((-2 * x, x2, torch.ones_like(x2)), dim=2)  # (b, n, 5)
    right = torch.cat((y, torch.ones_like(y2), y2), dim=2).transpose(1, 2)  # (b, 5, m)
    (batch, n, _), m = first.shape, second.shape[1]
    block = CPU_BLOCK if first.device.type == "cpu" else GPU_BLOCK
    num_rows = min(n, max(1, block // m))
    num_clouds = max(1, block // (num_rows * m))
    for cloud in range(0, batch, num_clouds):
        clouds = slice(cloud, min(cloud + num_clouds, batch))
        for row in range(0, n, num_rows):
            rows = slice(row, min(row + num_rows, n))
            yield clouds, rows, left[clouds, rows] @ right[clouds]


def _mean(points: Tensor, padding: Tensor | None) -> Tensor:
    """The mean of the real points.  (b, n, 3) -> (b, 1, 3)"""
    if padding is None:
        return points.mean(1, keepdim=True)
    real = ~padding[..., None]
    return torch.where(real, points, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)


def _centred(points: Tensor, centre: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centred coordinates (b, n, 3), 0 where padded, and their squared lengths (b, n, 1), infinite where padded."""
    points = points - centre
    if padding is not None:
        points = points.masked_fill(padding[..., None], 0)
    length = points.square().sum(2, keepdim=True)
    return points, length if padding is None else length.masked_fill(padding[..., None], torch.inf)
