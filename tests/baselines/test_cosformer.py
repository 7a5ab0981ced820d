"""cosFormer's formula, its fixed length, and the order of its products."""

import math

import pytest
import torch
from baseline_cases import build, inputs, stream


@pytest.mark.parametrize("causal", [False, True])
def test_left_product_equals_right_product(causal):
    pattern = "causal_self" if causal else "noncausal_self"
    attention = build("cosformer", pattern, max_length=150)
    q, k, v = inputs(pattern, 150)
    steps = torch.arange(150, dtype=torch.float64)
    weights = (q.relu() @ k.relu().mT) * torch.cos(math.pi * (steps[:, None] - steps) / (2 * 150))
    weights = weights.tril() if causal else weights
    assert (weights >= 0).all()
    expected = (weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)) @ v
    torch.testing.assert_close(attention(q, k, v), expected, atol=1e-11, rtol=0)


def test_max_length_changes_results_and_padding_does_not():
    q, k, v = inputs("noncausal_self", 50)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 47), value=9.0) for x in (q, k, v)]
    mask = torch.arange(97).expand(3, 97) >= 50
    at_50 = build("cosformer", "noncausal_self", max_length=50)  # less than the padded length, which does not count
    at_97 = build("cosformer", "noncausal_self", max_length=97)
    for attention in (at_50, at_97):
        torch.testing.assert_close(attention(*padded, mask)[:, :, :50], attention(q, k, v), atol=1e-12, rtol=0)
    difference = (at_50(q, k, v) - at_97(q, k, v)).norm() / at_50(q, k, v).norm()
    assert difference > 0.05


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self", "noncausal_cross", "causal_cross"])
def test_longer_inputs_than_max_length_are_refused(pattern):
    attention = build("cosformer", pattern, max_length=20)
    q, k, v = inputs(pattern, 10 if pattern.endswith("_self") else 5, requires_grad=False)
    assert attention(q, k, v).isfinite().all()
    q, k, v = inputs(pattern, 21)
    with pytest.raises(ValueError, match=r"built for max_length 20 and is given 2[16] tokens"):
        attention(q, k, v)


def test_streams_count_positions_up_to_max_length():
    attention = build("cosformer", "causal_self", max_length=20)
    q, k, v = inputs("causal_self", 20)
    _, state = stream(attention, q, k, v, [7])
    assert state.position == 20
    with pytest.raises(ValueError, match="max_length 20 and is given 21 tokens"):
        attention.extend(q[:, :, :1], k[:, :, :1], v[:, :, :1], state)
    cross = build("cosformer", "causal_cross", max_length=20)
    _, state = cross.read(q, cross.init_cross(k, v))
    with pytest.raises(ValueError, match="max_length 20 and is given 21 tokens"):
        cross.read(q[:, :, :1], state)


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self", "noncausal_cross", "causal_cross"])
def test_a_query_without_positive_features_gives_zeros_and_zero_gradients(pattern):
    attention = build("cosformer", pattern)
    q, k, v = inputs(pattern, 70)
    q[:, :, 3] = -q[:, :, 3].abs()
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*leaves)
    assert (out[:, :, 3] == 0).all()
    gradients = torch.autograd.grad(out[:, :, 3].sum(), leaves)
    assert all((gradient == 0).all() for gradient in gradients)


def test_options_are_checked():
    with pytest.raises(ValueError, match="max_length is 0"):
        build("cosformer", "causal_self", max_length=0)


def test_the_maximal_length_is_a_constant_where_nobody_says():
    attention = type(build("cosformer", "causal_self"))(pattern="causal_self", num_heads=1, head_dim=8)
    assert attention.max_length == 8192


def test_positions_in_the_hundred_thousands_keep_their_digits():
    attention = build("cosformer", "causal_self", num_heads=1, max_length=1 << 20)
    q, k, v = inputs("causal_self", 200, batch_size=1, num_heads=1)
    far = attention.init_state(1, dtype=torch.float32)._replace(position=900_000)
    out, _ = attention.extend(q.float(), k.float(), v.float(), far)
    torch.testing.assert_close(out.double(), attention(q, k, v), atol=2e-5, rtol=0)
