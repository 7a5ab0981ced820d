"""Padded tokens: filling them with zeros, and moving the real tokens together and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def empty_padded(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """x (b, h, m, d) with zeros at padded tokens.  They are filled and not multiplied, because 0 · NaN is NaN."""
    return x if key_padding_mask is None else x.masked_fill(key_padding_mask[:, None, :, None], 0)


def real_tokens_first(key_padding_mask: Tensor) -> Tensor:
    """The order (b, m) that puts the real tokens, in their own order, before all padded ones."""
    return torch.argsort(key_padding_mask.to(torch.uint8), dim=1, stable=True)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """x (b, h, m, d) with its tokens in this order (b, m)."""
    return x.gather(2, order[:, None, :, None].expand_as(x))


def without_padding(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor
) -> Tensor:
    """Causal self-attention ``attend(q, k, v)`` over the real tokens, with zeros at padded ones.

    The real tokens are moved to the front.  There causality hides the padded tokens behind them, and positions count real
    tokens.
    """
    order = real_tokens_first(key_padding_mask)
    q, k, v = (reorder(empty_padded(x, key_padding_mask), order) for x in (q, k, v))
    return empty_padded(reorder(attend(q, k, v), order.argsort(1)), key_padding_mask)


def zeros_from(q: Tensor, *others: Tensor) -> Tensor:
    """Zeros like q that stay connected to every input, so that each has a gradient of zeros.

    0 · x would be NaN where x is NaN; a sum over no tokens is 0 whatever x holds.
    """
    out = q.masked_fill(torch.ones((), dtype=torch.bool, device=q.device), 0)
    return out + sum(x[:, :, :0].sum() for x in others)
