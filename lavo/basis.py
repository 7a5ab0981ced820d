"""Bases of LAVO's memory: (heads, rank, head_dim), one for each head, rows orthonormal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BASES = ("learned", "fixed", "identity", "free")


def random_basis(num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, uniformly distributed."""
    gaussian = torch.randn(num_heads, head_dim, head_dim, generator=generator, dtype=torch.float64)
    columns, triangle = torch.linalg.qr(gaussian)
    signs = triangle.diagonal(dim1=1, dim2=2).sign()  # without them the distribution depends on LAPACK's convention
    return (columns * signs[:, None]).mT[:, :rank].float()


class LearnedBasis(nn.Module):
    """Stays orthonormal under any optimiser: a fixed random basis turned by the Cayley transform of a skew matrix.

    With A = W - Wᵀ, (I + A)⁻¹ (I - A) is a rotation for every W, and the identity for W = 0.
    """

    def __init__(self, num_heads: int, rank: int, head_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.zeros(num_heads, head_dim, head_dim))
        self.register_buffer("start", random_basis(num_heads, rank, head_dim, generator))
        self.start: Tensor
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self) -> Tensor:
        if torch.is_grad_enabled():
            return self.rotate()
        # Decoding asks for the basis once a token.  Comparing values is cheap, and misses no way of changing them.
        if self._last is None or self._last[0].dtype != self.rotation.dtype or not same(self._last[0], self.rotation):
            self._last = self.rotation.clone(), self.rotate()
        return self._last[1]

    def rotate(self) -> Tensor:
        skew = (self.rotation - self.rotation.mT).to(torch.promote_types(self.rotation.dtype, torch.float32))
        one = torch.eye(skew.shape[1], dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(one + skew, (one - skew) @ self.start.to(skew.dtype).mT).mT


def same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and torch.equal(a, b)


class FixedBasis(nn.Module):
    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.basis: Tensor

    def forward(self) -> Tensor:
        return self.basis


class FreeBasis(nn.Module):
    """The ablation: any matrix, orthonormal at the start only."""

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis)

    def forward(self) -> Tensor:
        return self.basis


class HeadAxes(nn.Module):
    """The identity with rank = head_dim: no basis at all, and no matrix product."""

    def forward(self) -> None:
        return None


def make_basis(kind: str, *, num_heads: int, rank: int, head_dim: int, seed: int) -> nn.Module:
    """A module that gives the basis, (heads, rank, head_dim), or None for the head's own axes."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "learned":
        return LearnedBasis(num_heads, rank, head_dim, generator)
    if kind == "fixed":
        return FixedBasis(random_basis(num_heads, rank, head_dim, generator))
    if kind == "free":
        return FreeBasis(random_basis(num_heads, rank, head_dim, generator))
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
