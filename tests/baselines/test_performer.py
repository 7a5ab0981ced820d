"""FAVOR+ compared with an independent implementation and with softmax, and faults that users of other code reported."""

import itertools
import math

import pytest
import torch
from baseline_cases import build, inputs, mask_of, oracle, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from performer_pytorch import FastAttention

from baselines import performer
from baselines.performer import PerformerAttention, orthogonal_features


def test_agrees_with_performer_pytorch_up_to_its_epsilon():
    theirs = FastAttention(dim_heads=16, nb_features=48, causal=False)
    ours = build("performer", "noncausal_self", head_dim=16, num_features=48)
    theirs.projection_matrix.copy_(ours.omega)
    q, k, v = inputs("noncausal_self", 33, head_dim=16, dtype=torch.float32)
    # Their epsilon changes features as small as e^-8, so inputs are kept small.
    torch.testing.assert_close(ours(q / 2, k / 2, v), theirs(q / 2, k / 2, v), atol=2e-3, rtol=0)
    without_epsilon = (ours(q / 2, k / 2, v) - build("softmax", "noncausal_self", head_dim=16)(q / 2, k / 2, v)).abs()
    assert (ours(q / 2, k / 2, v) - theirs(q / 2, k / 2, v)).abs().mean() < 0.02 * without_epsilon.mean()


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self"])
def test_error_against_softmax_falls_as_one_over_root_of_features(pattern):
    q, k, v = (x / 2 for x in inputs(pattern, 48, head_dim=16))
    exact = build("softmax", pattern, head_dim=16)(q, k, v)

    def error(num_features):
        draws = [build("performer", pattern, head_dim=16, num_features=num_features, seed=s) for s in range(12)]
        return sum(((draw(q, k, v) - exact).norm() / exact.norm()).item() for draw in draws) / len(draws)

    few, many = error(16), error(256)
    assert 2 < few / many < 8  # 4 by 1/√f, less some that orthogonality saves at few features
    assert many < 0.2


def test_features_are_orthogonal_with_lengths_of_gaussian_vectors():
    omega = orthogonal_features(40, 16, seed=0, draw=0).double()
    for block in (omega[:16], omega[16:32], omega[32:]):
        directions = block / block.norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            directions @ directions.T, torch.eye(len(block), dtype=torch.float64), atol=1e-6, rtol=0
        )
    lengths = orthogonal_features(16 * 500, 16, seed=0, draw=0).norm(dim=1)
    assert lengths.square().mean() == pytest.approx(16, rel=0.02)
    assert lengths.square().var() == pytest.approx(32, rel=0.1)  # of χ²(16)


def test_features_estimate_the_exponential_without_bias():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, generator=generator).double() * 0.7
    omega = orthogonal_features(16 * 4000, 16, seed=1, draw=0).double()

    def phi(z):
        z = z / 16**0.25
        return (omega @ z - z.square().sum() / 2).exp()

    assert (phi(x) * phi(y)).mean().item() == pytest.approx(math.exp(x @ y / 4), rel=0.03)


def test_evaluation_is_a_function_of_its_input():
    attention = build("performer", "causal_self", redraw_interval=1)
    q, k, v = inputs("causal_self")
    before = attention.state_dict()["omega"].clone()
    assert torch.equal(attention(q, k, v), attention(q, k, v))
    assert torch.equal(attention.omega, before)
    assert attention.forward_calls == 0


def test_features_are_redrawn_in_training_every_so_many_calls():
    attention = build("performer", "causal_self", redraw_interval=3).train()
    q, k, v = inputs("causal_self")
    omegas = []
    for _ in range(8):
        attention(q, k, v)
        omegas.append(attention.omega.clone())
    assert [torch.equal(a, b) for a, b in itertools.pairwise(omegas)] == [True, True, False] * 2 + [True]
    never = build("performer", "causal_self", redraw_interval=0).train()
    before = never.omega.clone()
    for _ in range(3):
        never(q, k, v)
    assert torch.equal(never.omega, before)


def test_a_checkpoint_goes_on_with_the_same_draws():
    q, k, v = inputs("causal_self")
    first = build("performer", "causal_self", redraw_interval=2, seed=5).train()
    first(q, k, v)
    second = build("performer", "causal_self", redraw_interval=2, seed=6).train()
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        assert torch.equal(first(q, k, v), second(q, k, v))
        assert torch.equal(first.omega, second.omega)


