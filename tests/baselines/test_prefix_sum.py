"""The chunked causal sum, compared with a loop, and what it keeps in memory."""

import pytest
import torch
from baseline_cases import build
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.performer import CHUNK_SIZE
from baselines.prefix_sum import block_sizes, causal_sums, chunk_starts, normalised


class LargestTensor(TorchDispatchMode):
    """Counts the numbers of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        out = operator(*arguments, **(named or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", ["performer", "cosformer"])
@pytest.mark.parametrize("pattern", ["causal_self", "noncausal_self"])
def test_no_tensor_holds_a_state_for_every_token(name, pattern):
    length, d, num_features = 16384, 16, 64
    options = {"num_features": num_features} if name == "performer" else {"max_length": length}
    attention = build(name, pattern, num_heads=1, head_dim=d, **options)
    q, k, v = (torch.randn(1, 1, length, d, requires_grad=True) for _ in range(3))
    with LargestTensor() as forward:
        out = attention(q, k, v)
    with LargestTensor() as backward:
        out.sum().backward()
    f = num_features if name == "performer" else 2 * d
    largest = max(forward.numel, backward.numel)
    assert largest <= length * max(f, CHUNK_SIZE)  # features, or the scores inside chunks
    assert largest < length * f * (d + 1) / 8


@pytest.mark.parametrize("name", ["performer", "cosformer"])
def test_what_autograd_keeps_grows_by_q_k_v_and_one_state_a_block(name, monkeypatch):
    module = f"baselines.{name}"
    monkeypatch.setattr(f"{module}.BLOCK_ELEMENTS", {"cpu": 1 << 14})
    d, num_features = 16, 64
    options = {"num_features": num_features} if name == "performer" else {"max_length": 16384}
    attention = build(name, "causal_self", num_heads=1, head_dim=d, **options)

    def kept(length):
        inputs = [torch.randn(1, 1, length, d, requires_grad=True) for _ in range(3)]
        storages = {}

        def remember(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            out = attention(*inputs)
        assert out.requires_grad
        return sum(storages.values())

    growth = (kept(16384) - kept(8192)) / 8192 / 4  # numbers a token
    assert growth < 6 * d + num_features


def test_sums_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    g, c, f, e = 3, 4, 5, 6
    q, k = torch.rand(2, 1, 1, g, c, f, generator=generator, dtype=torch.float64)
    values = torch.rand(1, 1, g, c, e, generator=generator, dtype=torch.float64)
    start = torch.rand(1, 1, f, e, generator=generator, dtype=torch.float64)
    before, total = chunk_starts(k.mT @ values, start)
    out = causal_sums((q @ k.mT).tril(), q, values, before).reshape(g * c, e)
    running = start[0, 0].clone()
    for t in range(g * c):
        running += torch.outer(k.reshape(-1, f)[t], values.reshape(-1, e)[t])
        torch.testing.assert_close(out[t], q.reshape(-1, f)[t] @ running)
    torch.testing.assert_close(total[0, 0], running)


def test_zero_weight_gives_zeros_with_zero_gradients():
    sums = torch.tensor([[2.0, 4.0, 2.0], [0.0, 0.0, 0.0]], requires_grad=True)
    out = normalised(sums)
    assert out.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert torch.autograd.grad(out[0].sum(), sums)[0].isfinite().all()


@pytest.mark.parametrize(
    ("length", "sizes"), [(0, [0]), (5, [5]), (8, [8]), (9, [8, 1]), (40, [16, 16, 8]), (43, [16, 16, 8, 3])]
)
def test_blocks_are_whole_chunks_and_a_rest(length, sizes):
    assert block_sizes(length, 8, 23) == sizes


@pytest.mark.parametrize("length", [1 << 16, 1 << 18])
@pytest.mark.parametrize("name", ["performer", "cosformer"])
def test_long_constant_inputs_keep_their_answer(name, length):
    """Known fault 9: sums over far more tokens than half precision can count."""
    options = {"num_features": 16} if name == "performer" else {"max_length": length}
    attention = build(name, "causal_self", num_heads=1, head_dim=8, **options)
    q = k = torch.full((1, 1, length, 8), 0.3, dtype=torch.bfloat16)
    v = torch.rand(1, 1, length, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        out = attention(q, k, v)
    assert out.dtype == torch.bfloat16
    if name == "performer":
        expected = v.double().cumsum(2) / torch.arange(1, length + 1)[:, None]
        torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=0)
    else:
        assert (out[:, :, -1].double() - 0.5).abs().max() < 2e-2
    streamed = torch.no_grad()(attention.extend)(q[:, :, -1:], k[:, :, -1:], v[:, :, -1:], attention.init_state(1))[0]
    assert streamed.isfinite().all()
