"""Bases of LAVO's memory: (heads, rank, head_dim), one for each head, with orthonormal rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BASES = ("learned", "fixed", "identity", "free", "none")


def random_basis(num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, uniformly distributed.  (num_heads, rank, head_dim)"""
    gaussian = torch.randn(num_heads, head_dim, head_dim, generator=generator, dtype=torch.float64)
    columns, triangle = torch.linalg.qr(gaussian)
    signs = triangle.diagonal(
        dim1=1, dim2=2
    ).sign()  # without them the distribution would depend on LAPACK's convention
    return (columns * signs[:, None]).mT[:, :rank].float()


class LearnedBasis(nn.Module):
    """A fixed random basis, turned by the Cayley transform of a skew matrix: orthonormal under any optimiser.

    The transform is a rotation for every W, and the identity for W = 0.
    """

    def __init__(self, num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.zeros(num_heads, head_dim, head_dim))
        self.register_buffer("start", random_basis(num_heads, rank, head_dim, generator))
        self.start: Tensor
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self) -> Tensor:
        """The basis; without gradients the last one again, as long as the weights are equal."""
        if torch.is_grad_enabled():
            return self.rotate()
        # Decoding asks for the basis once a token.  Values are compared, because weights can change without a trace.
        if self._last is None or self._last[0].dtype != self.rotation.dtype or not same(self._last[0], self.rotation):
            self._last = self.rotation.clone(), self.rotate()
        return self._last[1]

    def rotate(self) -> Tensor:
        """The basis, computed anew."""
        weight = self.rotation.to(torch.promote_types(self.rotation.dtype, torch.float32))
        return Cayley.apply(weight, self.start.to(weight.dtype))


class Cayley(torch.autograd.Function):
    """S (I - A)(I + A)⁻¹ = S (2 (I + A)⁻¹ - I) with A = W - Wᵀ: one inverse forward, only products backward.

    For 8 heads of 64, forward and backward take less than half the time of torch.nn.utils.parametrizations.orthogonal with
    its Cayley map, and less than a tenth of that with its other maps.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, start: Tensor) -> Tensor:
        """weight: (h, d, d), start: (h, r, d) -> (h, r, d)"""
        one = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        inverse = torch.linalg.inv(one + weight - weight.mT)
        ctx.save_for_backward(inverse, start)
        basis = 2 * start @ inverse - start
        # Rounding leaves the basis not quite orthonormal, for a large A or a start in low precision.  One step of Newton and
        # Schulz squares that error.  To first order the step is the identity, so the backward pass leaves it out.
        return 1.5 * basis - 0.5 * (basis @ basis.mT) @ basis

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """grad: (h, r, d) -> (h, d, d)"""
        inverse, start = ctx.saved_tensors
        skew = -2 * (start @ inverse).mT @ (grad @ inverse.mT)
        return skew - skew.mT, None


def same(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same values on the same device."""
    return a.device == b.device and torch.equal(a, b)


class FixedBasis(nn.Module):
    """A basis that is not trained, stored as a buffer."""

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.basis: Tensor

    def forward(self) -> Tensor:
        """The basis, (heads, rank, head_dim)."""
        return self.basis


class FreeBasis(nn.Module):
    """The ablation: a trained matrix without constraint, orthonormal only at the start."""

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis)

    def forward(self) -> Tensor:
        """The basis, (heads, rank, head_dim)."""
        return self.basis


class HeadAxes(nn.Module):
    """The identity with rank = head_dim: None, which stands for the head's own axes and costs no matrix product."""

    def forward(self) -> None:
        """Returns None."""


def make_basis(kind: str, *, num_heads: int, rank: int, head_dim: int, seed: int) -> nn.Module:
    """A module that gives the basis, (heads, rank, head_dim), or None for the head's own axes."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "learned":
        return LearnedBasis(num_heads, rank, head_dim, generator)
    if kind == "fixed":
        return FixedBasis(random_basis(num_heads, rank, head_dim, generator))
    if kind == "free":
        return FreeBasis(random_basis(num_heads, rank, head_dim, generator))
    if kind == "none":
        return FixedBasis(torch.zeros(num_heads, rank, head_dim))  # so that the memory is zero
    if rank == head_dim:
        return HeadAxes()
    return FixedBasis(torch.eye(head_dim)[:rank].repeat(num_heads, 1, 1))


def fold_rows(x: Tensor, basis: Tensor) -> Tensor:
    """B W per head, for a weight (heads * head_dim, embed_dim) or a bias (heads * head_dim,) that makes q, k or v."""
    heads = x.reshape(basis.shape[0], basis.shape[2], -1)
    return (basis.to(heads.dtype) @ heads).reshape(x.shape)


def fold_columns(weight: Tensor, basis: Tensor) -> Tensor:
    """W Bᵀ per head, for the weight (embed_dim, heads * head_dim) that reads the output."""
    return fold_rows(weight.mT, basis).mT.contiguous()
