"""Layers for sequences of unequal length: padded places count as absent in convolutions and in batch statistics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def padding_mask(lengths: Tensor, length: int) -> Tensor:
    """bool (batch, length), True where padded.  lengths: (batch,)"""
    return torch.arange(length, device=lengths.device) >= lengths[:, None]


def without_padding(x: Tensor, padded: Tensor) -> Tensor:
    """Zeros at padded places.  x: (b, n, c); padded: (b, n)"""
    return x.masked_fill(padded[:, :, None], 0.0)


def mean_by_row(values: Tensor, padded: Tensor) -> Tensor:
    """Mean over the real places of each row, and over the channels.  values: (b, n) or (b, n, c).  Returns (b,)."""
    values = values if values.dim() == 2 else values.mean(2)
    return values.masked_fill(padded, 0.0).sum(1) / (~padded).sum(1)


class Convolution(nn.Module):
    """Along time, as long as its input; beyond an end, and at padded places, stand zeros."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.convolution = nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (b, n, in_dim).  padded: (b, n).  Returns (b, n, out_dim)."""
        if (
            self.kernel_size == 1
        ):  # one place alone: nothing of the padding comes in, and a product needs no transposing
            return F.linear(x, self.convolution.weight[:, :, 0], self.convolution.bias)
        return self.convolution(without_padding(x, padded).mT).mT


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over (batch, time) of (b, n, c); its statistics are those of the real places."""

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            assert mean is not None
            assert variance is not None
        else:
            weight = (~padded).to(x.dtype)[:, :, None]
            count = weight.sum()
            mean = (x * weight).sum((0, 1)) / count
            variance = ((x - mean).square() * weight).sum((0, 1)) / count
            with torch.no_grad():
                assert self.momentum is not None
                assert self.running_mean is not None
                assert self.running_var is not None
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                unbiased = variance * count / (count - 1).clamp_min(1)
                self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class ConvolutionStack(nn.Module):
    """Convolution, batch norm, activation, dropout, several times; the last layer of a postnet has no activation.

    sizes  channels, from the input's to the output's
    """

    def __init__(self, sizes: list[int], kernel_size: int, dropout: float, *, activation: str, last: bool) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.convolutions = nn.ModuleList(Convolution(a, b, kernel_size) for a, b in pairs)
        self.norms = nn.ModuleList(MaskedBatchNorm(b) for _, b in pairs)
        activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}
        self.activation = activations[activation]
        self.num_activated = len(pairs) if last else len(pairs) - 1
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x, padded), padded)
            x = self.dropout(self.activation(x) if number < self.num_activated else x)
        return x


class ScaledPositions(nn.Module):
    """Sinusoids times a learned scale.

    rate: how many steps a position counts.  longest: the period of the slowest sinusoid in steps, by 2 pi.
    scale: where the learned scale starts.
    """

    table: Tensor

    def __init__(
        self, embed_dim: int, max_length: int, *, rate: float = 1.0, longest: float = 10_000.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        positions = torch.arange(max_length)[:, None] * rate
        frequencies = torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(longest) / embed_dim))
        angles = positions * frequencies
        self.register_buffer("table", torch.stack((angles.sin(), angles.cos()), 2).flatten(1), persistent=False)
        self.scale = nn.Parameter(torch.full((), scale))

    def forward(self, first: int, length: int) -> Tensor:
        """(length, embed_dim), from position ``first`` on."""
        return self.scale * self.table[first : first + length]
