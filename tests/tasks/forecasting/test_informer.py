"""The model: sizes, causality, and the effects of the published faults."""

import pytest
import torch

from tasks.forecasting.informer import Convolution, Informer, mix_heads, sinusoids

from .conftest import softmax_for

SIZES = {"embed_dim": 16, "num_heads": 2, "feed_forward_dim": 24, "dropout": 0.0}
LENGTHS = {"seq_len": 13, "label_len": 6, "pred_len": 4}


def informer(**options):
    """A small Informer in evaluation mode, the same weights each time."""
    torch.manual_seed(0)
    return Informer(3, 4, attention_for=softmax_for, **{**SIZES, **LENGTHS, **options}).eval()


def inputs(batch_size=2):
    """Random history, history times and decoder times for ``informer``."""
    generator = torch.Generator().manual_seed(1)
    lengths = ((13, 3), (13, 4), (10, 4))
    return [torch.randn(batch_size, *shape, generator=generator) for shape in lengths]


@pytest.mark.parametrize("options", [{}, {"distil": False}, {"mix": True, "circular": True}, {"num_decoder_layers": 2}])
def test_the_forecast_has_the_horizon_s_shape_and_uses_all_inputs(options):
    model = informer(**options)
    values = [x.requires_grad_() for x in inputs()]
    out = model(*values)
    assert out.shape == (2, 4, 3)
    out.square().sum().backward()
    assert all((x.grad != 0).any() for x in values)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_rows_of_a_batch_are_independent_in_evaluation():
    model, (history, history_times, decoder_times) = informer(), inputs(3)
    whole = model(history, history_times, decoder_times)
    one = model(history[1:2], history_times[1:2], decoder_times[1:2])
    torch.testing.assert_close(whole[1:2], one, atol=1e-6, rtol=0)


def test_a_normalised_window_moves_and_grows_with_its_history():
    model, (history, history_times, decoder_times) = informer(window_norm=True), inputs()
    history *= 100  # so that the floor of the deviation is nothing beside it
    forecast = model(history, history_times, decoder_times)
    moved = model(7 * history + 500, history_times, decoder_times)
    torch.testing.assert_close(moved, 7 * forecast + 500, atol=0.2, rtol=1e-3)
    flat = model(torch.full_like(history, 3.0), history_times, decoder_times)
    assert (flat - 3.0).abs().max() < 1  # nothing is divided by zero
    assert informer()(7 * history, history_times, decoder_times).allclose(7 * forecast) is False


def decoder_jacobian(model):
    """|d output step / d decoder input step|, a row for each output.  (decoder length, decoder length)"""
    model = model.double()
    source = torch.randn(1, 7, 16, dtype=torch.float64)
    times = torch.randn(1, 10, 4, dtype=torch.float64)

    def decode(values):
        x = model.decoder_embedding(values, times)
        for layer in model.decoder:
            x = layer(x, source)
        return model.decoder_norm(x).square().sum(2)[0]

    jacobian = torch.autograd.functional.jacobian(decode, torch.randn(1, 10, 3, dtype=torch.float64))
    return jacobian[:, 0].abs().sum(2)


def test_the_decoder_is_causal_without_the_published_faults():
    jacobian = decoder_jacobian(informer(num_decoder_layers=2))
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.tril()[torch.ones(10, 10).tril().bool()] > 0).all()


@pytest.mark.parametrize("fault", ["mix", "circular"])
def test_each_published_fault_breaks_causality(fault):
    assert (decoder_jacobian(informer(**{fault: True})).triu(1) > 0).any()


def test_the_decoder_s_self_attention_module_is_causal():
    attention = informer().decoder[0].self_attention
    x = torch.randn(1, 10, 16)
    changed = x.clone()
    changed[:, 6:] = torch.randn(1, 4, 16)
    torch.testing.assert_close(attention(x)[:, :6], attention(changed)[:, :6], atol=0, rtol=0)


