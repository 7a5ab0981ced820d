"""Properties of every baseline in each of its patterns."""

import math

import pytest
import torch
from baseline_cases import LENGTHS, NAMES, PATTERNS, TOLERANCES, build, inputs, mask_of, oracle

from benchmark.registry import build_attention

PADDINGS = ("right", "left", "inside", "scattered", "all of one row")
every_attention = pytest.mark.parametrize("name", NAMES)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


@pytest.fixture(autouse=True)
def one_thread():
    """On small tensors a second thread costs more time than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@every_attention
@every_pattern
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_its_formula_at_every_length(name, pattern, length):
    attention = build(name, pattern)
    size = {"batch_size": 1, "num_heads": 2} if length > 100 else {}
    q, k, v = inputs(pattern, length, **size)
    out = attention(q, k, v)
    assert out.shape == q.shape
    if length > 200:  # the oracle's loops would take seconds
        expected = attention.definition(q, k, v) if name != "performer" else None
    else:
        expected = oracle(name, attention, pattern)(q, k, v)
    if expected is not None:
        torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


@every_attention
@every_pattern
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_near_the_formula_and_keeps_its_dtype(name, pattern, dtype):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 70, batch_size=1, dtype=dtype)
    out = attention(q, k, v)
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(), oracle(name, attention, pattern)(q, k, v), atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype]
    )


@every_attention
@every_pattern
def test_definition_equals_the_formula_in_the_inputs_own_precision(name, pattern):
    attention = build(name, pattern)
    q, k, v = inputs(pattern)
    for mask in (None, mask_of("scattered", 3, k.shape[2]), mask_of("all of one row", 3, k.shape[2])):
        out = attention.definition(q, k, v, mask)
        assert out.dtype == q.dtype
        torch.testing.assert_close(out, oracle(name, attention, pattern)(q, k, v, mask), atol=1e-10, rtol=0)


@every_attention
@every_pattern
@pytest.mark.parametrize("kind", PADDINGS)
def test_padded_tokens_do_not_exist(name, pattern, kind):
    attention = build(name, pattern)
    for batch_size in (1, 3):
        q, k, v = inputs(pattern, 70, batch_size=batch_size)
        mask = mask_of(kind, batch_size, k.shape[2])
        out = attention(q, k, v, key_padding_mask=mask)
        torch.testing.assert_close(out, oracle(name, attention, pattern)(q, k, v, mask), atol=1e-10, rtol=0)


@every_attention
@every_pattern
@pytest.mark.parametrize("content", [0.0, 1e4, math.nan, math.inf, -math.inf])
def test_padding_content_changes_nothing_and_gets_no_gradient(name, pattern, content):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 70)
    mask = mask_of("scattered", 3, k.shape[2])
    mask[1] = True
    tensors = [q, k, v]
    padded = [mask[:, None, :, None].expand_as(k)] * 2
    padded = [padded[0] if pattern.endswith("_self") else torch.zeros_like(q, dtype=torch.bool), *padded]

    def run(fill):
        leaves = [x.masked_fill(hidden, fill).requires_grad_() for x, hidden in zip(tensors, padded, strict=True)]
        out = attention(*leaves, key_padding_mask=mask)
        return out, torch.autograd.grad(out.square().sum(), leaves)

    (out, gradients), (expected, expected_gradients) = run(content), run(0.5)
    assert torch.equal(out, expected)
    for gradient, wanted, hidden in zip(gradients, expected_gradients, padded, strict=True):
        assert torch.equal(gradient, wanted)
        assert (gradient[hidden] == 0).all()


@every_attention
def test_a_sequence_of_50_padded_to_97_keeps_its_result(name):
    for pattern in ("noncausal_self", "causal_self"):
        attention = build(name, pattern)
        q, k, v = inputs(pattern, 97)
        mask = torch.zeros(3, 97, dtype=torch.bool)
        mask[:, 50:] = True
        alone = attention(q[:, :, :50], k[:, :, :50], v[:, :, :50])
        torch.testing.assert_close(attention(q, k, v, mask)[:, :, :50], alone, atol=1e-9, rtol=0)


@every_attention
@every_pattern
def test_an_empty_context_gives_zeros_and_zero_gradients(name, pattern):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, requires_grad=True)
    mask = mask_of("all of one row", 3, k.shape[2])
    out = attention(q, k, v, mask)
    assert (out[1] == 0).all()
    torch.testing.assert_close(out[[0, 2]], attention(q, k, v)[[0, 2]], atol=1e-12, rtol=0)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(gradient.isfinite().all() and (gradient[1] == 0).all() for gradient in gradients)
    if pattern.endswith("_cross"):
        out = attention(q, k[:, :, :0], v[:, :, :0])
        assert (out == 0).all()
        assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@every_attention
@every_pattern
@pytest.mark.parametrize("kind", [None, "scattered"])
def test_gradients_pass_gradcheck(name, pattern, kind):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 7, batch_size=2, num_heads=2, head_dim=8, requires_grad=True)
    mask = None if kind is None else mask_of(kind, 2, k.shape[2])
    assert torch.autograd.gradcheck(lambda *x: attention(*x, mask), (q, k, v), fast_mode=True)


@every_attention
@every_pattern
@pytest.mark.parametrize("length", [65, 129])
def test_gradients_equal_those_of_the_definition(name, pattern, length):
    attention = build(name, pattern)
    leaves = inputs(pattern, length, batch_size=2, requires_grad=True)
    mask = mask_of("inside", 2, leaves[1].shape[2])
    weights = torch.randn(leaves[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for hidden in (None, mask):
        got = torch.autograd.grad((attention(*leaves, hidden) * weights).sum(), leaves)
        wanted = torch.autograd.grad((attention.definition(*leaves, hidden) * weights).sum(), leaves)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@every_attention
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("last", [0, 1, 40, 63, 64, 100])
def test_the_future_moves_nothing_at_all(name, dtype, last):
    attention = build(name, "causal_self")
    q, k, v = inputs("causal_self", 150, dtype=dtype)
    before = attention(q, k, v)[:, :, : last + 1]
    for scale in (1.0, 1e4, 1e-4):
        changed = [x.clone() for x in (q, k, v)]
        noise = inputs("causal_self", 150, dtype=dtype, seed=1)
        for x, y in zip(changed, noise, strict=True):
            x[:, :, last + 1 :] = y[:, :, last + 1 :] * scale
        assert torch.equal(attention(*changed)[:, :, : last + 1], before)


@every_attention
def test_the_future_gets_no_gradient(name):
    attention = build(name, "causal_self")
    leaves = inputs("causal_self", 150, requires_grad=True)
    gradients = torch.autograd.grad(attention(*leaves)[:, :, :90].square().sum(), leaves)
    assert all((gradient[:, :, 90:] == 0).all() for gradient in gradients)


@every_attention
@every_pattern
def test_a_sample_alone_is_as_in_a_batch(name, pattern):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 150, dtype=torch.float32)
    mask = mask_of("right", 3, k.shape[2])
    for hidden in (None, mask):
        together = attention(q, k, v, hidden)
        for b in range(3):
            row = slice(b, b + 1)
            alone = attention(q[row], k[row], v[row], None if hidden is None else hidden[row])
            torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=0)


@every_attention
def test_sums_of_many_half_precision_tokens_do_not_stall(name):
    """With equal keys, every attention gives the running mean of the values."""
    if name == "none":
        pytest.skip("no sum")
    # A float16 sum of ones stops at 2,048.  Exact attention is quadratic, so it gets fewer tokens.
    length = 4096 if name in ("softmax", "flash") else 65536
    dtypes = (torch.bfloat16,) if name == "softmax" else (torch.bfloat16, torch.float16)
    for dtype in dtypes:
        options = {"max_length": length} if name == "cosformer" else {}
        attention = build(name, "noncausal_self" if name == "softmax" else "causal_self", num_heads=1, **options)
        q = k = torch.full((1, 1, length, 8), 0.5, dtype=dtype)
        v = torch.ones(1, 1, length, 8, dtype=dtype)
        with torch.no_grad():
            out = attention(q, k, v).float()
        torch.testing.assert_close(out, torch.ones_like(out), atol=2e-2, rtol=0)


@every_attention
@every_pattern
def test_autocast_changes_neither_dtype_nor_precision(name, pattern):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 70, dtype=torch.float32)
    expected = attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(q, k, v)
    assert torch.equal(out, expected)


@every_attention
@every_pattern
def test_inputs_may_lie_in_memory_in_any_order(name, pattern):
    attention = build(name, pattern)
    q, k, v = inputs(pattern, 70)
    strange = [x.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0) for x in (q, k, v)]
    assert strange[0].stride(-1) != 1
    torch.testing.assert_close(attention(*strange), attention(q, k, v), atol=1e-12, rtol=0)


@every_attention
def test_no_tokens_give_no_outputs(name):
    attention = build(name, "causal_self")
    q, k, v = inputs("causal_self", 0)
    assert attention(q, k, v).shape == (3, 2, 0, 8)
    out, state = attention.extend(q, k, v, attention.init_state(3, dtype=torch.float64))
    assert out.shape == (3, 2, 0, 8)
    q, k, v = inputs("causal_self", 5)
    torch.testing.assert_close(attention.extend(q, k, v, state)[0], attention(q, k, v))


@every_attention
@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(3, 13),
        torch.zeros(3, 13, dtype=torch.uint8),
        torch.zeros(13, dtype=torch.bool),
        torch.zeros(3, 12, dtype=torch.bool),
        torch.zeros(3, 1, 1, 13, dtype=torch.bool),
    ],
)
def test_a_mask_of_another_kind_is_refused(name, mask):
    attention = build(name, "noncausal_self")
    with pytest.raises(
        ValueError, match=r"torch.bool of shape \(batch, source length\) = \(3, 13\), True where padded"
    ):
        attention(*inputs("noncausal_self"), mask)


@every_attention
def test_bad_arguments_are_refused(name):
    q, k, v = inputs("causal_self", 5)
    attention = build(name, "causal_self")
    with pytest.raises(ValueError, match=r"got 2 and 5.*extend"):
        attention(q[:, :, :2], k, v)
    with pytest.raises(ValueError, match="k and v need equal lengths, got 5 and 4"):
        build(name, "noncausal_cross")(q, k, v[:, :, :4])
    with pytest.raises(ValueError, match=r"k has shape .*heads = 2 and head_dim = 8"):
        attention(q, k[..., :4], v)
    with pytest.raises(ValueError, match=r"q has dtype torch.int64"):
        attention(q.long(), k, v)
    with pytest.raises(ValueError, match="q and k need equal batch size and dtype"):
        attention(q.float(), k, v)
    if name != "none":  # its state is empty and fits any batch
        with pytest.raises(ValueError, match="batch size 3, the state 2"):
            attention.extend(q, k, v, attention.init_state(2))
    with pytest.raises(ValueError, match="rows has dtype"):
        attention.select(attention.init_state(3), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"init_cross.. belongs to the pattern 'causal_cross'"):
        attention.init_cross(k, v)
    with pytest.raises(ValueError, match=r"init_state.. belongs to the pattern 'causal_self'"):
        build(name, "noncausal_self").init_state(1)


@every_attention
def test_modules_move_with_their_state_dict(name):
    attention, twin = build(name, "causal_self"), build(name, "causal_self")
    twin.load_state_dict(attention.state_dict())
    q, k, v = inputs("causal_self")
    assert torch.equal(attention(q, k, v), twin(q, k, v))
    assert sum(parameter.numel() for parameter in attention.parameters()) == 0


@every_attention
@every_pattern
@pytest.mark.parametrize("is_padded", [False, True])
def test_an_empty_batch_gives_an_empty_output_and_gradients(name, pattern, is_padded):
    attention = build(name, pattern).train()
    q, k, v = inputs(pattern, batch_size=0, requires_grad=True)
    out = attention(q, k, v, key_padding_mask=mask_of("right", 0, k.shape[2]) if is_padded else None)
    assert out.shape == q.shape
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape]
    if pattern == "causal_self":
        state = attention.init_state(0, dtype=q.dtype)
        for part in (slice(0, 5), slice(5, None)):
            new, state = attention.extend(q[:, :, part], k[:, :, part], v[:, :, part], state)
            assert new.shape == q[:, :, part].shape
    if pattern == "causal_cross":
        mask = mask_of("right", 0, k.shape[2]) if is_padded else None
        assert attention.read(q, attention.init_cross(k, v, mask))[0].shape == q.shape


@every_attention
@every_pattern
def test_building_on_the_meta_device_gives_the_same_buffers_and_draws_nothing_else(name, pattern):
    with torch.device("meta"):
        on_meta = build_attention(name, pattern=pattern, num_heads=2, head_dim=8)
    usual = build_attention(name, pattern=pattern, num_heads=2, head_dim=8)
    shapes = [{key: x.shape for key, x in one.state_dict().items()} for one in (on_meta, usual)]
    assert shapes[0] == shapes[1]
    assert all(x.is_meta for x in on_meta.state_dict().values())
