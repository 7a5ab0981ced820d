"""The functions against a loop over the definition: outputs, gradients, padding, causality, precision, memory."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop import example, lavo_loop
from torch.utils._python_dispatch import TorchDispatchMode

from lavo import lavo_attention, lavo_cross_attention
from lavo.reference import self_attention as by_formula

# float64: rounding of some hundred operations; float32: what design.md promises; bfloat16: 2e-2 of the root mean square
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
OUTPUTS = ("joint", "sum", "memory")
BACKENDS = ("reference", "torch")
CONTENTS = {"zeros": 0.0, "large": 1e4, "nan": float("nan"), "infinite": float("inf")}


def loop_over_batch(q, k, v, basis, bias, mask=None, **options):
    """The loop on each row's real tokens; zeros elsewhere."""
    rows = []
    for b in range(q.shape[0]):
        real = torch.arange(q.shape[2]) if mask is None else (~mask[b]).nonzero()[:, 0]
        out = torch.zeros_like(q[b])
        if len(real):
            taken = (x[b][:, real] for x in (q, k, v))
            out = out.index_copy(1, real, lavo_loop(*taken, basis, bias=bias, **options))
        rows.append(out)
    return torch.stack(rows)


def gradients(out, inputs):
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out.dtype)
    found = torch.autograd.grad(out, inputs, upstream, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


@pytest.fixture(params=[0, 1 << 20], ids=["computed again", "kept"])
def _rows_kept(request, monkeypatch):
    """Runs a test with the backward pass of a long sequence, and with that of a short one."""
    monkeypatch.setattr("lavo.chunked.KEPT_ROWS", request.param)


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "window", "rank"), [(1, 4, 8), (7, 4, 3), (9, 3, 8), (8, 8, 1), (9, 64, 8)])
@pytest.mark.parametrize(("causal", "output"), list(itertools.product((True, False), OUTPUTS)))
def test_outputs_and_gradients_are_those_of_the_definition(causal, output, n, window, rank, backend):
    inputs = example(batch=2, n=n, window=window, rank=rank, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    out = lavo_attention(q, k, v, basis, window=window, bias=bias, causal=causal, output=output, backend=backend)
    want = loop_over_batch(*inputs, window=window, causal=causal, output=output)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)
    for name, got, right in zip("qkvBP", gradients(out, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=1e-11, rtol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("n", [8, 13, 21])
@pytest.mark.parametrize(("causal", "output"), list(itertools.product((True, False), OUTPUTS)))
def test_the_axes_as_a_basis_are_the_identity(causal, output, n):
    """Without a product with the basis, a is q itself; it must not be kept in a buffer that other blocks overwrite."""
    inputs = example(batch=2, n=n, window=8, rank=8, causal=causal, grad=True)
    q, k, v, _, bias = inputs
    identity = torch.eye(8, dtype=q.dtype).repeat(q.shape[1], 1, 1)
    out = lavo_attention(q, k, v, None, window=8, bias=bias, causal=causal, output=output)
    want = loop_over_batch(q, k, v, identity, bias, window=8, causal=causal, output=output)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)
    for got, right in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=1e-11, rtol=1e-11)


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ablation", ["no dissection", "no bias", "free basis"])
@pytest.mark.parametrize("causal", [True, False])
def test_ablations_are_those_of_the_definition(causal, ablation, backend):
    inputs = example(n=9, window=4, rank=5, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    options = {"window": 4, "causal": causal, "dissect": ablation != "no dissection"}
    bias = None if ablation == "no bias" else bias
    basis = basis * torch.linspace(0.5, 2, 5)[:, None] + 0.1 * torch.ones(5, 8) if ablation == "free basis" else basis
    out = lavo_attention(q, k, v, basis, bias=bias, backend=backend, **options)
    want = loop_over_batch(q, k, v, basis, bias, **options)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)
    for got, right in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 65, 127, 781])