def test_mix_is_the_published_reshaping():
    # The published code: (b, n, h, d).transpose(2, 1).contiguous().view(b, n, h d), then the output projection.
    model, mixed = informer(), informer(mix=True)
    x = torch.randn(2, 10, 16)
    layer = model.decoder[0].self_attention
    q, k, v = (project(x).view(2, 10, 2, 8).transpose(1, 2) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
    heads = layer.attention(q, k, v).transpose(1, 2)  # (b, n, h, d)
    expected = layer.out_proj(heads.transpose(2, 1).contiguous().view(2, 10, 16))
    torch.testing.assert_close(mixed.decoder[0].self_attention(x), expected)
    assert not torch.allclose(layer(x), expected)
    assert not mixed.decoder[0].cross_attention.attention._forward_hooks
    assert not mixed.encoder[0].attention.attention._forward_hooks
    assert mix_heads(layer, (), q).shape == q.shape


def test_convolutions_reach_as_far_as_they_say():
    x = torch.zeros(1, 6, 1)
    x[0, 5] = 1.0
    reaches = {}
    for name, options in (
        ("plain", {}),
        ("causal", {"causal": True}),
        ("circular", {"circular": True, "causal": True}),
    ):
        convolution = Convolution(1, 1, **{"circular": False, **options})
        torch.nn.init.ones_(convolution.convolution.weight)
        torch.nn.init.zeros_(convolution.convolution.bias)
        reaches[name] = convolution(x)[0, :, 0].tolist()
    assert reaches == {"plain": [0, 0, 0, 0, 1, 2], "causal": [0, 0, 0, 0, 0, 1], "circular": [1, 0, 0, 0, 1, 1]}


def test_layers_are_asked_for_with_the_lengths_they_meet():
    asked = []

    def attention_for(pattern, *, max_length, **options):
        asked.append((pattern, max_length))
        return softmax_for(pattern, max_length=max_length, **options)

    model = Informer(3, 4, attention_for=attention_for, num_encoder_layers=3, **SIZES, **LENGTHS)
    lengths = []
    for layer in model.encoder:
        layer.register_forward_hook(lambda _module, _inputs, out: lengths.append(out.shape[1]))
    model(*inputs())
    assert asked == [
        ("noncausal_self", 13),
        ("noncausal_self", 7),
        ("noncausal_self", 4),
        ("causal_self", 10),
        ("noncausal_cross", 10),
    ]
    assert lengths == [13, 7, 7, 4, 4]


def published_parameters(columns, features, d, ff, encoder_layers, decoder_layers):
    """The number of parameters, counted from the publication's layers and not from this code."""
    embedding = (3 * columns * d + d) + (features * d + d)
    attention, feed_forward, norm = 4 * (d * d + d), (d * ff + ff) + (ff * d + d), 2 * d
    encoder = encoder_layers * (attention + feed_forward + 2 * norm)
    distilling = (encoder_layers - 1) * ((3 * d * d + d) + 2 * d)
    decoder = decoder_layers * (2 * attention + feed_forward + 3 * norm)
    return 2 * embedding + encoder + distilling + norm + decoder + norm + (d * columns + columns)


@pytest.mark.parametrize("circular", [False, True])
def test_the_number_of_parameters_is_the_published_one(circular):
    options = {"embed_dim": 512, "num_heads": 8, "feed_forward_dim": 2048, "circular": circular, "mix": circular}
    model = Informer(7, 4, attention_for=softmax_for, **{**options, **LENGTHS})
    assert sum(p.numel() for p in model.parameters()) == published_parameters(7, 4, 512, 2048, 2, 1) == 11_330_055


def test_sinusoids_by_hand():
    table = sinusoids(3, 4).double()
    t = torch.arange(3, dtype=torch.float64)
    expected = torch.stack((t.sin(), t.cos(), (t / 100).sin(), (t / 100).cos()), dim=1)
    torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)
