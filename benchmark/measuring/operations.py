"""Floating-point operations of a call, counted by torch, with a correction for fused causal kernels.

Only matrix products are counted, no exponentials, sums or copies.  A product of (a, b) with (b, c) has 2·a·b·c operations.
Exact attention over n queries and m keys with head_dim d has two products, so 4·n·m·d operations for each head.  Its backward
pass has five products, because it computes the scores again.  torch counts all n² pairs of a causal kernel.  Such a kernel
skips the pairs of the future, so here only n·(n + 1)/2 pairs are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def count_operations(call: Callable[[], Any]) -> int | None:
    """Returns the operations of one call, or None if the counter knows none of its operators.

    The result is None and not 0, because such a call may have done work all the same.
    """
    with FlopCounterMode(display=False, custom_mapping=_FUSED | _IN_PLACE) as counter:
        call()
    return counter.get_total_flops() or None


def _forward(full: int, q: Any, k: Any, causal: bool) -> int:
    """Returns ``full``, or for a causal kernel the part of it that it computes.  q, k: shapes, with the length at -2."""
    return int(full * _visible(q[-2], k[-2])) if causal else full


def _visible(target: int, source: int) -> Fraction:
    """Returns the share of pairs that a causal kernel computes, in which query i sees the first i + 1 keys.

    target, source: the numbers of queries and of keys.
    """
    seen = sum(min(i + 1, source) for i in range(target)) if target != source else target * (target + 1) // 2
    return Fraction(seen, target * source)


def _causal_at(place: int) -> Callable[..., int]:
    """Returns a counter for a forward kernel whose argument number ``place`` (from 0) is ``is_causal``."""

    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        q, k, v = arguments[:3]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_flop_count(q, k, v), q, k, causal)

    return count


def _backward_causal_at(place: int) -> Callable[..., int]:
    """Returns a counter for such a backward kernel, whose first argument is the gradient of the output."""

    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        gradient, q, k, v = arguments[:4]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_backward_flop_count(gradient, q, k, v), q, k, causal)

    return count


def _product(_: Any, a: Any, b: Any, **__: Any) -> int:
    """Counts the operations of x += a b, for the shapes a = (…, n, k) and b = (…, k, m)."""
    return 2 * math.prod(a) * b[-1]


_aten = torch.ops.aten
_FUSED = {  # operator -> counter with the place of ``is_causal`` in the operator's schema
    _aten._scaled_dot_product_flash_attention_for_cpu: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_causal_at(7),
    _aten._scaled_dot_product_flash_attention: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_backward: _backward_causal_at(11),
    _aten._scaled_dot_product_efficient_attention: _causal_at(6),
    _aten._scaled_dot_product_efficient_attention_backward: _backward_causal_at(12),
}
_IN_PLACE = {_aten.addmm_: _product, _aten.baddbmm_: _product}  # torch's own counter does not know them
