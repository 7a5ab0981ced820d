"""Streaming and search compared with recomputing everything, for every attention."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.summarization.decoding import beam_search

from .conftest import ATTENTIONS, BEGIN, END, PATTERNS, VOCAB, sources, tiny

EVERYWHERE = [(attention, pattern) for attention in ATTENTIONS for pattern in PATTERNS]


def search(model, source, padding=None, **options):
    """``beam_search`` from a source on; greedy unless the options say otherwise."""
    options = {"beam_size": 1, "max_length": 12, "begin": BEGIN, "end": END} | options
    with torch.no_grad():
        state = model.init_state(model.encode(source, padding), padding)
        return beam_search(model, state, len(source), **options)


def recomputed_search(model, source, *, beam_size, max_length, length_penalty=0.0, min_length=1):
    """Beam search written independently: one example, lists of prefixes, and the whole model run anew for each prefix."""
    alive, done = [((), 0.0)], []
    for length in range(1, max_length + 1):
        candidates = []
        for prefix, score in alive:
            with torch.no_grad():
                logits = model(source[None], torch.tensor([[BEGIN, *prefix]]))[0, -1]
            for token, nats in enumerate(logits.float().log_softmax(-1).tolist()):
                too_early, too_late = token == END and length < min_length, token != END and length == max_length
                if token != BEGIN and not too_early and not too_late:
                    candidates.append((score + nats, (*prefix, token)))
        candidates.sort(key=lambda one: -one[0])
        for score, tokens in candidates[:beam_size]:
            if tokens[-1] == END:
                done.append((score / length**length_penalty, tokens[:-1]))
        alive = [(tokens, score) for score, tokens in candidates[: 2 * beam_size] if tokens[-1] != END][:beam_size]
        if len(done) >= beam_size or length == max_length:
            return max(done)
    raise AssertionError


@pytest.mark.parametrize(("attention", "pattern"), EVERYWHERE)
def test_streamed_logits_are_those_of_the_whole_target(attention, pattern):
    model = tiny(attention, pattern)
    source, padding = sources()
    target = torch.randint(0, VOCAB, (3, 140), generator=torch.Generator().manual_seed(2))  # beyond two windows of LAVO
    with torch.no_grad():
        whole = model(source, target, padding)
        state, pieces = model.init_state(model.encode(source, padding), padding), []
        for piece in target.split([1, 1, 63, 1, 70, 4], dim=1):
            logits, state = model.extend(piece, state)
            pieces.append(logits)
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-9)


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize(("attention", "pattern"), EVERYWHERE)
def test_search_gives_what_recomputing_everything_gives(attention, pattern, beam_size):
    model = tiny(attention, pattern)
    source, padding = sources((20, 13, 2))
    options = {"beam_size": beam_size, "max_length": 9, "min_length": 3, "length_penalty": 0.7}
    found = search(model, source, padding, **options)
    for row, (hypothesis, length) in enumerate(zip(found, (20, 13, 2), strict=True)):
        score, tokens = recomputed_search(model, source[row, :length], **options)
        assert tuple(hypothesis.tokens) == tokens
        assert hypothesis.score == pytest.approx(score, abs=1e-4)


def test_a_wider_beam_of_a_tiny_vocabulary_ends():
    model = tiny()
    source, _ = sources((5, 5))
    found = search(model, source, beam_size=64, max_length=3)
    for row, hypothesis in enumerate(found):
        score, tokens = recomputed_search(model, source[row], beam_size=64, max_length=3)
        assert hypothesis.tokens == list(tokens)
        assert hypothesis.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_neither_neighbours_nor_padding_change_a_summary(beam_size):
    model = tiny()
    source, padding = sources((40, 9, 23, 31))
    together = search(model, source, padding, beam_size=beam_size)
    for row in range(4):
        length = int((~padding[row]).sum())
        (alone,) = search(model, source[row : row + 1, :length], None, beam_size=beam_size)
        assert alone.tokens == together[row].tokens
        assert alone.score == pytest.approx(together[row].score, abs=1e-5)


def test_lengths_hold_and_the_end_is_by_itself_or_forced():
    model = tiny()
    model.output.weight.data[END] = 0
    model.target_embedding.norm.bias.data += 1  # so that no summary ends early by itself
    source, _ = sources((12,))
    (long,) = search(model, source, max_length=30, min_length=30)
    assert len(long.tokens) == 29  # the end mark counts
    assert long.cut
    (only,) = search(model, source, max_length=1)
    assert only.tokens == []
    assert END not in long.tokens
    assert BEGIN not in long.tokens


def test_a_state_serves_two_searches():
    model = tiny()
    source, padding = sources((14, 9))
    with torch.no_grad():
        state = model.init_state(model.encode(source, padding), padding)
        options = {"begin": BEGIN, "end": END, "max_length": 10}
        first = beam_search(model, state, 2, **options)
        beam_search(model, state, 2, min_length=9, beam_size=4, **options)
        assert beam_search(model, state, 2, **options) == first


def test_examples_that_have_ended_leave_the_batch():
    """The work is the sum of what each example needs alone."""
    model = tiny()
    model.output.weight.data[END] *= -1.5  # with this seed, examples then end at different places
    source, _ = sources((30, 22, 14, 6, 3, 2))
    rows = []
    extend = model.extend

    def counted(target, state):
        rows.append(len(target))
        return extend(target, state)

    model.extend = counted
    found = search(model, source, max_length=14)
    assert sum(rows) == sum(len(one.tokens) + 1 for one in found)
    assert len(set(map(len, (one.tokens for one in found)))) > 1


def work_of_a_token(attention, pattern, num_read):
    """FLOPs for the next token, and bytes of the state, after ``num_read`` tokens of a target."""
    model = tiny(attention, pattern, max_target_length=1100, num_target_positions=1100)
    source, _ = sources((32,))
    target = torch.randint(0, BEGIN, (1, num_read))
    with torch.no_grad():
        state = model.init_state(model.encode(source))
        _, state = model.extend(target, state)
        size = model.state_bytes(state)
        with FlopCounterMode(display=False) as counter:
            model.extend(target[:, :1], state)
    return counter.get_total_flops(), size


@pytest.mark.parametrize("attention", ["lavo", "performer", "cosformer"])
def test_a_token_of_a_linear_attention_costs_the_same_after_any_number(attention):
    early, late = (work_of_a_token(attention, "causal_self", num_read) for num_read in (128, 1024))
    assert late == early


def test_a_token_of_softmax_costs_more_after_many():
    early, late = (work_of_a_token("softmax", "causal_self", num_read) for num_read in (128, 1024))
    assert late[1] > 4 * early[1]


def test_logits_that_are_all_nan_give_an_empty_summary():
    model = tiny()
    model.output.weight.data.fill_(math.nan)
    source, _ = sources((5,))
    (found,) = search(model, source)
    assert found.tokens == []
    assert found.cut
