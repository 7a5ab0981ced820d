"""PoinTr (Yu et al., ICCV 2021, arXiv 2108.08839): a cloud seen from one side -> point proxies -> Transformer -> the whole.

All tensors are (batch, points, channels).  Padded points are left out of every neighbourhood, statistic, maximum and
attention, so a cloud gives the same result in any batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import AttentionFactory, Pattern
from tasks.point_cloud_completion.geometry import gather, neighbours
from tasks.point_cloud_completion.grouping import Groups, GroupSizes, find_groups

SLOPE = 0.2  # of every leaky ReLU
QUERY_NEIGHBOURS = 8  # neighbours in the branches beside the attentions


class Completion(NamedTuple):
    """The two predicted clouds, without the input's points."""

    coarse: Tensor  # (b, num_queries, 3)
    dense: Tensor  # (b, num_queries · fold_size², 3)


class PoinTr(nn.Module):
    """Completes clouds.

    attention_for   makes the attention layers: noncausal_self in encoder and decoder, noncausal_cross in the decoder
    num_centres, num_proxies, num_neighbours   sizes of the grouper (``GroupSizes``)
    group_dims      widths of the grouper's input map and of its four edge convolutions
    num_queries     number of coarse points; each becomes a patch of fold_size² points
    global_dim      width of the one feature that describes the whole cloud; 0: there is none, and the queries start from
                    learnt places and features, so that only the cross-attention tells them about the input
    fold_dim        width of the folding maps
    num_frequencies so many waves of each coordinate stand beside it where a proxy's place is mapped
    num_branches    so many first blocks of encoder and decoder have a branch of neighbours beside the attention
    """

    def __init__(
        self,
        *,
        attention_for: AttentionFactory,
        embed_dim: int = 384,
        num_heads: int = 6,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        num_centres: int = 512,
        num_proxies: int = 128,
        num_neighbours: int = 16,
        group_dims: Sequence[int] = (8, 32, 64, 64, 128),
        num_queries: int = 224,
        fold_size: int = 8,
        global_dim: int = 1024,
        fold_dim: int = 256,
        num_branches: int = 1,
        num_frequencies: int = 0,
    ) -> None:
        super().__init__()
        self.sizes = GroupSizes(num_centres, num_proxies, num_neighbours, QUERY_NEIGHBOURS)
        self.has_branches = num_branches > 0
        self.grouper = Grouper(group_dims)
        self.proxy_map = PointMap(group_dims[-1], embed_dim, embed_dim)
        self.num_frequencies = num_frequencies
        self.position_map = PointMap(3 + 6 * num_frequencies, 128, embed_dim)

        def site(pattern: Pattern, max_length: int, layer: int) -> NeighbourAttention:
            attention = attention_for(
                pattern, max_length=max_length, embed_dim=embed_dim, num_heads=num_heads, bias=False
            )
            return NeighbourAttention(attention, embed_dim, branch=layer < num_branches)

        def encoder_block(layer: int) -> EncoderBlock:
            own = site("noncausal_self", num_proxies, layer)
            return EncoderBlock(own, Mlp(embed_dim, int(embed_dim * mlp_ratio)), embed_dim, drop_path)

        def decoder_block(layer: int) -> DecoderBlock:
            own = site("noncausal_self", num_queries, layer)
            cross = site("noncausal_cross", max(num_queries, num_proxies), layer)
            return DecoderBlock(own, cross, Mlp(embed_dim, int(embed_dim * mlp_ratio)), embed_dim, drop_path)

        self.encoder = nn.ModuleList(map(encoder_block, range(num_encoder_layers)))
        self.queries = (
            QueriesOfCloud(num_queries, embed_dim, global_dim) if global_dim else Queries(num_queries, embed_dim)
        )
        self.decoder = nn.ModuleList(map(decoder_block, range(num_decoder_layers)))
        self.result_map = PointMap(embed_dim, global_dim, global_dim) if global_dim else None
        self.reduce = nn.Linear(global_dim + embed_dim + 3, embed_dim)
        self.fold = Fold(embed_dim, fold_dim, fold_size)

    def forward(self, points: Tensor, padding: Tensor | None = None, groups: Groups | None = None) -> Completion:
        """The completion of each cloud.

        points: (batch, n, 3).  padding: bool (batch, n), True where padded.
        groups: what ``find_groups`` gives for these points; None: they are found here.
        """
        if padding is not None:
            points = points.masked_fill(padding[..., None], 0)
            padding = padding if bool(padding.any()) else None
        if groups is None:
            groups = find_groups(points, self.sizes, padding=padding)
        features, at_proxies, padding = self.grouper(points, padding, groups, self.sizes.num_proxies)
        x = self.proxy_map(features, padding)
        position = self.position_map(with_waves(at_proxies, self.num_frequencies), padding)
        for block in self.encoder:
            x = block(x + position, groups.among_proxies, padding)  # (b, m, e)

        coarse, q = self.queries(x, padding)
        among_queries = neighbours(coarse, coarse, QUERY_NEIGHBOURS) if self.has_branches else None
        of_queries = (
            neighbours(coarse, at_proxies, QUERY_NEIGHBOURS, source_padding=padding) if self.has_branches else None
        )
        for block in self.decoder:
            q = block(q, x, among_queries, of_queries, padding)  # (b, q, e)

        if self.result_map is not None:
            q = _beside(_maximum(self.result_map(q), None), q)
        q = self.reduce(torch.cat((q, coarse.to(q.dtype)), dim=2))
        patches = self.fold(q).float() + coarse[:, :, None]
        return Completion(coarse, patches.flatten(1, 2))


