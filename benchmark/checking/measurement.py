"""What a check yields or raises: differences with their limits, and the two exceptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCES = {
    # Largest difference, as a share of the expected result's root mean square, that the same formula may show when its
    # sums are taken in another order.
    torch.float64: 1e-10,  # room for some thousand terms
    # An average over 781 unit values is 20 times smaller than its terms, but keeps their rounding (6e-8, amplified by the
    # exponentials): right attentions exceeded 1e-5 in that case (docs/decisions/0002-limits-as-a-share-of-the-rms.md).
    torch.float32: 3e-5,
    # Weights and outputs have 8 and 11 significant bits: each is off by up to 4e-3 and 5e-4 before anything is summed.
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}


class Measurement(NamedTuple):
    """A difference: where it was measured, how large it is, and how large it may be."""

    where: str
    difference: float
    limit: float


Measurements = Iterator[Measurement]


class NotApplicable(Exception):
    """The check needs something that this attention or this pattern doesn't have."""


class Broken(Exception):
    """A promise is broken that has no figure, such as a shape or an exception."""


def close(where: str, result: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> Measurement:
    """The largest difference as a share of the expected root mean square, with the limit of ``dtype`` (the result's)."""
    scale = expected.double().square().mean().sqrt().item() if expected.numel() else 1.0
    return Measurement(where, _difference(where, result, expected) / (scale or 1.0), TOLERANCES[dtype or result.dtype])


def same(where: str, result: Tensor, expected: Tensor) -> Measurement:
    """The largest difference, with the limit zero."""
    return Measurement(where, _difference(where, result, expected), 0.0)


def _difference(where: str, result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        raise Broken(f"{where}: shape {tuple(result.shape)}, expected {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    difference = (result.double() - expected.double()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def finite(where: str, *tensors: Tensor) -> Measurement:
    """The share of entries that are NaN or infinite, with the limit zero."""
    share = max(1.0 - t.isfinite().double().mean().item() for t in tensors if t.numel())
    return Measurement(where, share, 0.0)


def gradients_of(call: Callable[..., Tensor], inputs: Sequence[Tensor], others: Iterable[Tensor] = ()) -> list[Tensor]:
    """Gradients of ``weighted_sum(call(*inputs))`` to inputs and others; zeros for tensors that the call doesn't use."""
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        wanted = [*leaves, *others]
        total = weighted_sum(call(*leaves))
        if not total.requires_grad:  # the control ``none`` uses none of its inputs
            return [torch.zeros_like(leaf) for leaf in wanted]
        return list(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))


def weighted_sum(out: Tensor) -> Tensor:
    """The sum of all entries, each times a fixed random weight, so that errors don't cancel."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (out * weights.to(out)).sum()
