"""Which points of a cloud are centres, and which are whose neighbours: geometry alone, so it can be prepared once a cloud."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.point_cloud_completion.geometry import farthest_points, gather, neighbours


class GroupSizes(NamedTuple):
    """Of the grouper: how many centres its two levels have, and how many neighbours a point."""

    num_centres: int  # of the first level
    num_proxies: int  # of the second, the tokens of the encoder
    num_neighbours: int  # in the edge convolutions
    num_proxy_neighbours: int  # in the branch beside the attention


class Groups(NamedTuple):
    """Indices, int64 (batch, …).  The proxies are the first of the centres, in the order of farthest-point sampling."""

    centres: Tensor  # (b, num_centres), into the points
    centre_padding: Tensor  # bool (b, num_centres), True where the cloud had no further point
    of_points: Tensor  # (b, n, k), each point's neighbours among the points
    of_centres: Tensor  # (b, num_centres, k), each centre's among the points
    among_centres: Tensor  # (b, num_centres, k), each centre's among the centres
    of_proxies: Tensor  # (b, num_proxies, k), each proxy's among the centres
    among_proxies: Tensor  # (b, num_proxies, num_proxy_neighbours), each proxy's among the proxies


@torch.no_grad()
def find_groups(points: Tensor, sizes: GroupSizes, *, padding: Tensor | None = None) -> Groups:
    """points: (batch, n, 3).  padding: bool (batch, n)."""
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
