"""The backbone: sizes, causality, padding, and that it learns."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.measuring.memory import allocated_by
from benchmark.multihead import AttentionSites
from tasks.cross_entropy import PADDED, token_nats
from tasks.summarization.transformer import Transformer

from .conftest import ATTENTIONS, BEGIN, END, VOCAB, sources, tiny


def published_parameters(vocab, width, hidden, layers, source_positions, target_positions):
    """Counted by hand: q, k, v and output projections with biases, two linear maps, norms, three embeddings, positions."""
    attention, feed_forward, norm = 4 * (width * width + width), 2 * width * hidden + hidden + width, 2 * width
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    positions = (source_positions + target_positions) * width + 2 * norm
    return layers * (encoder + decoder) + 3 * vocab * width + positions


PAPER = {
    "vocab_size": 50265,
    "embed_dim": 512,
    "num_encoder_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
    "feed_forward_dim": 2048,
    "max_source_length": 4096,
    "max_target_length": 400,
    "num_target_positions": 512,
}


def test_the_paper_model_has_its_published_size():
    with torch.device("meta"):
        model = Transformer(AttentionSites("softmax", "causal_self", {}), **PAPER)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published_parameters(50265, 512, 2048, 6, 4096, 512) == 123_706_880


def test_a_layer_equals_pytorch_s_with_the_same_weights():
    model, (source, padding) = tiny(), sources((20, 11))
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True).double().eval()
    decoder = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True).double().eval()
    ours, theirs = model.encoder[0], encoder
    copy_attention(ours.attention, theirs.self_attn)
    copy_rest(ours, theirs, ("attention_norm", "feed_forward_norm"))
    own, other = model.decoder[0], decoder
    copy_attention(own.self_attention, other.self_attn)
    copy_attention(own.cross_attention, other.multihead_attn)
    copy_rest(own, other, ("self_attention_norm", "cross_attention_norm", "feed_forward_norm"))
    with torch.no_grad():
        x, y = model.source_embedding(source, 0), model.target_embedding(source[:, :9], 0)
        memory = encoder(x, src_key_padding_mask=padding)
        real = ~padding
        assert torch.allclose(ours(x, padding)[real], memory[real], atol=1e-10)
        mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
        expected = decoder(y, x, tgt_mask=mask, memory_key_padding_mask=padding)
        assert torch.allclose(own(y, x, padding), expected, atol=1e-10)


def copy_attention(ours, theirs):
    """Copies the weights of a MultiHeadAttention into PyTorch's."""
    weights = [getattr(ours, f"{name}_proj") for name in "qkv"]
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in weights])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in weights])
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def copy_rest(ours, theirs, norms):
    """Copies feed-forward and norms of a layer into PyTorch's."""
    theirs.linear1.load_state_dict(ours.feed_forward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.contract.state_dict())
    for number, name in enumerate(norms, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(getattr(ours, name).state_dict())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_target_does_not_see_its_future(attention):
    model, (source, padding) = tiny(attention), sources((30, 12, 5))
    target = torch.randint(0, VOCAB, (3, 90))
    other = target.clone()
    other[:, 70:] = (other[:, 70:] + 1) % VOCAB
    with torch.no_grad():
        difference = (model(source, target, padding) - model(source, other, padding)).abs().amax((0, 2))
    assert difference[:70].max() < 1e-12
    assert difference[70:].min() > 0


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_cross"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_content_and_amount_change_nothing(attention, pattern):
    model, (source, padding) = tiny(attention, pattern), sources((80, 70, 3))
    target = torch.randint(0, VOCAB, (3, 20))
    with torch.no_grad():
        one = model(source, target, padding)
        two = model(source.masked_fill(padding, END), target, padding)
        longer = F.pad(source, (0, 40))
        three = model(longer, target, F.pad(padding, (0, 40), value=True))
    assert torch.equal(one, two)
    assert torch.allclose(one, three, atol=1e-10)


def test_shared_embeddings_are_one_matrix():
    model = tiny(share_embeddings=True)
    assert model.source_embedding.tokens.weight is model.output.weight
    assert model.target_embedding.tokens.weight is model.output.weight
    assert tiny().output.weight is not tiny().source_embedding.tokens.weight


def test_tokens_beyond_the_learned_positions_are_refused():
    model = tiny(max_source_length=10)
    with pytest.raises(ValueError, match="11 tokens: the learned positions end at 10"):
        model.encode(torch.zeros(1, 11, dtype=torch.long))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_its_definition_whole_and_in_pieces(label_smoothing):
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 7, (2, 5))
    targets[1, 3:] = PADDED
    nats = -logits.log_softmax(-1)
    expected = (1 - label_smoothing) * nats.gather(2, targets.clamp_min(0)[..., None])[..., 0]
    expected = (expected + label_smoothing * nats.mean(-1)).masked_fill(targets == PADDED, 0)
    whole = token_nats(logits, targets, label_smoothing=label_smoothing)
    pieces = token_nats(logits, targets, label_smoothing=label_smoothing, at_once=15)
    assert torch.allclose(whole.double(), expected, atol=1e-5)
    assert torch.equal(whole, pieces)
    (gradient,) = torch.autograd.grad(pieces.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    assert torch.allclose(gradient, wanted, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_handful_is_learnt_by_heart(attention):
    """The loss comes near zero, and greedy search gives the summaries back."""
    from tasks.summarization.decoding import beam_search

    model, (source, padding) = tiny(attention, "causal_cross").float().train(), sources((16, 12, 14, 9))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    wanted = torch.randint(0, BEGIN, (4, 8), generator=torch.Generator().manual_seed(5))
    targets = F.pad(wanted, (0, 1), value=END)
    inputs = F.pad(wanted, (1, 0), value=BEGIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = token_nats(model(source, inputs, padding), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    model.eval()
    with torch.no_grad():
        state = model.init_state(model.encode(source, padding), padding)
        found = beam_search(model, state, 4, begin=BEGIN, end=END, max_length=20)
    assert [one.tokens for one in found] == wanted.tolist()


@pytest.mark.slow
def test_a_step_of_the_paper_model_fits_into_memory():
    """What a micro-batch of the paper preset needs, forwards and backwards: two sources of 4,096 tokens.

    The encoder's scores grow with the square of the source and all else in proportion to it, so three shorter sources tell it.
    """
    torch.manual_seed(0)
    model = Transformer(AttentionSites("lavo", "causal_cross", {}), **PAPER)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    watched = (model.output.weight, model.encoder[0].feed_forward.expand.bias)
    before = [parameter.detach().clone() for parameter in watched]

    def step(length: int) -> float:
        """The loss of a step."""
        source, target = torch.randint(0, 50000, (2, length)), torch.randint(0, 50000, (2, 100))
        loss = token_nats(model(source, target), target, label_smoothing=0.1).mean()
        loss.backward()
        return float(loss.detach())

    assert math.isfinite(step(64))
    optimizer.step()
    assert not any(torch.equal(one, two) for one, two in zip(before, watched, strict=True))
    held = sum(parameter.nbytes for parameter in model.parameters())
    lengths = (128, 384, 768)
    growth = np.polyfit(lengths, [allocated_by(partial(step, length)) for length in lengths], deg=2)
    at_full_length = np.polyval(growth, 4096)
    assert growth[0] > 0
    assert 4 * held + at_full_length < 14 * 2**30  # weights, gradients and the two moments of AdamW
