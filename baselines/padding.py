"""Padded tokens: how they are filled with zeros, and how real tokens are moved to the front and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def empty_padded(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Returns x, (b, h, m, d), with zeros at padded tokens.

    The zeros are filled in and not made by a product with the mask, because 0 · NaN is NaN.
    key_padding_mask: (b, m), True where padded; None returns x itself.
    """
    return x if key_padding_mask is None else x.masked_fill(key_padding_mask[:, None, :, None], 0)


def real_tokens_first(key_padding_mask: Tensor) -> Tensor:
    """Returns an order (b, m) that puts the real tokens before all padded ones and keeps the real ones in sequence."""
    return torch.argsort(key_padding_mask.to(torch.uint8), dim=1, stable=True)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Returns x, (b, h, m, d), with its tokens in the given order (b, m)."""
    return x.gather(2, order[:, None, :, None].expand_as(x))


def without_padding(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor
) -> Tensor:
    """Computes causal self-attention ``attend(q, k, v)`` over the real tokens; padded tokens get zeros.

    The real tokens are moved to the front for the call.  Then the padded tokens come after them, where causality hides them,
    and the position of a token is the number of real tokens before it.
    """
    order = real_tokens_first(key_padding_mask)
    q, k, v = (reorder(empty_padded(x, key_padding_mask), order) for x in (q, k, v))
    return empty_padded(reorder(attend(q, k, v), order.argsort(1)), key_padding_mask)


def zeros_from(q: Tensor, *others: Tensor) -> Tensor:
    """Returns zeros of the shape of q that autograd connects with every input, so that each gets a gradient of zeros.

    The zeros are not made as 0 · x, which would be NaN where x is NaN.  A sum over no tokens of x is 0 for all values of x.
    """
    out = q.masked_fill(torch.ones((), dtype=torch.bool, device=q.device), 0)
    return out + sum(x[:, :, :0].sum() for x in others)
