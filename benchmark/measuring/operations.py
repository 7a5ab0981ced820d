"""Floating-point operations of a call, by torch's counter; a causal kernel counts with the pairs that it computes.

A product of (a, b) with (b, c) is 2·a·b·c operations.  Exact attention over n queries and m keys with head_dim d has two products,
4·n·m·d operations a head; its backward pass computes the scores again and has five.  A causal kernel leaves out the pairs of the
future, so n·(n + 1)/2 of the n² pairs are counted.  Only products are counted, no exponentials, sums or copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def count_operations(call: Callable[[], Any]) -> int | None:
    """The operations of one call; None where the counter knew none of its operators, which does not mean that it did no work."""
    with FlopCounterMode(display=False, custom_mapping=_FUSED | _IN_PLACE) as counter:
        call()
    return counter.get_total_flops() or None


def _forward(full: int, q: Any, k: Any, causal: bool) -> int:
    """All of them, or of a causal kernel its share.  q, k: shapes, with the length at -2."""
    return int(full * _visible(q[-2], k[-2])) if causal else full


def _visible(target: int, source: int) -> Fraction:
    """The share of pairs that a causal kernel computes: query i sees the first i + 1 keys."""
    seen = sum(min(i + 1, source) for i in range(target)) if target != source else target * (target + 1) // 2
    return Fraction(seen, target * source)


def _causal_at(place: int) -> Callable[..., int]:
    """Counts a forward kernel that takes ``is_causal`` as its argument number ``place``, from 0."""

    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        q, k, v = arguments[:3]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_flop_count(q, k, v), q, k, causal)

    return count


def _backward_causal_at(place: int) -> Callable[..., int]:
    """The same for a backward kernel."""

    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        gradient, q, k, v = arguments[:4]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_backward_flop_count(gradient, q, k, v), q, k, causal)

    return count


def _product(_: Any, a: Any, b: Any, **__: Any) -> int:
    """Counts x += a b for shapes a (…, n, k) and b (…, k, m)."""
    return 2 * math.prod(a) * b[-1]


_aten = torch.ops.aten
_FUSED = {  # the places are those in the operators' schemas
    _aten._scaled_dot_product_flash_attention_for_cpu: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_causal_at(7),
    _aten._scaled_dot_product_flash_attention: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_backward: _backward_causal_at(11),
    _aten._scaled_dot_product_efficient_attention: _causal_at(6),
    _aten._scaled_dot_product_efficient_attention_backward: _backward_causal_at(12),
}
_IN_PLACE = {_aten.addmm_: _product, _aten.baddbmm_: _product}  # torch's own counter leaves them out
