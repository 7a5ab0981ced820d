"""Bases of LAVO's memory: (heads, rank, head_dim), one matrix for each head, with orthonormal rows (except "free")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BASES = ("learned", "fixed", "identity", "free", "none")


def random_basis(num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> Tensor:
    """Returns random matrices with orthonormal rows, uniformly distributed.  (num_heads, rank, head_dim)"""
    gaussian = torch.randn(num_heads, head_dim, head_dim, generator=generator, dtype=torch.float64)
    columns, triangle = torch.linalg.qr(gaussian)
    # Without the signs, the distribution would depend on the signs that LAPACK happens to choose.
    signs = triangle.diagonal(dim1=1, dim2=2).sign()
    return (columns * signs[:, None]).mT[:, :rank].float()


class LearnedBasis(nn.Module):
    """A random basis S that a trained rotation turns, so that it stays orthonormal under any optimiser.

    The rotation is the Cayley transform of the skew matrix W - Wᵀ.  W is the parameter ``rotation``.  The transform is a
    rotation for every W, and the identity for W = 0, where training starts.
    """

    def __init__(self, num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.zeros(num_heads, head_dim, head_dim))
        self.register_buffer("start", random_basis(num_heads, rank, head_dim, generator))
        self.start: Tensor
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self) -> Tensor:
        """Returns the basis, (h, r, d).  Without gradients, the last one is returned again if the weights are still equal."""
        if torch.is_grad_enabled():
            return self.rotate()
        # Decoding asks for the basis at every token, so it is cached.  The values of the weights are compared, because torch
        # has no reliable sign that a parameter was changed (its version counter misses writes to ``.data``).
        if self._last is None or self._last[0].dtype != self.rotation.dtype or not same(self._last[0], self.rotation):
            self._last = self.rotation.clone(), self.rotate()
        return self._last[1]

    def rotate(self) -> Tensor:
        """Computes the basis, (h, r, d), from the weights."""
        weight = self.rotation.to(torch.promote_types(self.rotation.dtype, torch.float32))
        return Cayley.apply(weight, self.start.to(weight.dtype))


class Cayley(torch.autograd.Function):
    """Computes S (I - A)(I + A)⁻¹ = S (2 (I + A)⁻¹ - I) with A = W - Wᵀ: one inverse forward, only products backward.

    For 8 heads of 64, forward and backward take less than half the time of torch.nn.utils.parametrizations.orthogonal with
    its Cayley map, and less than a tenth of its time with the other maps.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, start: Tensor) -> Tensor:
        """Returns the basis, (h, r, d).  weight: W, (h, d, d).  start: S, (h, r, d)."""
        one = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        inverse = torch.linalg.inv(one + weight - weight.mT)
        ctx.save_for_backward(inverse, start)
        basis = 2 * start @ inverse - start
        # Because of rounding, the basis is not quite orthonormal if A is large or the start has a low precision.  One Newton-
        # Schulz step squares that error.  To first order the step is the identity, so the backward pass leaves it out.
        return 1.5 * basis - 0.5 * (basis @ basis.mT) @ basis

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Returns the gradient of ``weight``, (h, d, d), and None for ``start``, which is not trained.  grad: (h, r, d)."""
        inverse, start = ctx.saved_tensors
        skew = -2 * (start @ inverse).mT @ (grad @ inverse.mT)
        return skew - skew.mT, None


def same(a: Tensor, b: Tensor) -> bool:
    """Returns whether both have the same values and are on the same device."""
    return a.device == b.device and torch.equal(a, b)


class FixedBasis(nn.Module):
    """A basis that is not trained, stored as a buffer."""

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.basis: Tensor

    def forward(self) -> Tensor:
        """Returns the basis, (h, r, d)."""
        return self.basis


class FreeBasis(nn.Module):
    """For ablations: a trained matrix without a constraint.  Its rows are orthonormal only at the start."""

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis)

    def forward(self) -> Tensor:
        """Returns the basis, (h, r, d)."""
        return self.basis


class HeadAxes(nn.Module):
    """The identity of rank head_dim.  It is given as None, so that no product with a matrix is computed."""

    def forward(self) -> None:
        """Returns None, which stands for the head's own axes."""
        return


def make_basis(kind: str, *, num_heads: int, rank: int, head_dim: int, seed: int) -> nn.Module:
    """Returns a module whose call gives the basis, (heads, rank, head_dim), or None for the head's own axes.

    kind: one of BASES.  seed: for the random bases.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "learned":
        return LearnedBasis(num_heads, rank, head_dim, generator)
    if kind == "fixed":
        return FixedBasis(random_basis(num_heads, rank, head_dim, generator))
    if kind == "free":
        return FreeBasis(random_basis(num_heads, rank, head_dim, generator))
    if kind == "none":
        return FixedBasis(torch.zeros(num_heads, rank, head_dim))  # with B = 0 the memory reads as zero
    if rank == head_dim:
        return HeadAxes()
    return FixedBasis(torch.eye(head_dim)[:rank].repeat(num_heads, 1, 1))


def fold_rows(x: Tensor, basis: Tensor) -> Tensor:
    """Returns B W, head by head, for x = W, the weight or the bias of a projection that makes q, k or v.

    x: (heads * head_dim, embed_dim) or (heads * head_dim,).  basis: (heads, head_dim, head_dim).
    """
    heads = x.reshape(basis.shape[0], basis.shape[2], -1)
    return (basis.to(heads.dtype) @ heads).reshape(x.shape)


def fold_columns(weight: Tensor, basis: Tensor) -> Tensor:
    """Returns W Bᵀ, head by head, for the weight (embed_dim, heads * head_dim) of the projection after the attention."""
    return fold_rows(weight.mT, basis).mT.contiguous()
