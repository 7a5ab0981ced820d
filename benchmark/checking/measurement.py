"""What a check yields or raises: measurements (differences with their limits), and two exceptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCES = {
    # The largest allowed difference between two results of the same formula, whose sums were added up in different orders.
    # It is a share of the root mean square of the expected result.
    torch.float64: 1e-10,  # enough for sums of some thousand terms
    # An average over 781 unit values is about 20 times smaller than its terms, but has rounding errors of their size (6e-8,
    # amplified by the exponentials).  Correct attentions exceeded 1e-5 in that case, so the limit is larger
    # (docs/decisions/0002-limits-as-a-share-of-the-rms.md).
    torch.float32: 3e-5,
    # Numbers have 8 significant bits in bfloat16 and 11 in float16.  So every weight and every output is already rounded by up
    # to 4e-3 or 5e-4 before anything is added up.
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}


class Measurement(NamedTuple):
    """A difference between two results, and the limit that it must not exceed.

    where: the case in which it was measured.
    """

    where: str
    difference: float
    limit: float


Measurements = Iterator[Measurement]


class NotApplicable(Exception):
    """Raised if a check needs something that this attention or this pattern doesn't have."""


class Missing(Exception):
    """Raised if a check needs methods of streaming and the attention has none of them, which it may."""


class Broken(Exception):
    """Raised if a requirement is violated in a way that has no figure, such as a wrong shape or an exception."""


def close(where: str, result: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> Measurement:
    """Returns the largest difference, as a share of the root mean square of ``expected``, with the tolerance of ``dtype``.

    dtype: None means that of ``result``.
    """
    scale = expected.double().square().mean().sqrt().item() if expected.numel() else 1.0
    return Measurement(where, _difference(where, result, expected) / (scale or 1.0), TOLERANCES[dtype or result.dtype])


def same(where: str, result: Tensor, expected: Tensor) -> Measurement:
    """Returns the largest difference with the limit zero, for results that must be equal to the last bit."""
    return Measurement(where, _difference(where, result, expected), 0.0)


def _difference(where: str, result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        raise Broken(f"{where}: shape {tuple(result.shape)}, expected {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    difference = (result.double() - expected.double()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def finite(where: str, *tensors: Tensor) -> Measurement:
    """Returns the share of entries that are NaN or infinite, with the limit zero."""
    share = max(1.0 - t.isfinite().double().mean().item() for t in tensors if t.numel())
    return Measurement(where, share, 0.0)


def gradients_of(call: Callable[..., Tensor], inputs: Sequence[Tensor], others: Iterable[Tensor] = ()) -> list[Tensor]:
    """Returns the gradients of ``weighted_sum(call(*inputs))`` with respect to ``inputs`` and ``others``.

    Tensors that the call doesn't use get zeros.
    """
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        wanted = [*leaves, *others]
        total = weighted_sum(call(*leaves))
        if not total.requires_grad:  # an attention may ignore all of its inputs
            return [torch.zeros_like(leaf) for leaf in wanted]
        return list(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))


def weighted_sum(out: Tensor) -> Tensor:
    """Returns the sum of all entries, each times a fixed random weight, so that errors don't cancel each other."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (out * weights.to(out)).sum()
