"""What there is where no token is: emptying padded tokens, moving the real ones together and back, zeros."""

from __future__ import annotations

import torch
from torch import Tensor


def empty_padded(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """x (b, h, m, d) with zeros at padded tokens; filled, not multiplied, because 0 · NaN is NaN."""
    return x if key_padding_mask is None else x.masked_fill(key_padding_mask[:, None, :, None], 0)


def real_tokens_first(key_padding_mask: Tensor) -> Tensor:
    """The order (b, m) in which real tokens, in their own order, come before all padded ones."""
    return torch.argsort(key_padding_mask.to(torch.uint8), dim=1, stable=True)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """x (b, h, m, d) with its tokens in this order (b, m)."""
    return x.gather(2, order[:, None, :, None].expand_as(x))


def without_padding(attend, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor) -> Tensor:
    """Causal self-attention ``attend(q, k, v)`` over the real tokens; zeros at padded ones.

    Real tokens are moved to the front, where causality itself hides the padded ones behind them and where positions
    count real tokens.
    """
    order = real_tokens_first(key_padding_mask)
    q, k, v = (reorder(empty_padded(x, key_padding_mask), order) for x in (q, k, v))
    return empty_padded(reorder(attend(q, k, v), order.argsort(1)), key_padding_mask)


def zeros_from(q: Tensor, *others: Tensor) -> Tensor:
    """Zeros like q that stay connected to every input, so that each has a gradient, and it is zero.

    Not 0 · x, which is NaN where x is; the sum over no tokens is 0 whatever x holds.
    """
    out = q.masked_fill(torch.ones((), dtype=torch.bool, device=q.device), 0)
    return out + sum(x[:, :, :0].sum() for x in others)
