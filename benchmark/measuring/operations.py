"""Floating-point operations of a call, counted: torch's counter, with the fused kernels' causal half taken as a half.

A product of (a, b) with (b, c) is 2·a·b·c operations.  Exact attention over n queries and m keys with head_dim d is two of them,
4·n·m·d a head; its backward pass, which recomputes the scores, five.  A causal kernel leaves out the pairs of the future: of n² there
are n·(n + 1)/2 left, and so many are counted.  What is no product (exponentials, sums, copies) is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def count_operations(call: Callable[[], Any]) -> int | None:
    """Of one call; None for nothing that the counter knows, which isn't "no work"."""
    with FlopCounterMode(display=False, custom_mapping=_FUSED | _IN_PLACE) as counter:
        call()
    return counter.get_total_flops() or None


def _forward(full: int, q: Any, k: Any, causal: bool) -> int:
    """q, k: shapes, with the length at -2."""
    return int(full * _visible(q[-2], k[-2])) if causal else full


def _visible(target: int, source: int) -> Fraction:
    """The share of pairs that a causal kernel computes: query i sees the first i + 1 keys."""
    seen = sum(min(i + 1, source) for i in range(target)) if target != source else target * (target + 1) // 2
    return Fraction(seen, target * source)


def _causal_at(place: int) -> Callable[..., int]:
    """Counts a forward kernel whose ``is_causal`` is its argument of that place."""

    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        q, k, v = arguments[:3]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_flop_count(q, k, v), q, k, causal)

    return count


def _backward_causal_at(place: int) -> Callable[..., int]:
    def count(*arguments: Any, is_causal: bool = False, **_: Any) -> int:
        gradient, q, k, v = arguments[:4]
        causal = bool(arguments[place]) if len(arguments) > place else is_causal
        return _forward(sdpa_backward_flop_count(gradient, q, k, v), q, k, causal)

    return count


def _product(_: Any, a: Any, b: Any, **__: Any) -> int:
    """x += a b.  a: (…, n, k).  b: (…, k, m)"""
    return 2 * math.prod(a) * b[-1]


_aten = torch.ops.aten
_FUSED = {  # places as in the operators' schemas
    _aten._scaled_dot_product_flash_attention_for_cpu: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_causal_at(7),
    _aten._scaled_dot_product_flash_attention: _causal_at(4),
    _aten._scaled_dot_product_flash_attention_backward: _backward_causal_at(11),
    _aten._scaled_dot_product_efficient_attention: _causal_at(6),
    _aten._scaled_dot_product_efficient_attention_backward: _backward_causal_at(12),
}
_IN_PLACE = {_aten.addmm_: _product, _aten.baddbmm_: _product}  # which torch's own counter leaves out