@pytest.mark.parametrize("window", [7, 64, 100])
@pytest.mark.parametrize("causal", [True, False])
def test_every_length_and_window_is_as_the_formulas_say(causal, window, n, dtype):
    inputs = example(heads=2, n=n, d=8, rank=8, window=window, causal=causal, dtype=dtype, grad=True)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v, basis, bias = inputs
    out = lavo_attention(q, k, v, basis, window=window, bias=bias, causal=causal)
    q, k, v, basis, bias = exact
    want = by_formula(
        q, k, v, basis, window=window, bias=bias, causal=causal, key_padding_mask=None, output="sum", dissect=True
    )
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for got, right in zip(gradients(out, inputs), gradients(want, exact), strict=True):
        scale = right.abs().max().item() + 1
        torch.testing.assert_close(got.double(), right, atol=TOLERANCE[dtype] * scale * 10, rtol=0)


@pytest.mark.parametrize("layout", ["heads first", "tokens first", "every second"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_the_layout_in_memory_changes_nothing(causal, overlap, layout):
    q, k, v, basis, bias = example(batch=3, n=70, window=16, causal=causal)
    options = {"window": 16, "bias": bias, "causal": causal, "window_overlap": overlap}
    want = lavo_attention(q, k, v, basis, **options)
    if layout == "tokens first":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    if layout == "every second":
        q, k, v = (x.repeat_interleave(2, 3)[..., ::2] for x in (q, k, v))
    torch.testing.assert_close(lavo_attention(q, k, v, basis, **options), want)


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("axes", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_chunks_change_nothing(causal, axes, monkeypatch):
    """Small blocks make several chunks, several groups of batch rows and a partial window."""
    inputs = example(batch=3, n=75, d=8, window=8, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    basis = None if axes else basis
    want = lavo_attention(q, k, v, basis, window=8, bias=bias, causal=causal)
    for rows in (1, 16, 160):
        monkeypatch.setattr("lavo.blocks.ROWS_PER_THREAD", rows)
        out = lavo_attention(q, k, v, basis, window=8, bias=bias, causal=causal)
        torch.testing.assert_close(out, want, atol=1e-12, rtol=0)
        for got, right in zip(gradients(out, inputs), gradients(want, inputs), strict=True):
            torch.testing.assert_close(got, right, atol=1e-11, rtol=0)


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
@pytest.mark.parametrize("axes", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("causal", [True, False])
def test_buffers_that_temporaries_share_change_nothing(causal, output, axes, layout, monkeypatch):
    """A buffer overwritten too early would change some bits; with a buffer for each temporary none can be."""
    inputs = example(batch=3, n=75, d=8, window=8, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    if layout == "tokens first":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    monkeypatch.setattr("lavo.blocks.ROWS_PER_THREAD", 16)
    results = []
    for _ in range(2):
        out = lavo_attention(q, k, v, None if axes else basis, window=8, bias=bias, causal=causal, output=output)
        results.append([out, *gradients(out, inputs)])
        monkeypatch.setattr("lavo.blocks.BUFFER_OF", {})
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("axes", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_a_graph_kept_gives_its_gradients_twice(causal, axes):
    """If the backward pass wrote into tensors that the forward pass kept, the second one would differ."""
    inputs = example(n=21, window=8, rank=8, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    out = lavo_attention(q, k, v, None if axes else basis, window=8, bias=bias, causal=causal)
    for first, second in zip(gradients(out, inputs), gradients(out, inputs), strict=True):
        assert torch.equal(first, second)


@pytest.mark.usefixtures("_rows_kept")
@pytest.mark.parametrize("axes", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal, output, axes):
    q, k, v, basis, bias = example(heads=1, n=7, d=3, rank=2, window=3, causal=causal, grad=True)
    basis = None if axes else basis
    options = {"window": 3, "causal": causal, "output": output}
    assert torch.autograd.gradcheck(
        lambda q, k, v, basis, bias: lavo_attention(q, k, v, basis, bias=bias, **options), (q, k, v, basis, bias)
    )


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_cross_attention_is_that_of_the_definition(rank):
    q, _, v, basis, _ = example(batch=2, n=9, rank=rank, grad=True)
    query, mask = q[:, :, :4], torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    out = lavo_cross_attention(query, v, basis, key_padding_mask=mask)
    want = []
    for b, h, t in itertools.product(range(2), range(2), range(4)):
        H = torch.stack([basis[h] @ v[b, h, i] for i in range(9) if not mask[b, i]]).mean(0)
        memory = H[:, None] * basis[h]
        want.append(torch.softmax(memory @ query[b, h, t] / 8**0.5, 0) @ memory)
    want = torch.stack(want).view(out.shape)
    for got in (out, lavo_cross_attention(query, v, basis, key_padding_mask=mask, backend="reference")):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
        for a, b in zip(gradients(got, (q, v, basis)), gradients(want, (q, v, basis)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_cross_attention_ignores_the_order_of_the_source():
    q, _, v, basis, _ = example(n=50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        lavo_cross_attention(q, v[:, :, order], basis), lavo_cross_attention(q, v, basis), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("future", [0.0, 1e4, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_future_does_not_move_the_past_at_all(output, future):
    """Not even by rounding.  Inside a window the future is finite here: nan times a weight of 0 is nan, as in exact attention."""
    q, k, v, basis, bias = example(n=200, d=16, rank=16, window=48)
    before = lavo_attention(q, k, v, basis, window=48, bias=bias, causal=True, output=output)
    for t in (0, 15, 16, 47, 48, 100, 198):
        changed = [x.clone() for x in (q, k, v)]
        for x in changed:
            x[:, :, t + 1 :] = future if math.isfinite(future) else 1e30
            x[:, :, (t // 48 + 1) * 48 :] = future
        after = lavo_attention(*changed, basis, window=48, bias=bias, causal=True, output=output)
        assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1])


def test_no_gradient_reaches_the_future():
    q, k, v, basis, bias = example(n=150, d=16, rank=16, window=16, grad=True)
    out = lavo_attention(q, k, v, basis, window=16, bias=bias, causal=True)
    for t in (0, 15, 16, 149):
        for grad in torch.autograd.grad(out[:, :, t].sum(), (q, k, v), retain_graph=True):
            assert not grad[:, :, t + 1 :].any()
            assert grad[:, :, t].any() or t in (0, 16)  # alone in its window a key has no competitor


MASKS = {
    "right": [[0] * 50 + [1] * 47],
    "left": [[1] * 47 + [0] * 50],
    "inside": [[0, 1] * 47 + [0] * 3],
    "both ends": [[1] * 3 + [0] * 50 + [1] * 44],
    "all": [[1] * 97],
    "nothing": [[0] * 97],
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("place", [*MASKS, "a batch of all"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_a_padded_token_does_not_exist(causal, overlap, place, content):
    options = {"window": 16, "causal": causal, "window_overlap": overlap}
    masks = [m[0] for m in MASKS.values()] if place == "a batch of all" else MASKS[place]
    mask = torch.tensor(masks, dtype=torch.bool)
    q, k, v, basis, bias = example(batch=len(mask), n=97, window=16, causal=causal)
    q, k, v = (x.masked_fill(mask[:, None, :, None], CONTENTS[content]).requires_grad_() for x in (q, k, v))
    basis.requires_grad_(), bias.requires_grad_()
    out = lavo_attention(q, k, v, basis, bias=bias, key_padding_mask=mask, **options)
    found = gradients(out, (q, k, v))
    assert not out.masked_select(mask[:, None, :, None]).any()
    for b, padded in enumerate(mask):
        real = (~padded).nonzero()[:, 0]
        alone = [x[b : b + 1, :, real].detach().requires_grad_() for x in (q, k, v)]
        want = lavo_attention(*alone, basis, bias=bias, **options)
        torch.testing.assert_close(out[b : b + 1, :, real], want, atol=1e-12, rtol=0)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        right = torch.autograd.grad(want, alone, upstream[b : b + 1, :, real], allow_unused=True)
        for got, g in zip(found, right, strict=True):
            assert not got[b, :, padded].any()
            torch.testing.assert_close(got[b : b + 1, :, real], g, atol=1e-11, rtol=0)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_reaches_neither_basis_nor_bias(causal, overlap):
    q, k, v, basis, bias = example(n=20, window=8, causal=causal, grad=True)
    options = {"window": 8, "causal": causal, "window_overlap": overlap}
    want = gradients(lavo_attention(q, k, v, basis, bias=bias, **options), (basis, bias))
    pad = torch.full((1, 2, 13, 8), float("nan"), dtype=torch.float64)
    longer = [torch.cat([pad, x, pad], 2) for x in (q, k, v)]
    mask = torch.tensor([[True] * 13 + [False] * 20 + [True] * 13])
    out = lavo_attention(*longer, basis, bias=bias, key_padding_mask=mask, **options)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for got, right in zip(torch.autograd.grad(out[:, :, 13:33], (basis, bias), upstream), want, strict=True):
        torch.testing.assert_close(got, right, atol=1e-11, rtol=0)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_of_a_source_does_not_exist(content, backend):
    q, _, v, basis, _ = example(batch=4, n=9)
    mask = torch.tensor([[0] * 5 + [1] * 4, [1] * 4 + [0] * 5, [1, 0, 1] * 3, [1] * 9], dtype=torch.bool)
    v = v.masked_fill(mask[:, None, :, None], CONTENTS[content]).requires_grad_()
    out = lavo_cross_attention(q, v, basis, key_padding_mask=mask, backend=backend)
    (grad,) = torch.autograd.grad(out.sum(), v)
    for b in range(3):
        want = lavo_cross_attention(q[b : b + 1], v[b : b + 1, :, ~mask[b]], basis)
        torch.testing.assert_close(out[b : b + 1], want, atol=1e-12, rtol=0)
    assert not out[3].any()  # nothing to read
    assert not grad.masked_select(mask[:, None, :, None]).any()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_mask_is_as_the_definition_says(data):
    n = data.draw(st.integers(1, 12))
    window, causal = data.draw(st.integers(1, 6)), data.draw(st.booleans())
    mask = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3)))
    q, k, v, basis, bias = example(batch=len(mask), heads=1, n=n, d=4, rank=4, window=window, causal=causal)
    out = lavo_attention(q, k, v, basis, window=window, bias=bias, causal=causal, key_padding_mask=mask)
    want = loop_over_batch(q, k, v, basis, bias, mask, window=window, causal=causal)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-12)


def test_a_sample_in_a_batch_is_as_it_is_alone():
    q, k, v, basis, bias = example(batch=5, n=90, window=16, dtype=torch.float32)
    together = lavo_attention(q, k, v, basis, window=16, bias=bias, causal=True)
    for b in range(5):
        alone = lavo_attention(*(x[b : b + 1] for x in (q, k, v)), basis, window=16, bias=bias, causal=True)
        torch.testing.assert_close(together[b : b + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_over_all_is_exact_attention_beside_the_memory(causal):
    """With bases and values that leave the memory empty (v orthogonal to B), joint is attention with r units of score 0."""
    q, k, v, basis, _ = example(n=30, rank=3)
    v = v - torch.einsum("bhnd,hrd,hre->bhne", v, basis, basis)
    out = lavo_attention(q, k, v, basis, window=30, causal=causal, output="sum")
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0)


def test_large_scores_do_not_overflow():
    q, k, v, basis, bias = example(n=40, window=8, dtype=torch.float32, grad=True)
    out = lavo_attention(q * 1e3, k * 1e3, v, basis, window=8, bias=bias, causal=True)
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in gradients(out, (q, k, v, basis, bias)))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_low_precision_inputs_keep_their_dtype_and_are_summed_in_float32(causal, overlap):
    options = {"window": 64, "causal": causal, "window_overlap": overlap}
    q, k, v, basis, bias = example(n=1500, d=16, rank=16, window=64, causal=causal)
    low = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    parameters = [x.float().requires_grad_() for x in (basis, bias)]
    exact = [x.detach().double().requires_grad_() for x in (*low, *parameters)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lavo_attention(*low, parameters[0], bias=parameters[1], **options)
    want = lavo_attention(*exact[:4], bias=exact[4], **options)
    assert out.dtype == torch.bfloat16
    for got, right in zip([out, *gradients(out, (*low, *parameters))], [want, *gradients(want, exact)], strict=True):
        error = (got.double() - right).square().mean().sqrt()
        assert error <= 2e-2 * right.square().mean().sqrt()
    assert [g.dtype for g in gradients(out, (*low, *parameters))] == [torch.bfloat16] * 3 + [torch.float32] * 2


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_no_token_and_one_token(causal, overlap, length):
    inputs = example(n=length, window=4, causal=causal, grad=True)
    q, k, v, basis, bias = inputs
    out = lavo_attention(q, k, v, basis, window=4, bias=bias, causal=causal, window_overlap=overlap)
    assert out.shape == q.shape
    assert all(torch.isfinite(g).all() for g in gradients(out, inputs))
    source = lavo_cross_attention(example(n=3)[0], v, basis)
    assert source.any() if length else not source.any()


class LargestTensor(TorchDispatchMode):
    """Finds the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                # an expanded or sliced view counts no more than its storage
                self.numel = max(self.numel, min(x.numel(), x.untyped_storage().nbytes() // x.element_size()))
        return out


@pytest.mark.parametrize("causal", [True, False])
def test_no_tensor_is_larger_than_the_inputs(causal):
    """There is no n x n and no n x r x d tensor: but for blocks, whose size is fixed, none exceeds one of q, k, v."""
    for n in (4096, 16384):
        inputs = example(heads=1, n=n, d=16, rank=16, window=16, causal=causal, dtype=torch.float32, grad=True)
        q, k, v, basis, bias = inputs
        with LargestTensor() as largest:
            gradients(lavo_attention(q, k, v, basis, window=16, bias=bias, causal=causal), inputs)
        assert largest.numel <= max(q.numel(), 8192 * 24)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("q", {"q": torch.randn(2, 9, 8)}),
        ("q", {"q": torch.zeros(1, 2, 9, 8, dtype=torch.int64)}),
        ("k", {"k": torch.randn(1, 2, 9, 8)}),
        ("8 for k", {"k": torch.randn(1, 2, 8, 8).double(), "v": torch.randn(1, 2, 8, 8).double()}),
        ("k", {"v": torch.randn(1, 2, 8, 8).double()}),
        ("basis", {"basis": torch.randn(2, 9, 8)}),
        ("basis", {"basis": torch.randn(3, 8, 8)}),
        ("basis", {"basis": torch.randn(8, 8)}),
        ("window", {"window": 0}),
        ("window", {"window": 2.0}),
        ("window", {"window": True}),
        ("even window.*got 3", {"window": 3, "bias": None, "window_overlap": True}),
        ("window_overlap", {"window_overlap": 1}),
        ("dissect", {"dissect": False, "window_overlap": True}),
        ("triton", {"backend": "triton", "window_overlap": True}),
        ("bias", {"bias": torch.zeros(2, 5)}),
        ("bias", {"bias": torch.zeros(1, 4)}),
        ("output", {"output": "both"}),
        ("backend", {"backend": "cuda"}),
        ("triton", {"backend": "triton"}),
        ("key_padding_mask", {"key_padding_mask": torch.zeros(1, 9)}),
        ("key_padding_mask", {"key_padding_mask": torch.zeros(1, 8, dtype=torch.bool)}),
        ("key_padding_mask", {"key_padding_mask": torch.zeros(1, 2, 9, 9, dtype=torch.bool)}),
    ],
)
def test_a_bad_argument_is_named(argument, change):
    q, k, v, basis, bias = example()
    arguments = {"q": q, "k": k, "v": v, "basis": basis, "window": 4, "bias": bias, "causal": True} | change
    with pytest.raises(ValueError, match=argument):
        lavo_attention(**arguments)


def test_the_message_about_a_mask_names_type_shape_and_meaning():
    q, k, v, basis, _ = example()
    with pytest.raises(
        ValueError, match=r"boolean, \(batch, source length\) = \(1, 9\), True where padded, got .*float"
    ):
        lavo_attention(q, k, v, basis, key_padding_mask=torch.zeros(1, 9))
    with pytest.raises(ValueError, match="boolean"):
        lavo_cross_attention(q, v, basis, key_padding_mask=torch.zeros(1, 9))
    with pytest.raises(ValueError, match="batch and heads"):
        lavo_cross_attention(q, v[:, :1], basis)


def test_an_inverted_mask_shows():
    q, k, v, basis, _ = example(n=9)
    mask = torch.tensor([[False] * 6 + [True] * 3])
    right, inverted = (lavo_attention(q, k, v, basis, key_padding_mask=m) for m in (mask, ~mask))
    assert right[:, :, 0].any()
    assert not inverted[:, :, 0].any()
