"""Streaming of every causal baseline: any split, branches, selected rows, and what a state holds."""

import hypothesis.strategies as st
import pytest
import torch
from baseline_cases import NAMES, PATTERNS, build, inputs, mask_of, parts_of, stream
from hypothesis import given, settings

from benchmark.interface import state_tensors

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
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 90), max_size=6))
def test_any_split_streams_to_the_whole(name, dtype, limit, sizes):
    attention = build(name, "causal_self")
    q, k, v = inputs("causal_self", 150, batch_size=2, dtype=dtype)
    with torch.no_grad():
        out, _ = stream(attention, q, k, v, sizes)
        torch.testing.assert_close(out, attention(q, k, v), atol=limit, rtol=0)


@every_attention
def test_token_by_token_is_the_whole(name):
    attention = build(name, "causal_self")
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        q, k, v = inputs("causal_self", 80, dtype=dtype)
        with torch.no_grad():
            out, _ = stream(attention, q, k, v, [1] * 80)
            assert out.dtype == dtype
            torch.testing.assert_close(out, attention(q, k, v), atol=limit, rtol=limit)


@every_attention
def test_streaming_has_the_gradients_of_the_whole(name):
    attention = build(name, "causal_self")
    leaves = inputs("causal_self", 20, requires_grad=True)
    streamed, _ = stream(attention, *leaves, [3, 1, 0, 9])
    got = torch.autograd.grad(streamed.square().sum(), leaves)
    wanted = torch.autograd.grad(attention(*leaves).square().sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@every_attention
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), max_size=6))
def test_a_source_is_read_in_any_steps(name, sizes):
    attention, whole = build(name, "causal_cross"), build(name, "noncausal_cross")
    q, k, v = inputs("causal_cross", 13)
    for kind in (None, "scattered", "all of one row"):
        mask = None if kind is None else mask_of(kind, 3, k.shape[2])
        state = attention.init_cross(k, v, key_padding_mask=mask)
        outputs = []
        for part in parts_of(13, sizes):
            out, state = attention.read(q[:, :, part], state)
            outputs.append(out)
        torch.testing.assert_close(torch.cat(outputs, 2), whole(q, k, v, mask), atol=1e-10, rtol=0)
        torch.testing.assert_close(torch.cat(outputs, 2), attention(q, k, v, mask), atol=1e-10, rtol=0)


@every_attention
@pytest.mark.parametrize("with_grad", [False, True])
def test_two_branches_from_one_state_are_independent(name, with_grad):
    attention = build(name, "causal_self")
    q, k, v = inputs("causal_self", 40)
    q2, k2, v2 = inputs("causal_self", 40, seed=1)
    branch = [torch.cat((x[:, :, :20], y[:, :, 20:]), 2) for x, y in ((q, q2), (k, k2), (v, v2))]
    with torch.set_grad_enabled(with_grad):
        _, root = stream(attention, q[:, :, :20], k[:, :, :20], v[:, :, :20], [11])
        first, first_state = stream(attention, q[:, :, 20:30], k[:, :, 20:30], v[:, :, 20:30], [4], root)
        second, _ = stream(attention, *(x[:, :, 20:] for x in branch), [1, 7], root)
        rest, _ = stream(attention, q[:, :, 30:], k[:, :, 30:], v[:, :, 30:], [1, 1], first_state)
        again, _ = stream(attention, q[:, :, 20:30], k[:, :, 20:30], v[:, :, 20:30], [], root)
        expected, other = attention(q, k, v), attention(*branch)
    torch.testing.assert_close(torch.cat((first, rest), 2), expected[:, :, 20:], atol=1e-10, rtol=0)
    torch.testing.assert_close(second, other[:, :, 20:], atol=1e-10, rtol=0)
    torch.testing.assert_close(again, expected[:, :, 20:30], atol=1e-10, rtol=0)


@every_attention
def test_selected_rows_go_on_as_their_own_prefixes(name):
    rows = torch.tensor([2, 0, 0, 2, 1])
    attention = build(name, "causal_self")
    q, k, v = inputs("causal_self", 30)
    with torch.no_grad():
        _, state = stream(attention, *(x[:, :, :17] for x in (q, k, v)), [9])
        out, _ = stream(attention, *(x[rows][:, :, 17:] for x in (q, k, v)), [3], attention.select(state, rows))
        torch.testing.assert_close(out, attention(q, k, v)[rows][:, :, 17:], atol=1e-10, rtol=0)
        original, _ = stream(attention, *(x[:, :, 17:] for x in (q, k, v)), [3], state)
        torch.testing.assert_close(original, attention(q, k, v)[:, :, 17:], atol=1e-10, rtol=0)
    cross = build(name, "causal_cross")
    q, k, v = inputs("causal_cross", 9)
    for mask in (None, mask_of("right", 3, k.shape[2])):
        first, state = cross.read(q[:, :, :4], cross.init_cross(k, v, mask))
        out, _ = cross.read(q[rows][:, :, 4:], cross.select(state, rows))
        torch.testing.assert_close(torch.cat((first[rows], out), 2), cross(q, k, v, mask)[rows], atol=1e-10, rtol=0)


@every_attention
def test_a_state_says_how_much_it_holds(name):
    sizes = {}
    for length in (1, 1000):
        attention = build(name, "causal_self")
        q, k, v = inputs("causal_self", length, batch_size=1, dtype=torch.float32)
        with torch.no_grad():
            _, state = stream(attention, q, k, v, [])
        sizes[length] = attention.state_bytes(state)
    h, d, f = 2, 8, 20
    numbers = {
        "softmax": {1: 2 * d, 1000: 2000 * d},
        "flash": {1: 2 * d, 1000: 2000 * d},
        "performer": dict.fromkeys((1, 1000), f * (d + 1) + f),
        "cosformer": dict.fromkeys((1, 1000), 2 * d * (d + 1)),
        "none": dict.fromkeys((1, 1000), 0),
    }[name]
    assert sizes == {length: 4 * h * number for length, number in numbers.items()}
    assert getattr(attention, "linear_state", False) == (sizes[1] == sizes[1000])


@every_attention
def test_states_of_half_precision_keep_sums_in_float32(name):
    attention = build(name, "causal_self")
    if not getattr(attention, "linear_state", False):
        pytest.skip("a cache holds keys and values, no sums")
    for dtype in (torch.float16, torch.bfloat16):
        for tensor in state_tensors(attention.init_state(1, dtype=dtype)):
            assert tensor.dtype == torch.float32
    assert all(x.dtype == torch.float64 for x in state_tensors(attention.init_state(1, dtype=torch.float64)))


@every_attention
def test_a_continuation_sees_all_that_came_before(name):
    """Known fault 4: two queries after three tokens, k = 0 and v = 0, 1, 2, 3, 4, give 1.5 and 2."""
    if name in ("none", "cosformer"):
        pytest.skip("k = 0 is an empty context there")
    attention = build(name, "causal_self", num_heads=1)
    q = k = torch.zeros(1, 1, 5, 8)
    v = torch.arange(5.0)[:, None].expand(1, 1, 5, 8)
    with torch.no_grad():
        out, _ = stream(attention, q, k, v, [3])
    torch.testing.assert_close(out[0, 0, 3:, 0], torch.tensor([1.5, 2.0]))