class QueriesOfCloud(nn.Module):
    """PoinTr's queries: the maximum over proxies gives one feature of the cloud, and this gives places and features."""

    def __init__(self, num_queries: int, embed_dim: int, global_dim: int) -> None:
        super().__init__()
        self.global_map = PointMap(embed_dim, global_dim, global_dim)
        self.coarse_head = nn.Sequential(
            nn.Linear(global_dim, global_dim), nn.ReLU(), nn.Linear(global_dim, 3 * num_queries)
        )
        self.query_head = nn.Sequential(
            nn.Linear(global_dim + 3, global_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(global_dim, global_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(global_dim, embed_dim),
        )

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The coarse points, float32 (b, q, 3), and the queries (b, q, e).  x: (b, m, e).  padding: bool (b, m)."""
        cloud = _maximum(self.global_map(x, padding), padding)  # (b, global_dim)
        coarse = rearrange(self.coarse_head(cloud), "b (q c) -> b q c", c=3).float()
        return coarse, self.query_head(_beside(cloud, coarse.to(cloud.dtype)))


class Queries(nn.Module):
    """Queries that are the same for every cloud: learnt places and features."""

    def __init__(self, num_queries: int, embed_dim: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(num_queries, 3) - 0.5)
        self.features = nn.Parameter(torch.randn(num_queries, embed_dim))

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The coarse points, float32 (b, q, 3), and the queries (b, q, e).  x: (b, m, e), of which only the size counts."""
        coarse, q = (values.expand(len(x), -1, -1) for values in (self.places.float(), self.features.to(x.dtype)))
        return coarse, q


class Grouper(nn.Module):
    """Features of the proxies, by DGCNN: four edge convolutions, over the points and then over two levels of centres."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(3, dims[0])
        self.layers = nn.ModuleList(EdgeConvolution(narrow, wide) for narrow, wide in itertools.pairwise(dims))

    def forward(
        self, points: Tensor, padding: Tensor | None, groups: Groups, num_proxies: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (b, m, dims[-1]), positions (b, m, 3) and padding (b, m) of the m proxies.

        points: (b, n, 3).  padding: bool (b, n).  A padding is None if nothing is padded.
        """
        centre_padding = groups.centre_padding if bool(groups.centre_padding.any()) else None
        proxy_padding = None if centre_padding is None else centre_padding[:, :num_proxies]
        if proxy_padding is not None and not bool(proxy_padding.any()):
            proxy_padding = None
        f = self.first(points)
        f = self.layers[0](f, f, groups.of_points, padding)
        f = self.layers[1](gather(f, groups.centres), f, groups.of_centres, centre_padding)
        f = self.layers[2](f, f, groups.among_centres, centre_padding)
        f = self.layers[3](f[:, :num_proxies], f, groups.of_proxies, proxy_padding)
        return f, gather(points, groups.centres[:, :num_proxies]), proxy_padding


class EdgeConvolution(nn.Module):
    """max over j of act(norm(W (f_j − f_i, f_i))), where j are the neighbours of i.

    The norm is over all real pairs of a cloud.  Two shortcuts compute the same:
    W is applied to points and not to pairs, because W (f_j − f_i, f_i) = W₁ f_j + (W₂ − W₁) f_i.
    The maximum is taken before norm and activation, because both are monotone in each channel; where the norm's weight
    is negative, the minimum takes its place.
    """

    def __init__(self, in_dim: int, out_dim: int, *, num_groups: int = 4) -> None:
        super().__init__()
        self.map = nn.Linear(2 * in_dim, out_dim, bias=False)
        self.norm = nn.GroupNorm(num_groups, out_dim)

    def forward(self, centre: Tensor, source: Tensor, neighbours: Tensor, padding: Tensor | None) -> Tensor:
        """The new features of the centres, (b, n, out_dim).

        centre: (b, n, c).  source: (b, m, c).  neighbours: (b, n, k), indices into source.  padding: bool (b, n).
        """
        ahead, own = self.map.weight.chunk(2, dim=1)
        pairs = gather(F.linear(source, ahead), neighbours) + F.linear(centre, own - ahead)[:, :, None]  # (b, n, k, c)
        mean, deviation = self._statistics(pairs.float(), padding)
        weight = self.norm.weight / deviation  # (b, 1, c)
        extreme = torch.where(weight >= 0, pairs.amax(2), pairs.amin(2))
        return F.leaky_relu((extreme - mean) * weight + self.norm.bias, SLOPE).to(pairs.dtype)

    def _statistics(self, pairs: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and deviation over the real pairs of a cloud, for each group of channels; each (b, 1, c).

        pairs: (b, n, k, c).  padding: bool (b, n).
        """
        (b, n), groups = pairs.shape[:2], self.norm.num_groups
        if padding is None:
            share = pairs.new_full((b, n), 1 / n)
        else:
            share = (~padding).to(pairs.dtype)
            share = share / share.sum(1, keepdim=True)

        def mean_of(values: Tensor) -> Tensor:
            by_channel = torch.einsum("bnc,bn->bc", values.mean(2), share)
            mean = rearrange(by_channel, "b (g c) -> b g c", g=groups).mean(2)
            return repeat(mean, "b g -> b 1 (g c)", c=values.shape[3] // groups)

        mean = mean_of(pairs)
        return mean, (mean_of((pairs - mean[:, :, None]).square()) + self.norm.eps).sqrt()


class PointMap(nn.Module):
    """Linear, batch norm, leaky ReLU and linear, on each real point; padded points give 0."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden_dim, out_dim),
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """x: (b, n, in_dim).  padding: bool (b, n).  Returns (b, n, out_dim)."""
        if padding is None:
            return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        real = self.layers(x[~padding])  # so that the norm's statistics are over real points only
        out = real.new_zeros(*x.shape[:2], real.shape[-1])
        out[~padding] = real
        return out


class NeighbourAttention(nn.Module):
    """An attention and, if ``branch``, the maximum over neighbours' features beside it; a linear map merges both.

    The branch stays when the attention is replaced.
    """

    def __init__(self, attention: nn.Module, embed_dim: int, *, branch: bool) -> None:
        super().__init__()
        self.attention = attention
        self.map = nn.Linear(2 * embed_dim, embed_dim) if branch else None
        self.merge = nn.Linear(2 * embed_dim, embed_dim) if branch else None

    def forward(self, query: Tensor, source: Tensor, neighbours: Tensor | None, padding: Tensor | None) -> Tensor:
        """query: (b, n, e).  source: (b, m, e).  neighbours: (b, n, k), indices into source; a layer without
        branch needs none.  padding: bool (b, m).  Returns (b, n, e).
        """
        attended = self.attention(query, source, key_padding_mask=padding)
        if self.map is None or self.merge is None or neighbours is None:
            return attended
        ahead, own = self.map.weight.chunk(2, dim=1)  # the map takes (f_j − f_i, f_i), as in EdgeConvolution
        near = gather(F.linear(source, ahead), neighbours).amax(2) + F.linear(query, own - ahead, self.map.bias)
        return self.merge(torch.cat((attended, F.leaky_relu(near, SLOPE)), dim=2))


class EncoderBlock(nn.Module):
    """Self-attention with its branch, and a feed-forward; the input of both is normalised."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, embed_dim: int, drop_path: float) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, neighbours: Tensor, padding: Tensor | None) -> Tensor:
        """x: (b, m, e).  neighbours: (b, m, k), indices into x.  padding: bool (b, m).  Returns (b, m, e)."""
        y = self.norm1(x)
        x = x + self.drop_path(self.attention(y, y, neighbours, padding))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DecoderBlock(nn.Module):
    """Self-attention of the queries and cross-attention to the proxies, each with its branch, and a feed-forward."""

    def __init__(
        self, self_attention: nn.Module, cross_attention: nn.Module, mlp: nn.Module, embed_dim: int, drop_path: float
    ) -> None:
        super().__init__()
        self.self_attention, self.cross_attention, self.mlp = self_attention, cross_attention, mlp
        self.norm1, self.norm_query, self.norm_source, self.norm2 = (nn.LayerNorm(embed_dim) for _ in range(4))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, q: Tensor, source: Tensor, among_queries: Tensor | None, of_queries: Tensor | None, padding: Tensor | None
    ) -> Tensor:
        """q: (b, n, e).  source: (b, m, e).  padding: bool (b, m), of the source.  Returns (b, n, e).

        among_queries: (b, n, k), each query's neighbours among the queries.  of_queries: (b, n, k), in the source.
        """
        y = self.norm1(q)
        q = q + self.drop_path(self.self_attention(y, y, among_queries, None))
        cross = self.cross_attention(self.norm_query(q), self.norm_source(source), of_queries, padding)
        q = q + self.drop_path(cross)
        return q + self.drop_path(self.mlp(self.norm2(q)))


class Fold(nn.Module):
    """FoldingNet applied twice: each query's feature bends a flat grid of size² points into a patch around the query."""

    grid: Tensor

    def __init__(self, in_dim: int, hidden_dim: int, size: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
        self.register_buffer("grid", torch.cartesian_prod(line, line), persistent=False)  # (s, 2)
        self.first, self.second = FoldMap(2, in_dim, hidden_dim), FoldMap(3, in_dim, hidden_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features: (b, q, in_dim).  Returns (b, q, s, 3), where s is size²."""
        seeds = self.grid.to(features.dtype).expand(*features.shape[:2], -1, -1)
        return self.second(self.first(seeds, features), features)


class FoldMap(nn.Module):
    """Three linear maps of (seed, feature), with batch norm and ReLU between.

    The part of the first map that belongs to the feature is computed once for each query.
    """

    def __init__(self, seed_dim: int, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.seed_dim = seed_dim
        self.map = nn.Linear(seed_dim + in_dim, hidden_dim)
        self.rest = nn.Sequential(
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim // 2),
            nn.BatchNorm1d(hidden_dim // 2),
            nn.ReLU(),
            nn.Linear(hidden_dim // 2, 3),
        )

    def forward(self, seeds: Tensor, features: Tensor) -> Tensor:
        """seeds: (b, q, s, seed_dim).  features: (b, q, in_dim).  Returns (b, q, s, 3)."""
        of_seed, of_feature = self.map.weight.split((self.seed_dim, features.shape[-1]), dim=1)
        hidden = F.linear(seeds, of_seed) + F.linear(features, of_feature, self.map.bias)[:, :, None]
        return self.rest(hidden.flatten(0, 2)).unflatten(0, seeds.shape[:3])


def with_waves(points: Tensor, num: int) -> Tensor:
    """The coordinates, then sine and cosine of them times π, 2 π, 4 π, …, ``num`` frequencies (Tancik et al., 2020).

    Places that are close together differ little in their coordinates, but much in waves of a high frequency.
    points: (b, n, 3).  Returns (b, n, 3 + 6 · num).
    """
    if not num:
        return points
    angles = points[..., None] * (torch.pi * 2 ** torch.arange(num, device=points.device))
    return torch.cat((points, angles.sin().flatten(2), angles.cos().flatten(2)), dim=2)


def _maximum(x: Tensor, padding: Tensor | None) -> Tensor:
    """The maximum over real points.  (b, n, c) -> (b, c)"""
    return (x if padding is None else x.masked_fill(padding[..., None], -torch.inf)).amax(1)


def _beside(cloud: Tensor, x: Tensor) -> Tensor:
    """The cloud's feature put before each point's.  cloud: (b, g).  x: (b, n, c).  Returns (b, n, g + c)."""
    return torch.cat((cloud[:, None].expand(-1, x.shape[1], -1), x), dim=2)