def test_without_a_seed_the_draw_follows_torchs_generator():
    def draw(seed):
        torch.manual_seed(seed)
        return PerformerAttention(pattern="causal_self", num_heads=1, head_dim=8).omega

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="num_features is 0"):
        build("performer", "causal_self", num_features=0)
    with pytest.raises(ValueError, match="redraw_interval is -1"):
        build("performer", "causal_self", redraw_interval=-1)


@settings(max_examples=15, deadline=None)
@given(
    scales=st.lists(st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e4]), min_size=1, max_size=6),
    streamed=st.booleans(),
)
def test_keys_of_any_size_overflow_nothing(scales, streamed):
    """Stretches of keys have unequal sizes, so that references rise and fall by far more than float64's e^709."""
    attention = build("performer", "causal_self")
    q, k, v = inputs("causal_self", 90, batch_size=2, requires_grad=True)
    scaled = k * torch.tensor(scales).repeat_interleave(-(-90 // len(scales)))[:90, None]
    out = attention(q, scaled, v)
    torch.testing.assert_close(out, oracle("performer", attention, "causal_self")(q, scaled, v), atol=1e-7, rtol=0)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if streamed:
        with torch.no_grad():
            steps, _ = stream(attention, q, scaled, v, [1, 20, 1, 1])
        torch.testing.assert_close(steps, out, atol=1e-9, rtol=0)


def test_large_queries_and_keys_in_float32_stay_in_the_range_of_the_values():
    attention = build("performer", "causal_self", head_dim=64, num_features=256)
    q, k, v = inputs("causal_self", 200, head_dim=64, dtype=torch.float32)
    for q_scale, k_scale in ((1e4, 1.0), (1.0, 1e4), (1e4, 1e4), (1e-4, 1e-4), (3.0, 3.0)):
        out = attention(q * q_scale, k * k_scale, v)
        assert out.isfinite().all()
        assert out.abs().max() <= v.abs().max() * (1 + 1e-4)  # a mean of values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sudden_rise_is_redone_only_behind_it(dtype, monkeypatch):
    """Rows before a key that rises stay bit for bit, and rows behind it are right."""
    calls = []
    original = performer.causal_halves
    monkeypatch.setattr(performer, "causal_halves", lambda *a, **b: calls.append(1) or original(*a, **b))
    attention = build("performer", "causal_self")
    q, k, v = inputs("causal_self", 200, batch_size=2, dtype=dtype)
    far = 20 + 0.1 * k  # log features near -560, and near each other
    before = attention(q, far, v)
    assert not calls
    for position in (1, 37, 63, 64, 100, 199):
        risen = far.clone()
        risen[0, 1, position] = k[0, 1, position]
        calls.clear()
        out = attention(q, risen, v)
        assert bool(calls) == (position % performer.CHUNK_SIZE != 0)  # the first of a chunk is its own reference
        assert torch.equal(out[:, :, :position], before[:, :, :position])
        assert torch.equal(out[1], before[1])
        limit = 1e-7 if dtype == torch.float64 else 1e-3  # float32 knows -560 to 6e-5
        expected = oracle("performer", attention, "causal_self")(q, risen, v)
        torch.testing.assert_close(out.double(), expected, atol=limit, rtol=0)


def test_ordinary_inputs_never_need_halves(monkeypatch):
    monkeypatch.setattr(performer, "causal_halves", None)
    attention = build("performer", "causal_self", head_dim=64, num_features=256)
    for dtype in (torch.float32, torch.float64):
        q, k, v = inputs("causal_self", 200, head_dim=64, dtype=dtype)
        attention(q, 2 * k, v)
        attention(q, 2 * k, v, mask_of("left", 3, 200))


def test_float32_is_as_near_as_float32_can_be_at_a_thousand_tokens():
    attention = build("performer", "causal_self", num_heads=1, head_dim=64, num_features=256)
    q, k, v = inputs("causal_self", 1000, batch_size=1, num_heads=1, head_dim=64)
    exact = attention(q, k, v)
    assert (attention(q.float(), k.float(), v.float()) - exact).abs().max() < 2e-5
