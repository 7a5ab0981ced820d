"""The centres of a cloud and the neighbours of its points.

They depend on the geometry alone, so they can be found once for each cloud and kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.point_cloud_completion.geometry import farthest_points, gather, neighbours


class GroupSizes(NamedTuple):
    """Sizes of the grouper: the centres on its two levels, and the neighbours of a point."""

    num_centres: int  # of the first level
    num_proxies: int  # of the second, the tokens of the encoder
    num_neighbours: int  # for the edge convolutions
    num_proxy_neighbours: int  # for the branch beside the attention


class Groups(NamedTuple):
    """Indices, int64 (batch, …).

    Centres are in the order of farthest-point sampling; the first num_proxies of them are the proxies.
    """

    centres: Tensor  # (b, num_centres), indices into the points
    centre_padding: Tensor  # bool (b, num_centres), True where the cloud had no point left
    of_points: Tensor  # (b, n, k), neighbours of each point among the points
    of_centres: Tensor  # (b, num_centres, k), neighbours of each centre among the points
    among_centres: Tensor  # (b, num_centres, k), neighbours of each centre among the centres
    of_proxies: Tensor  # (b, num_proxies, k), neighbours of each proxy among the centres
    among_proxies: Tensor  # (b, num_proxies, num_proxy_neighbours), neighbours of each proxy among the proxies


@torch.no_grad()
def find_groups(points: Tensor, sizes: GroupSizes, *, padding: Tensor | None = None) -> Groups:
    """The groups of each cloud.  points: (batch, n, 3).  padding: bool (batch, n), True where padded."""
    centres, centre_padding = farthest_points(points, sizes.num_centres, padding=padding)
    at_centres = gather(points, centres)
    at_proxies, proxy_padding = at_centres[:, : sizes.num_proxies], centre_padding[:, : sizes.num_proxies]
    k = sizes.num_neighbours
    return Groups(
        centres,
        centre_padding,
        neighbours(points, points, k, source_padding=padding),
        neighbours(at_centres, points, k, source_padding=padding),
        neighbours(at_centres, at_centres, k, source_padding=centre_padding),
        neighbours(at_proxies, at_centres, k, source_padding=centre_padding),
        neighbours(at_proxies, at_proxies, sizes.num_proxy_neighbours, source_padding=proxy_padding),
    )
