"""The probe: what a place sees, what streaming and order change, and what a mean of the source forgets."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from benchmark.interface import PATTERNS
from benchmark.multihead import AttentionSites
from tasks.recall.probe import Probe


def probe(pattern, attention="softmax", seed=0, *, num_layers=1, **changes):
    torch.manual_seed(seed)
    sizes = {"num_words": 30, "max_length": 20, "embed_dim": 16, "num_heads": 2, "feed_forward_dim": 24}
    model = Probe(AttentionSites(attention, pattern, {}), pattern=pattern, num_layers=num_layers, **(sizes | changes))
    return model.eval()


def words(*shape, seed=1):
    return torch.randint(1, 30, shape, generator=torch.Generator().manual_seed(seed))


def ask(model, tokens, asked):
    """Logits at the asked places; in cross-attention the same words are the source, and the questions the last three."""
    with torch.no_grad():
        if model.source_norm is None:
            return model(tokens, None, asked)
        return model(tokens[:, -3:], tokens, asked - asked.min())


ASKED = torch.tensor([[7, 8, 9]])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_without_attention_a_place_sees_itself_and_as_many_words_before_as_the_shift(pattern, shift):
    model = probe(pattern, "none", shift=shift)
    tokens = words(1, 10, 1)
    before = ask(model, tokens, ASKED)
    for place in range(10):
        changed = tokens.clone()
        changed[0, place] = changed[0, place] % 29 + 1
        moved = (ask(model, changed, ASKED) != before).any(-1)[0].tolist()
        assert moved == [
            0 <= asked - place <= shift and (model.source_norm is None or place >= 7) for asked in (7, 8, 9)
        ]


def test_causal_text_after_a_question_changes_nothing_and_noncausal_text_does():
    tokens = words(1, 12, 1)
    changed = tokens.clone()
    changed[0, 10:] = changed[0, 10:] % 29 + 1
    asked = torch.tensor([[5, 9]])
    for pattern, same in (("causal_self", True), ("noncausal_self", False)):
        model = probe(pattern, num_layers=2, shift=2)
        assert torch.equal(ask(model, tokens, asked), ask(model, changed, asked)) == same


@pytest.mark.parametrize("pattern", ["noncausal_self", "noncausal_cross", "causal_cross"])
def test_without_positions_and_shift_the_order_of_the_text_means_nothing(pattern):
    tokens = words(1, 10, 2)
    order = torch.cat([torch.tensor([3, 0, 6, 2, 5, 1, 4]), torch.arange(7, 10)])
    for positions in (False, True):
        model = probe(pattern, positions=positions)
        same = torch.allclose(ask(model, tokens, ASKED), ask(model, tokens[:, order], ASKED), atol=1e-5)
        assert same == (not positions)


def test_an_attention_that_encodes_positions_gets_none_from_the_probe():
    assert probe("causal_self", "lavo", positions=True).input.positions is None
    assert probe("causal_self", "softmax", positions=True).input.positions is not None
    assert (
        probe("causal_cross", "lavo", positions=True).input.positions is not None
    )  # it encodes none between two sequences


def test_answers_from_one_place_differ_by_their_slot_alone():
    model = probe("causal_self", num_slots=3)
    asked = torch.tensor([[9, 9, 9]])
    logits = ask(model, words(1, 10, 1), asked)[0]
    assert not torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[:1], ask(model, words(1, 10, 1), asked[:, :1])[0])


@pytest.mark.parametrize("attention", ["softmax", "lavo", "cosformer"])
def test_a_decoder_run_step_by_step_reads_the_source_once_and_answers_alike(attention):
    """``causal_cross``: the layer's ``init_cross`` and ``read``, one question at a time."""
    model = probe("causal_cross", attention)
    source, tokens = words(2, 10, 2, seed=1), words(2, 4, 2, seed=2)
    (block,) = model.blocks
    with torch.no_grad():
        whole = model(tokens, source, torch.arange(4).expand(2, 4))
        state = block.attention.init_cross(model.source_norm(model.input(source)))
        for place in range(4):
            x = model.input(tokens[:, place : place + 1])
            out, state = block.attention.read(block.norm(x), state)
            logits = nn.functional.linear(model.norm(block.feed_forward(x + out)), model.input.words.weight)
            torch.testing.assert_close(logits[:, 0], whole[:, place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pattern", ["noncausal_cross", "causal_cross"])
def test_a_mean_of_the_source_is_the_same_for_every_way_to_pair_keys_with_values(pattern):
    """docs/lavo.md: without a norm, a place is the sum of its words, so LAVO answers alike whatever value a key has.

    Softmax doesn't: it finds the place of the key.
    """
    keys, values = [1, 2, 3, 4], [11, 12, 13, 14]
    sources = [torch.tensor([list(zip(keys, order, strict=True))]) for order in itertools.permutations(values)]
    questions = torch.tensor([[[key, 0] for key in keys]])
    for attention, forgets in (("lavo", True), ("softmax", False)):
        model = probe(pattern, attention).double()
        model.source_norm = nn.Identity()
        with torch.no_grad():
            logits = torch.cat([model(questions, source, torch.arange(4)[None]) for source in sources])
        assert bool((logits - logits[:1]).abs().max() < 1e-12) == forgets
        if forgets:  # one answer for all 24 pairings is right in a quarter of them
            predicted = logits.argmax(-1)[0].tolist()
            right = sum(
                dict(source[0].tolist())[key] == word
                for source in sources
                for key, word in zip(keys, predicted, strict=True)
            )
            assert right <= len(sources) * len(keys) / 4
