"""The multi-head layer: compared with PyTorch's own of the same weights; rotation, streaming, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from benchmark.interface import PATTERNS, Pattern
from benchmark.multihead import AttentionSites, MultiHeadAttention, rotate
from benchmark.registry import ATTENTIONS, attention_declarations, build_attention, load_attention, takes_max_length

EMBED, HEADS, BATCH, LENGTH = 24, 3, 2, 11
EXACT = {"rtol": 0, "atol": 1e-10}


def able(pattern: str) -> list[str]:
    """The attentions of the table that can do this pattern."""
    return [name for name in ATTENTIONS if pattern not in attention_declarations(name)["unsupported"]]


def layer(name: str, pattern: Pattern, *, dtype=torch.float64, embed_dim: int = EMBED, **options) -> MultiHeadAttention:
    """In evaluation mode, with noise on all parameters, biases too, which would be zero."""
    if takes_max_length(load_attention(name)):
        options["max_length"] = 256
    torch.manual_seed(0)
    module = MultiHeadAttention(embed_dim, HEADS, name, pattern=pattern, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return module.to(dtype).eval()


def tokens(length: int = LENGTH, *, batch: int = BATCH, width: int = EMBED, dtype=torch.float64, seed: int = 1):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def torch_layer(module: MultiHeadAttention, source_dim: int | None = None) -> nn.MultiheadAttention:
    """PyTorch's layer with the weights of ours."""
    twin = nn.MultiheadAttention(EMBED, HEADS, batch_first=True, kdim=source_dim, vdim=source_dim).double().eval()
    projections = (module.q_proj, module.k_proj, module.v_proj)
    with torch.no_grad():
        if source_dim is None:
            twin.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        else:
            for name, projection in zip(("q", "k", "v"), projections, strict=True):
                getattr(twin, f"{name}_proj_weight").copy_(projection.weight)
        twin.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
        twin.out_proj.load_state_dict(module.out_proj.state_dict())
    return twin


@pytest.mark.parametrize("name", ["softmax", "flash"])
@pytest.mark.parametrize("padded", [False, True])
def test_exact_self_attention_is_pytorchs_with_the_same_weights(name, padded):
    module, x = layer(name, "noncausal_self"), tokens()
    mask = torch.arange(LENGTH) >= torch.tensor([[8], [11]]) if padded else None
    expected, _ = torch_layer(module)(x, x, x, key_padding_mask=mask)
    out = module(x, key_padding_mask=mask)
    real = slice(None) if mask is None else ~mask
    torch.testing.assert_close(out[real], expected[real], **EXACT)


@pytest.mark.parametrize("name", ["softmax", "flash"])
def test_exact_causal_self_attention_is_pytorchs_with_the_same_weights(name):
    module, x = layer(name, "causal_self"), tokens()
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    expected, _ = torch_layer(module)(x, x, x, attn_mask=future)
    torch.testing.assert_close(module(x), expected, **EXACT)


@pytest.mark.parametrize("pattern", ["noncausal_cross", "causal_cross"])
@pytest.mark.parametrize("source_dim", [None, 10])
def test_exact_cross_attention_is_pytorchs_with_the_same_weights(pattern, source_dim):
    module = layer("softmax", pattern, source_dim=source_dim)
    x, source = tokens(), tokens(7, width=source_dim or EMBED, seed=2)
    mask = torch.arange(7) >= torch.tensor([[4], [7]])
    expected, _ = torch_layer(module, source_dim)(x, source, source, key_padding_mask=mask)
    torch.testing.assert_close(module(x, source, key_padding_mask=mask), expected, **EXACT)


def test_dropout_is_on_the_output_in_training_alone():
    module, x = layer("softmax", "noncausal_self", dropout=0.5), tokens()
    torch.testing.assert_close(module(x), module(x), rtol=0, atol=0)
    out = module.train()(x)
    dropped = (out == 0).double().mean().item()
    assert 0.3 < dropped < 0.7
    whole = module.eval()(x)
    torch.testing.assert_close(out[out != 0], 2 * whole[out != 0])


def test_every_attention_has_the_same_projections():
    counts = {}
    for name in ATTENTIONS:
        pattern = next(pattern for pattern in PATTERNS if name in able(pattern))
        module = layer(name, pattern)
        extra = sum(parameter.numel() for parameter in module.attention.parameters())
        counts[name] = sum(parameter.numel() for parameter in module.parameters()) - extra
    assert set(counts.values()) == {4 * EMBED * (EMBED + 1)}


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="embed_dim 25 is not a multiple of num_heads 3"):
        MultiHeadAttention(25, 3, "softmax", pattern="causal_self")
    with pytest.raises(ValueError, match="embed_dim 24 is not a multiple of num_heads 0"):
        MultiHeadAttention(24, 0, "softmax", pattern="causal_self")


