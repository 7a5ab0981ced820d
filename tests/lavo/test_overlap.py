"""Windows that overlap are those of the definition, and each token sees at least half a window back."""

import itertools
import math

import pytest
import torch
from loop import example
from test_functional import BACKENDS, OUTPUTS, TOLERANCE, gradients, loop_over_batch

from lavo import lavo_attention


@pytest.mark.parametrize("rows", [1, 1 << 20], ids=["block by block", "at once"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "window", "rank"), [(1, 4, 8), (2, 4, 8), (7, 4, 3), (12, 4, 8), (8, 8, 1), (9, 64, 8), (9, 2, 8)]
)
@pytest.mark.parametrize(("causal", "output"), list(itertools.product((True, False), OUTPUTS)))
def test_windows_that_overlap_are_those_of_the_definition(causal, output, n, window, rank, backend, rows, monkeypatch):
    monkeypatch.setattr("lavo.overlap.SPAN_ROWS", rows)
    inputs = example(batch=2, n=n, window=window, rank=rank, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    options = {"window": window, "causal": causal, "output": output, "window_overlap": True}
    out = lavo_attention(q, k, v, basis, bias=bias, backend=backend, **options)
    want = loop_over_batch(*inputs, **options)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)
    for name, got, right in zip("qkvBP", gradients(out, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=1e-11, rtol=1e-11, msg=lambda m, name=name: f"{name}: {m}")
    if rank == 8 and backend == "torch":
        identity = torch.eye(8, dtype=q.dtype).repeat(q.shape[1], 1, 1)
        out = lavo_attention(q, k, v, None, bias=None, **options)
        want = loop_over_batch(q, k, v, identity, None, **options)
        torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_with_overlap_a_token_sees_at_least_half_a_window_and_less_than_a_whole_one(causal):
    """With an empty memory (B = 0) the values that have a gradient are those of the window."""
    q, k, v, _, bias = example(heads=1, n=40, window=8, causal=causal, grad=True)
    nothing = torch.zeros(1, 1, 8, dtype=v.dtype)
    out = lavo_attention(q, k, v, nothing, window=8, bias=bias, causal=causal, window_overlap=True)
    for t in range(40):
        (grad,) = torch.autograd.grad(out[:, :, t].sum(), v, retain_graph=True)
        seen = grad[0, 0].any(-1).nonzero()[:, 0].tolist()
        assert seen == list(range(seen[0], seen[-1] + 1))
        assert min(t, 4) <= t - seen[0] <= 7
        assert seen[-1] == t if causal else min(39 - t, 4) <= seen[-1] - t <= 7


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 781])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_that_overlap_are_as_the_formulas_say_at_every_length(causal, n, dtype):
    inputs = example(n=n, window=64, causal=causal, dtype=dtype, grad=True)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    options = {"window": 64, "causal": causal, "window_overlap": True}
    out = lavo_attention(*inputs[:4], bias=inputs[4], **options)
    want = lavo_attention(*exact[:4], bias=exact[4], backend="reference", **options)
    torch.testing.assert_close(out.double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for got, right in zip(gradients(out, inputs), gradients(want, exact), strict=True):
        scale = right.abs().max().item() + 1
        torch.testing.assert_close(got.double(), right, atol=TOLERANCE[dtype] * scale * 10, rtol=0)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck_with_overlap(causal, output):
    q, k, v, basis, bias = example(heads=1, n=7, d=3, rank=2, window=4, causal=causal, grad=True)
    options = {"window": 4, "causal": causal, "output": output, "window_overlap": True}
    assert torch.autograd.gradcheck(
        lambda q, k, v, basis, bias: lavo_attention(q, k, v, basis, bias=bias, **options), (q, k, v, basis, bias)
    )


@pytest.mark.parametrize("future", [0.0, 1e4, 1e30, float("nan"), float("inf")])
def test_with_overlap_the_future_does_not_move_the_past_at_all(future):
    """A block, half a window, is what may not hold nan; see the test above."""
    q, k, v, basis, bias = example(n=200, d=16, rank=16, window=48)
    options = {"window": 48, "bias": bias, "causal": True, "window_overlap": True}
    before = lavo_attention(q, k, v, basis, **options)
    for t in (0, 23, 24, 47, 100, 198):
        changed = [x.clone() for x in (q, k, v)]
        for x in changed:
            x[:, :, t + 1 :] = future if math.isfinite(future) else 1e30
            x[:, :, (t // 24 + 1) * 24 :] = future
        after = lavo_attention(*changed, basis, **options)
        assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1])
