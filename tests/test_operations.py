"""Operations by formula, as the attentions' docstrings derive them, compared with those that torch's counter sees.

The formulas are of one token and head, forward: d = head_dim, n tokens, f features, c tokens of a chunk, w of a window, r rank.
"""

import pytest
import torch

from benchmark.measuring.operations import count_operations
from benchmark.measuring.shape import Shape
from benchmark.measuring.sweep import Grid, Limits, measure

n, d = 512, 32
f, c, w, r, span = 256, 64, 64, 16, 16

FORWARD = {
    ("softmax", "causal_self"): 4 * n * d,
    ("softmax", "noncausal_cross"): 4 * n * d,
    ("flash", "causal_self"): 2 * (n + 1) * d,
    ("flash", "noncausal_self"): 4 * n * d,
    ("lavo", "causal_self"): 4 * w * d + 2 * span * d,
    ("lavo", "noncausal_self"): 4 * w * d,
    ("lavo", "causal_cross"): 4 * d * d,
    ("performer", "causal_self"): 2 * f * d + 6 * f * (d + 1) + 2 * c * f + 2 * c * (d + 1),
    ("performer", "noncausal_self"): 2 * f * d + 6 * f * (d + 1),
    ("cosformer", "causal_self"): 2 * c * d + 2 * c * (d + 1) + 8 * d * (d + 1),
    ("cosformer", "causal_cross"): 8 * d * (d + 1),
}


def measure_forward(attention, pattern, shape):
    return measure(Grid([attention], [pattern], [n], ["forward"]), shape, Limits(rounds=5))


@pytest.mark.parametrize(("attention", "pattern"), FORWARD, ids="-".join)
def test_a_forward_call_counts_as_its_formula(attention, pattern):
    batch, heads = 2, 3
    (row,) = measure_forward(attention, pattern, Shape(batch=batch, num_heads=heads, head_dim=d))
    assert row.status == "completed"
    assert row.flops == batch * heads * n * FORWARD[attention, pattern]


@pytest.mark.parametrize(
    ("pattern", "formula"),
    [
        ("causal_self", 4 * w * d + 6 * r * d + 2 * span * r),
        ("noncausal_self", 4 * w * d + 4 * r * d + 2 * r * d / n),
        ("causal_cross", 4 * r * d + 2 * r * d / n),
    ],
)
def test_products_with_a_basis_come_on_top(pattern, formula):
    options = {"lavo": {"basis": "learned", "rank": r}}
    (row,) = measure_forward("lavo", pattern, Shape(num_heads=1, head_dim=d, options=options))
    assert row.flops == n * formula


def test_products_in_place_are_counted():
    a, b, x = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.zeros(2, 3, 5)
    assert count_operations(lambda: x.baddbmm_(a, b)) == 2 * 2 * 3 * 4 * 5
    assert count_operations(lambda: x[0].addmm_(a[0], b[0], beta=0)) == 2 * 3 * 4 * 5