def test_a_name_wants_its_pattern_and_a_module_takes_no_options():
    with pytest.raises(ValueError, match="attention 'softmax' is a name: say pattern="):
        MultiHeadAttention(EMBED, HEADS, "softmax")
    built = layer("softmax", "causal_self").attention
    with pytest.raises(ValueError, match="window: the attention is built already"):
        MultiHeadAttention(EMBED, HEADS, built, window=3)
    with pytest.raises(ValueError, match="pattern: the attention is built already"):
        MultiHeadAttention(EMBED, HEADS, built, pattern="causal_self")


def test_a_built_attention_of_another_shape_can_not_be_used_silently():
    other = layer("softmax", "causal_self", embed_dim=48).attention  # heads of 16, where these are 8 wide
    with pytest.raises(ValueError):
        MultiHeadAttention(EMBED, HEADS, other)(tokens(dtype=torch.float32))


# Rotary positions.


def test_rotation_is_that_of_complex_numbers():
    x, positions = tokens(1, batch=5, width=8)[:, None].expand(5, 2, 4, 8), torch.tensor([0, 1, 7, 4095])
    pairs = torch.complex(x[..., :4].contiguous(), x[..., 4:].contiguous())
    angle = positions[:, None].double() * 10_000.0 ** (-torch.arange(4).double() / 4)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat((turned.real, turned.imag), -1)
    # The angle is taken in float32: 4,095 radians have their unit in the last place at 2e-4.
    torch.testing.assert_close(rotate(x, positions), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(rotate(x[:, :, :3], positions[:3]), expected[:, :, :3], rtol=0, atol=3e-6)
    torch.testing.assert_close(rotate(x, positions)[:, :, 0], x[:, :, 0], rtol=0, atol=0)


@pytest.mark.parametrize("shift", [1, 5, 64])
def test_a_score_of_rotated_vectors_depends_on_the_distance_alone(shift):
    q, k = (torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))

    def score(at: int, to: int) -> torch.Tensor:
        return (rotate(q, torch.tensor([at])) * rotate(k, torch.tensor([to]))).sum()

    torch.testing.assert_close(score(3 + shift, 1 + shift), score(3, 1), rtol=0, atol=1e-4)
    assert not math.isclose(score(3, 1), score(1, 3), abs_tol=1e-2)
    assert not math.isclose(score(3, 1), score(4, 1), abs_tol=1e-2)


def test_rotation_keeps_lengths_and_the_dtype():
    x = tokens(5, width=8, dtype=torch.bfloat16)[:, None]
    turned = rotate(x, torch.arange(5) + 4000)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=0)


def test_a_shifted_sequence_gives_the_same_under_rotation():
    """Padding at the left moves every token, and changes nothing: positions count real tokens."""
    module, x = layer("softmax", "causal_self", rotary=True), tokens()
    padded = torch.cat((torch.full((BATCH, 6, EMBED), 1e3, dtype=x.dtype), x), 1)
    mask = (torch.arange(LENGTH + 6) < 6).expand(BATCH, -1)
    torch.testing.assert_close(module(padded, key_padding_mask=mask)[:, 6:], module(x), **EXACT)
    without = layer("softmax", "causal_self", rotary=False)
    assert (module(x) - without(x)).abs().max() > 1e-3


def test_rotation_wants_an_even_head_and_one_sequence():
    with pytest.raises(ValueError, match="rotary positions need an even head_dim, this one is 3"):
        MultiHeadAttention(9, 3, "softmax", pattern="causal_self", rotary=True)
    module = layer("softmax", "noncausal_cross", rotary=True)
    with pytest.raises(ValueError, match="rotary=True is for self-attention"):
        module(tokens(), tokens(seed=2))
    with pytest.raises(ValueError, match="rotary=True is for self-attention"):
        module.init_cross(tokens(seed=2))


# Streaming.


@pytest.mark.parametrize("name", able("causal_self"))
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("pieces", [[1] * 70, [70], [0, 3, 60, 0, 7]])
def test_streaming_is_the_whole(name, rotary, pieces):
    module, x = layer(name, "causal_self", rotary=rotary), tokens(70)
    state, outputs = module.init_state(BATCH), []
    with torch.no_grad():
        for piece in x.split(pieces, 1):
            out, state = module.extend(piece, state)
            outputs.append(out)
        whole = module(x)
    assert state.position == 70
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **EXACT)


