"""The module: parameters, streaming, selection, folding, orthonormality, declarations."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavo import LAVOAttention
from lavo.basis import BASES, Cayley, make_basis
from lavo.parallel import Part, sequence_part

VARIANTS = [
    {},
    {"basis": "learned"},
    {"output": "joint"},
    {"output": "joint", "basis": "learned"},
    {"output": "memory", "rank": 3},
    {"basis": "identity", "rank": 5},
    {"basis": "fixed", "window": 7},
    {"basis": "free", "window": 100},
    {"position_bias": False},
    {"dissect": False},
    {"basis": "none"},
    {"window_overlap": True},
    {"window_overlap": True, "output": "joint", "basis": "learned", "rank": 5},
    {"window_overlap": True, "basis": "none", "position_bias": False},
]


def attention(pattern="causal_self", *, dtype=torch.float64, window=8, **options):
    made = LAVOAttention(pattern=pattern, num_heads=2, head_dim=8, window=window, **options).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def tokens(batch, n, dtype=torch.float64, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 2, n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def stream(made, q, k, v, cuts):
    state, parts, first = made.init_state(q.shape[0], dtype=q.dtype), [], 0
    for size in cuts:
        out, state = made.extend(*(x[:, :, first : first + size] for x in (q, k, v)), state)
        parts.append(out)
        first += size
    return torch.cat(parts, 2), state


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("pattern", ["causal_self", "noncausal_self", "causal_cross", "noncausal_cross"])
def test_forward_is_its_definition(pattern, variant):
    if pattern.endswith("cross") and variant.get("basis") == "none":
        pytest.skip("has neither windows nor a memory")
    made = attention(pattern, **variant)
    q, k, v = tokens(2, 30)
    mask = torch.rand(2, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    for padding in (None, mask):
        torch.testing.assert_close(made(q, k, v, padding), made.definition(q, k, v, padding), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_token_by_token_is_the_whole(variant):
    made = attention(**variant)
    q, k, v = tokens(2, 40)
    out, state = stream(made, q, k, v, [1] * 40)
    torch.testing.assert_close(out, made.definition(q, k, v), atol=1e-12, rtol=0)
    assert state.num_read == 40


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.sampled_from([(1, False), (7, False), (8, False), (64, False), (2, True), (8, True), (14, True), (64, True)]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_split_is_the_whole(cuts, window, single):
    dtype, tolerance = (torch.float32, 1e-5) if single else (torch.float64, 1e-9)
    made = attention(window=window[0], window_overlap=window[1], dtype=dtype)
    q, k, v = tokens(1, sum(cuts), dtype)
    out, _ = stream(made, q, k, v, cuts)
    torch.testing.assert_close(out, made(q, k, v).detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("cut", [1, 5, 8, 13])
def test_two_branches_of_a_state_are_independent(cut, overlap):
    made = attention(window_overlap=overlap)
    q, k, v = tokens(1, 30)
    _, state = stream(made, *(x[:, :, :cut] for x in (q, k, v)), [cut])
    before = copy.deepcopy(state)
    first, _ = made.extend(*(x[:, :, cut:20] for x in (q, k, v)), state)
    second, _ = made.extend(*(x[:, :, cut + 1 : cut + 2] for x in (q, k, v)), state)
    again, _ = made.extend(*(x[:, :, cut:20] for x in (q, k, v)), state)
    assert torch.equal(first, again)
    assert not torch.equal(first[:, :, :1], second)
    last, _ = made.extend(*(x[:, :, cut:20] for x in (q, k, v)), before)
    assert torch.equal(first, last)
    assert torch.equal(before.mean, state.mean)


@pytest.mark.parametrize("overlap", [False, True])
def test_branches_that_advance_in_turn_do_not_see_each_other(overlap):
    """Two states share buffers; the one that appends in place must not write over what the other sees."""
    made = attention(window_overlap=overlap)
    trunk, left, right = (tokens(1, 30, seed=seed) for seed in (0, 1, 2))
    _, state = stream(made, *(x[:, :, :3] for x in trunk), [3])
    states, parts = [state, state], ([], [])
    for t in range(3, 30):
        for i, branch in enumerate((left, right)):
            out, states[i] = made.extend(*(x[:, :, t : t + 1] for x in branch), states[i])
            parts[i].append(out)
    for branch, found in zip((left, right), parts, strict=True):
        whole = made(*(torch.cat([x[:, :, :3], y[:, :, 3:]], 2) for x, y in zip(trunk, branch, strict=True)))
        torch.testing.assert_close(torch.cat(found, 2), whole[:, :, 3:].detach(), atol=1e-12, rtol=0)


def test_a_step_copies_no_window():
    """In the middle of a window, a step appends to the buffers of the state before it."""
    made = attention()
    q, k, v = tokens(1, 3)
    _, state = stream(made, *(x[:, :, :2] for x in (q, k, v)), [2])
    _, after = made.extend(*(x[:, :, 2:] for x in (q, k, v)), state)
    assert after.keys.data_ptr() == state.keys.data_ptr()


def test_selected_rows_go_on_as_the_selected_prefixes():
    made, rows = attention(), torch.tensor([2, 0, 2, 1])
    q, k, v = tokens(3, 21)
    _, state = stream(made, *(x[:, :, :13] for x in (q, k, v)), [13])
    following = tokens(4, 5, seed=7)
    out, _ = made.extend(*following, made.select(state, rows))
    whole = made(*(torch.cat([x[rows, :, :13], y], 2) for x, y in zip((q, k, v), following, strict=True)))
    torch.testing.assert_close(out, whole[:, :, 13:].detach(), atol=1e-12, rtol=0)


def test_cross_streaming_is_the_whole_and_can_be_selected():
    made, rows = attention("causal_cross", rank=5), torch.tensor([1, 1, 0])
    q, k, v = tokens(2, 20)
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    state = made.init_cross(k, v, mask)
    want = made.definition(q, k, v, mask)
    parts = []
    for t in (0, 1, 2, 15):
        out, state = made.read(q[:, :, t : t + (1 if t < 2 else 13 if t == 2 else 5)], state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 2), want, atol=1e-12, rtol=0)
    torch.testing.assert_close(made.read(q[rows], made.select(state, rows))[0], want[rows], atol=1e-12, rtol=0)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_state_does_not_grow_and_is_counted_from_its_tensors(overlap):
    made = attention(dtype=torch.float32, window_overlap=overlap)
    sizes = set()
    for n in (0, 1, 7, 8, 100, 3000):
        _, state = stream(made, *tokens(1, n, torch.float32), [n])
        sizes.add(made.state_bytes(state))
    assert sizes == {2 * (2 * 8 * 8) * 4 + 2 * 8 * 8}


def test_equal_values_are_averaged_over_all_that_was_read():
    """2 new tokens after 3, keys of zeros, values 0 to 4: the last queries see all, so the means are 1.5 and 2."""
    made = LAVOAttention(pattern="causal_self", num_heads=1, head_dim=1, basis="identity", output="sum")
    zeros, v = torch.zeros(1, 1, 5, 1), torch.arange(5.0).view(1, 1, 5, 1)
    _, state = made.extend(zeros[:, :, :3], zeros[:, :, :3], v[:, :, :3], made.init_state(1))
    out, _ = made.extend(zeros[:, :, 3:], zeros[:, :, 3:], v[:, :, 3:], state)
    local = torch.tensor([1.5, 2.0])
    memory = torch.tensor([(0 + 0.5 + 1 + 1.5) / 4, (0 + 0.5 + 1 + 1.5 + 2) / 5])
    torch.testing.assert_close(out.flatten(), local + memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_stream_of_single_tokens_keeps_its_mean(dtype):
    """A float32 sum of 0.1 would be off by a part in 10,000 after 20,000 tokens, a bfloat16 sum would stop at 32."""
    made = LAVOAttention(pattern="causal_self", num_heads=1, head_dim=2, window=2, output="memory", basis="identity")
    x = torch.full((1, 1, 1, 2), 0.1, dtype=dtype)
    mean = torch.full((1, 1, 1, 2), 0.1).double()
    state = made.init_state(1, dtype=dtype)._replace(num_read=99_998, mean=mean)
    for _ in range(2000):
        out, state = made.extend(x, x, x, state)
    torch.testing.assert_close(state.mean, mean, atol=2e-5, rtol=0)
    assert out.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_a_million_tokens_stay_near_the_definition(dtype, tolerance):
    """In chunks of 4,096, against float64.  The values have a mean, which a careless sum would lose."""
    n, size, d = 1_048_576, 4096, 8
    made = LAVOAttention(pattern="causal_self", num_heads=1, head_dim=d)
    exact = copy.deepcopy(made).double()
    state, exact_state = made.init_state(1, dtype=dtype), exact.init_state(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    worst, square, error = 0.0, 0.0, 0.0
    for _ in range(n // size):
        q, k, v = ((torch.randn(1, 1, size, d, generator=generator) + 0.5).to(dtype) for _ in range(3))
        out, state = made.extend(q, k, v, state)
        want, exact_state = exact.extend(*(x.double() for x in (q, k, v)), exact_state)
        difference = out.double() - want
        worst = max(worst, difference.abs().max().item())
        square, error = square + want.square().sum().item(), error + difference.square().sum().item()
    if dtype == torch.float32:
        assert worst <= tolerance
    assert error**0.5 <= tolerance * square**0.5


@pytest.mark.parametrize("rank", [3, 8])
def test_a_learned_basis_stays_orthonormal_in_training(rank):
    made = LAVOAttention(pattern="causal_self", num_heads=2, head_dim=8, rank=rank, window=8, basis="learned")
    optimiser = torch.optim.Adam(made.parameters(), lr=0.1)
    q, k, v = tokens(2, 32, torch.float32)
    before = made.basis().detach().clone()
    for _ in range(30):
        optimiser.zero_grad()
        (made(q, k, v) - v.roll(1, 3)).square().mean().backward()
        optimiser.step()
    basis = made.basis()
    assert (basis - before).abs().max() > 0.1
    assert (basis @ basis.mT - torch.eye(rank)).abs().max() <= 1e-5


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_a_learned_basis_is_orthonormal_wherever_its_weights_are(scale):
    basis = make_basis("learned", num_heads=3, rank=64, head_dim=64, seed=0)
    torch.nn.init.normal_(basis.rotation, std=scale, generator=torch.Generator().manual_seed(0))
    assert (basis() @ basis().mT - torch.eye(64)).abs().max() <= 1e-5


@pytest.mark.parametrize("rank", [2, 4])
def test_the_cayley_map_has_the_right_gradient(rank):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    start = torch.linalg.qr(torch.randn(2, 4, 4, generator=generator, dtype=torch.float64))[0][:, :rank]
    assert torch.autograd.gradcheck(Cayley.apply, (weight.requires_grad_(), start))


def test_a_cached_basis_follows_its_weights_however_they_change():
    basis = make_basis("learned", num_heads=1, rank=4, head_dim=4, seed=0)
    with torch.no_grad():
        first = basis()
        assert basis() is first
        basis.rotation.data.add_(torch.arange(16.0).view(1, 4, 4))  # unseen by version counters
        second = basis()
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, basis())


@pytest.mark.parametrize("kind", sorted({*BASES} - {"none"}))
def test_a_basis_has_orthonormal_rows_from_the_start_and_the_same_from_a_seed(kind):
    made, again = (make_basis(kind, num_heads=2, rank=5, head_dim=8, seed=4)() for _ in range(2))
    assert torch.equal(made, again)
    torch.testing.assert_close(made @ made.mT, torch.eye(5).expand(2, 5, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pattern", ["causal_self", "noncausal_self", "causal_cross"])
@pytest.mark.parametrize("kind", ["learned", "fixed"])
def test_a_folded_basis_gives_equal_outputs(pattern, kind):
    made = attention(pattern, basis=kind)
    generator = torch.Generator().manual_seed(0)
    query, key, value, output = (torch.nn.Linear(16, 16).double() for _ in range(4))
    x = torch.randn(2, 30, 16, generator=generator, dtype=torch.float64)

    def layer(attend):
        q, k, v = (f(x).view(2, 30, 2, 8).transpose(1, 2) for f in (query, key, value))
        return output(attend(q, k, v).transpose(1, 2).reshape(2, 30, 16))

    want = layer(made)
    folded = made.fold_basis(query, key, value, output)
    assert folded.basis() is None
    atol = 1e-12 if kind == "learned" else 1e-6  # a fixed basis is stored, and orthonormal, in float32
    torch.testing.assert_close(layer(folded), want, atol=atol, rtol=0)


def test_only_a_rotation_can_be_folded():
    layers = [torch.nn.Linear(16, 16) for _ in range(4)]
    for options in ({}, {"rank": 5}, {"basis": "free"}):
        with pytest.raises(ValueError, match="fold_basis"):
            attention(dtype=torch.float32, **options).fold_basis(*layers)


def test_without_a_basis_the_windows_are_alone():
    made = attention("noncausal_self", basis="none", position_bias=False, window=30)
    q, k, v = tokens(1, 30)
    torch.testing.assert_close(made(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    ("head_dim", "options", "rank", "basis"),
    [
        (8, {}, 8, "identity"),
        (8, {"rank": 8}, 8, "identity"),
        (8, {"rank": 5}, 5, "learned"),
        (80, {}, 64, "learned"),
        (8, {"basis": "learned"}, 8, "learned"),
        (8, {"rank": 5, "basis": "identity"}, 5, "identity"),
    ],
)
def test_the_basis_is_learned_only_where_the_projections_do_not_absorb_it(head_dim, options, rank, basis):
    made = LAVOAttention(pattern="causal_self", num_heads=2, head_dim=head_dim, **options)
    assert (made.rank, made.basis_kind, made.output) == (rank, basis, "sum")
    assert ("rotation" in dict(made.basis.named_parameters())) == (basis == "learned")
    settled = LAVOAttention.settled_options({"window": 3, **options}, head_dim)
    assert settled == {"window": 3, "rank": rank, "basis": basis}


def test_a_sequence_in_parts_is_refused_where_windows_overlap():
    made = attention(window_overlap=True)
    with pytest.raises(ValueError, match="window_overlap"):
        made.make_part(64, num_parts=2, rank=0)
    with pytest.raises(ValueError, match="window_overlap"), sequence_part(made, Part((9,), 0)):
        made(*tokens(1, 9))


def test_cross_attention_has_no_windows_that_could_overlap():
    made = attention("causal_cross", window_overlap=True)
    assert not made.window_overlap
    q, k, v = tokens(1, 9)
    torch.testing.assert_close(made(q, k, v), attention("causal_cross")(q, k, v))


def test_it_declares_its_properties():
    made = {pattern: attention(pattern) for pattern in ("causal_self", "noncausal_self", "causal_cross")}
    assert LAVOAttention.unsupported == {}
    assert LAVOAttention.linear_state
    assert made["causal_self"].encodes_positions
    assert made["noncausal_self"].encodes_positions
    assert not made["causal_cross"].encodes_positions
    assert not attention(position_bias=False).encodes_positions
    q, k, v = tokens(1, 9)
    made["causal_self"](q, k, v)
    assert made["causal_self"].kernel == "torch"
    made["causal_self"].definition(q, k, v)
    assert made["causal_self"].kernel == "reference"


def test_a_stored_module_gives_the_same():
    made = attention("noncausal_self", basis="learned")
    other = LAVOAttention(
        pattern="noncausal_self", num_heads=2, head_dim=8, window=8, basis="learned", basis_seed=1
    ).double()
    other.load_state_dict(made.state_dict())
    q, k, v = tokens(1, 20)
    assert torch.equal(made(q, k, v), other(q, k, v))


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("pattern", {"pattern": "self"}),
        ("output", {"output": "mean"}),
        ("basis", {"basis": "random"}),
        ("backend", {"backend": "cpp"}),
        ("triton", {"backend": "triton"}),
        ("rank", {"rank": 9}),
        ("rank", {"rank": 0}),
        ("window", {"window": 0}),
        ("num_heads", {"num_heads": 0}),
        ("head_dim", {"head_dim": 2.0}),
        ("basis", {"basis": "none", "output": "memory"}),
        ("basis_seed", {"basis_seed": -1}),
        ("dissect", {"dissect": 3}),
        ("window_overlap", {"window_overlap": "no"}),
        ("window_overlap needs an even window", {"window_overlap": True, "window": 7}),
        ("dissect", {"window_overlap": True, "dissect": False}),
        ("triton", {"window_overlap": True, "backend": "triton"}),
        ("position_bias", {"position_bias": "no"}),
    ],
)
def test_a_bad_option_is_named(argument, options):
    with pytest.raises(ValueError, match=argument):
        LAVOAttention(**({"pattern": "causal_self", "num_heads": 2, "head_dim": 8} | options))


def test_streaming_refuses_what_does_not_fit():
    made, cross = attention(), attention("causal_cross")
    q, k, v = tokens(2, 5)
    state = made.init_state(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="causal_self"):
        cross.init_state(2)
    with pytest.raises(ValueError, match="causal_cross"):
        made.init_cross(k, v)
    with pytest.raises(ValueError, match="batch of 2"):
        made.extend(q[:1], k[:1], v[:1], state)
    with pytest.raises(ValueError, match="2 and 5"):
        made.extend(q[:, :, :2], k, v, state)
    with pytest.raises(ValueError, match="length 2 for q and 5 for k"):
        made(q[:, :, :2], k, v)
    with pytest.raises(ValueError, match="2 heads of 8"):
        made(q[:, :1], k[:, :1], v[:, :1])
