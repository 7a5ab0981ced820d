"""Layers for sequences of unequal length; convolutions and batch statistics ignore padded places."""

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
    """x with zeros at padded places.  x: (b, n, c).  padded: bool (b, n)."""
    return x.masked_fill(padded[:, :, None], 0.0)


def mean_by_row(values: Tensor, padded: Tensor) -> Tensor:
    """Mean over the real places of each row, and over the channels.

    values: (b, n) or (b, n, c).  padded: bool (b, n).  Returns (b,).
    """
    values = values if values.dim() == 2 else values.mean(2)
    return values.masked_fill(padded, 0.0).sum(1) / (~padded).sum(1)


class Convolution(nn.Module):
    """Convolution along time that keeps the length; it reads zeros at padded places and beyond the ends."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.convolution = nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (b, n, in_dim).  padded: bool (b, n).  Returns (b, n, out_dim)."""
        if self.kernel_size == 1:  # no place reads another one, so padding needs no mask, and a product no transposing
            return F.linear(x, self.convolution.weight[:, :, 0], self.convolution.bias)
        return self.convolution(without_padding(x, padded).mT).mT


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over batch and time, with the statistics of the real places."""

    # If several processes share a batch, the engine sets a function that adds up a tensor over them.
    sum_over_processes: Callable[[Tensor], Tensor] = staticmethod(lambda x: x)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:  # type: ignore[override]
        """x: (b, n, c).  padded: bool (b, n).  Returns (b, n, c)."""
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            assert mean is not None
            assert variance is not None
        else:
            weight = (~padded).to(x.dtype)[:, :, None]
            count = self.sum_over_processes(weight.sum())
            mean = self.sum_over_processes((x * weight).sum((0, 1))) / count
            variance = self.sum_over_processes(((x - mean).square() * weight).sum((0, 1))) / count
            with torch.no_grad():
                assert self.momentum is not None
                assert self.running_mean is not None
                assert self.running_var is not None
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                unbiased = variance * count / (count - 1).clamp_min(1)
                self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class ConvolutionStack(nn.Module):
    """Several layers of convolution, batch norm, activation and dropout.

    sizes       channels, from those of the input to those of the output
    activation  "relu" or "tanh"
    last        False: the last layer has no activation, as in a postnet
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
        """x: (b, n, sizes[0]).  padded: bool (b, n).  Returns (b, n, sizes[-1])."""
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x, padded), padded)
            x = self.dropout(self.activation(x) if number < self.num_activated else x)
        return x


class ScaledPositions(nn.Module):
    """Sinusoids of the positions, times a learned scale.

    rate     steps that a position counts
    longest  the period of the slowest sinusoid, in steps, divided by 2 pi
    scale    the learned scale at the start
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
