"""Exact attention compared with PyTorch's, the kernels that run, and the cache of keys and values."""

import pytest
import torch
import torch.nn.functional as F
from baseline_cases import PATTERNS, build, inputs, mask_of, stream
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from baselines import flash
from baselines.kv_cache import append, cache_bytes, cached, empty_cache

EXACT = ("softmax", "flash")


def attention_operators(run):
    with profile() as record:
        run()
    return {event.key for event in record.key_averages() if "attention" in event.key or "softmax" in event.key}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_pytorchs_math_backend(name, pattern):
    q, k, v = inputs(pattern, 65)
    mask = mask_of("right", 3, k.shape[2])
    visible = (~mask)[:, None, None, :].expand(3, 1, q.shape[2], k.shape[2])
    visible = visible.tril() if pattern == "causal_self" else visible
    with sdpa_kernel(SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    if pattern.endswith("_self"):
        expected = expected.masked_fill(mask[:, None, :, None], 0)
    torch.testing.assert_close(build(name, pattern)(q, k, v, mask), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("padded", [False, True])
def test_flash_runs_a_flash_kernel_and_records_it(pattern, padded):
    attention = build("flash", pattern)
    q, k, v = inputs(pattern, 20, dtype=torch.float32, requires_grad=True)
    mask = mask_of("scattered", 3, k.shape[2]) if padded else None
    operators = attention_operators(lambda: attention(q, k, v, mask).sum().backward())
    assert attention.kernel == "cpu_flash"
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in operators
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in operators
    assert not any("math" in operator or "softmax" in operator for operator in operators)


def test_flash_streams_with_a_flash_kernel():
    attention = build("flash", "causal_self")
    q, k, v = inputs("causal_self", 20, dtype=torch.float32)
    with torch.no_grad():
        operators = attention_operators(lambda: stream(attention, q, k, v, [5, 1, 9]))
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in operators
    assert not any("math" in operator or "softmax" in operator for operator in operators)


def test_softmax_runs_no_fused_kernel():
    attention = build("softmax", "causal_self")
    operators = attention_operators(lambda: attention(*inputs("causal_self")))
    assert "aten::_softmax" in operators
    assert not any("scaled_dot_product" in operator for operator in operators)


def test_flash_refuses_a_device_without_a_kernel():
    q, k, v = (x.to("meta") for x in inputs("causal_self"))
    with pytest.raises(ValueError, match=r"flash has no kernel for torch.float64 with head_dim 8 on meta"):
        flash.choose_kernel(q, k, v)


def test_a_continuation_of_many_queries_needs_no_mask_of_all(monkeypatch):
    monkeypatch.setattr(flash, "QUERY_BLOCK", 16)
    attention = build("flash", "causal_self")
    q, k, v = inputs("causal_self", 100)
    out, _ = stream(attention, q, k, v, [30])
    torch.testing.assert_close(out, attention(q, k, v), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_cache_appends_in_place_where_nobody_else_can_see_it():
    k = torch.randn(1, 1, 10, 4)
    root = append(empty_cache(1, 1, 4, device=None, dtype=None), k, k)
    child = append(root, k, k)
    assert child.keys.data_ptr() == root.keys.data_ptr()
    other = append(root, -k, -k)
    assert other.keys.data_ptr() != root.keys.data_ptr()
    assert torch.equal(cached(child)[0], torch.cat((k, k), 2))
    assert torch.equal(cached(other)[1], torch.cat((k, -k), 2))
    assert torch.equal(cached(root)[0], k)


@torch.no_grad()
def test_a_cache_copies_seldom():
    token = torch.randn(1, 1, 1, 4)
    cache, buffers = empty_cache(1, 1, 4, device=None, dtype=None), set()
    for i in range(3000):
        cache = append(cache, token, token)
        buffers.add(cache.keys.shape[2])
        assert cache_bytes(cache) == 2 * (i + 1) * 4 * 4
    assert buffers == {64, 128, 256, 512, 1024, 2048, 4096}


def test_a_cache_of_inference_mode_can_be_continued_outside_of_it():
    k = torch.randn(1, 1, 3, 4)
    with torch.inference_mode():
        cache = append(empty_cache(1, 1, 4, device=None, dtype=None), k, k)
    with torch.no_grad():
        cache = append(cache, k, k)
    assert torch.equal(cached(cache)[0], torch.cat((k, k), 2))