@pytest.mark.parametrize("name", able("causal_cross"))
def test_reading_a_source_step_by_step_is_the_whole(name):
    module, x, source = layer(name, "causal_cross"), tokens(), tokens(19, seed=2)
    mask = torch.arange(19) >= torch.tensor([[13], [19]])
    with torch.no_grad():
        state, outputs = module.init_cross(source, key_padding_mask=mask), []
        for piece in x.split([4, 0, 1, 6], 1):
            out, state = module.read(piece, state)
            outputs.append(out)
        whole = module(x, source, key_padding_mask=mask)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **EXACT)


@pytest.mark.parametrize("name", able("causal_self"))
def test_streaming_under_autocast_is_the_whole_under_autocast(name):
    module, x = layer(name, "causal_self", dtype=torch.float32), tokens(70, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        state, outputs = module.init_state(BATCH), []
        for piece in x.split([1, 0, 64, 5], 1):
            out, state = module.extend(piece, state)
            outputs.append(out)
        whole = module(x)
    assert whole.dtype == torch.cat(outputs, 1).dtype == torch.bfloat16
    scale = whole.float().square().mean().sqrt()
    assert (torch.cat(outputs, 1).float() - whole.float()).abs().max() < 2e-2 * 2 * scale


@pytest.mark.parametrize("name", able("causal_self"))
@pytest.mark.parametrize("rows", [[1, 1, 0], [1], [0, 1]])
def test_selected_rows_go_on_as_their_prefixes(name, rows):
    module, x = layer(name, "causal_self", rotary=True), tokens(70)
    index = torch.tensor(rows)
    later = tokens(5, batch=len(rows), seed=3)
    with torch.no_grad():
        _, state = module.extend(x, module.init_state(BATCH))
        out, _ = module.extend(later, module.select(state, index))
        whole = module(torch.cat((x[index], later), 1))
    torch.testing.assert_close(out, whole[:, 70:], **EXACT)


def test_prompts_of_unequal_length_are_refused_with_the_reason():
    module, x = layer("softmax", "causal_self"), tokens()
    mask = torch.arange(LENGTH) >= torch.tensor([[8], [11]])
    with pytest.raises(ValueError, match=r"real tokens by row: \[8, 11\].*the rows of a batch advance together"):
        module.extend(x, module.init_state(BATCH), key_padding_mask=mask)
    out, _ = module.extend(x, module.init_state(BATCH), key_padding_mask=torch.zeros_like(mask))
    torch.testing.assert_close(out, module(x), **EXACT)


def test_state_bytes_are_those_of_the_attention():
    module, x = layer("softmax", "causal_self"), tokens(64)
    _, state = module.extend(x, module.init_state(BATCH))
    assert module.state_bytes(state) == 2 * BATCH * 64 * EMBED * 8


# The factory that backbones ask.


def test_sites_give_the_cells_attention_at_its_pattern_and_softmax_elsewhere():
    sites = AttentionSites("lavo", "causal_self", {"window": 5})
    decoder = sites("causal_self", embed_dim=EMBED, num_heads=HEADS, max_length=100, rotary=True)
    encoder = sites("noncausal_self", embed_dim=EMBED, num_heads=HEADS, max_length=100, rotary=True)
    assert type(decoder.attention).__name__ == "LAVOAttention"
    assert decoder.attention.window == 5
    assert type(encoder.attention).__name__ == "SoftmaxAttention"
    assert sites.replaced == [decoder]
    assert (decoder.rotary, encoder.rotary) == (False, True)
    assert decoder.encodes_positions
    assert encoder.encodes_positions


def test_sites_tell_the_longest_length_to_those_that_ask():
    sites = AttentionSites("cosformer", "causal_self", {})
    decoder = sites("causal_self", embed_dim=EMBED, num_heads=HEADS, max_length=77)
    assert decoder.attention.max_length == 77
    own = AttentionSites("cosformer", "causal_self", {"max_length": 99})
    assert own("causal_self", embed_dim=EMBED, num_heads=HEADS, max_length=77).attention.max_length == 99


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (
            torch.zeros(2, 5, 15),
            r"query must be floating, of shape \(batch, length, 16\), got torch.float32 \(2, 5, 15\)",
        ),
        (torch.zeros(5, 16), "query must be floating"),
        (torch.zeros(2, 5, 16, dtype=torch.long), "got torch.int64"),
    ],
)
def test_an_input_of_another_shape_is_named(x, says):
    layer = MultiHeadAttention(16, 2, "softmax", pattern="noncausal_self")
    with pytest.raises(ValueError, match=says):
        layer(x)


def test_an_attention_built_for_other_heads_is_refused():
    attention = build_attention("softmax", pattern="noncausal_self", num_heads=4, head_dim=8)
    with pytest.raises(ValueError, match="built for num_heads 4, this layer has 2"):
        MultiHeadAttention(16, 2, attention)
