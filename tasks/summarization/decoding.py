"""Greedy and beam search, streamed through the attentions' states: the source is read once, each target token once.

A summary that has ended is taken out of the batch, so neither text nor work depends on its neighbours.  Lengths count
the end mark.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.summarization.transformer import DecoderState, Transformer


class Hypothesis(NamedTuple):
    """A finished summary."""

    tokens: list[int]  # without begin and end
    score: float  # sum of ln p, the end mark's included, over length ** length_penalty
    cut: bool  # ended by the maximum length and not by itself


class _Beams(NamedTuple):
    """What goes on: g examples with k hypotheses each; row i * k + j of the state is hypothesis j of example i."""

    examples: Tensor  # (g,) which of the batch they are
    tokens: Tensor  # (g, k, max_length), filled as far as it goes
    scores: Tensor  # (g, k) sum of ln p


@torch.no_grad()
def beam_search(
    model: Transformer,
    state: DecoderState,
    batch_size: int,
    *,
    begin: int,
    end: int,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    min_length: int = 1,
    max_length: int,
) -> list[Hypothesis]:
    """The best summary of each example; a beam of 1 is greedy search.

    At each step the 2 beam_size best continuations of an example's hypotheses are taken.  Those among the first beam_size
    that end are finished; the first beam_size that don't go on.  An example stops with beam_size finished ones, and at
    max_length, where everything ends.  Of the finished the one with the highest score is given.

    state: of ``model.init_state``, before the first token, one row an example; it stays valid.
    min_length: the end mark is not allowed before.  ``begin`` is never generated.
    """
    device = model.output.weight.device
    beams = _Beams(
        torch.arange(batch_size, device=device),
        torch.full((batch_size, 1, max_length), end, device=device),
        torch.zeros(batch_size, 1, device=device),
    )
    finished: list[list[Hypothesis]] = [[] for _ in range(batch_size)]
    last = torch.full((batch_size, 1), begin, device=device)
    for length in range(1, max_length + 1):
        logits, state = model.extend(last, state)
        nats = _allowed(logits[:, -1].float().log_softmax(-1), length, begin, end, min_length, max_length)
        beams, rows, last = _advance(beams, nats, length, end, beam_size, length_penalty, finished)
        if not len(beams.examples):
            break
        if not torch.equal(rows, torch.arange(logits.shape[0], device=device)):
            state = model.select(state, rows)
    # Only logits that are no numbers leave an example without any.
    return [max(found, key=lambda one: one.score) if found else Hypothesis([], -math.inf, True) for found in finished]


def _allowed(nats: Tensor, length: int, begin: int, end: int, min_length: int, max_length: int) -> Tensor:
    """ln p of the next token, -inf where it is not allowed.  nats: (rows, vocab), changed in place."""
    if length == max_length:
        ending = nats[:, end].clone()
        nats.fill_(-math.inf)[:, end] = ending
    elif length < min_length:
        nats[:, end] = -math.inf
    nats[:, begin] = -math.inf
    return nats


def _advance(
    beams: _Beams,
    nats: Tensor,
    length: int,
    end: int,
    beam_size: int,
    length_penalty: float,
    finished: list[list[Hypothesis]],
) -> tuple[_Beams, Tensor, Tensor]:
    """One step: what goes on, its rows of the state, and its last tokens (rows, 1); ``finished`` gets what has ended."""
    num_groups, num_beams, max_length = beams.tokens.shape
    vocab_size = nats.shape[-1]
    totals = (beams.scores[..., None] + nats.view(num_groups, num_beams, vocab_size)).flatten(1)
    scores, index = totals.topk(min(2 * beam_size, totals.shape[1]))  # (g, candidates), best first
    parents, tokens = index // vocab_size, index % vocab_size
    ended = tokens == end
    for group, candidate in (ended & scores.isfinite())[:, :beam_size].nonzero().tolist():
        history = beams.tokens[group, parents[group, candidate], : length - 1].tolist()
        score = scores[group, candidate].item() / length**length_penalty
        finished[int(beams.examples[group])].append(Hypothesis(history, score, length == max_length))
    going = torch.tensor(
        [length < max_length and len(finished[example]) < beam_size for example in beams.examples.tolist()],
        device=nats.device,
    )
    # A stable sort puts those that have not ended first, best first.
    chosen = ended.int().argsort(dim=1, stable=True)[going, :beam_size]
    groups = going.nonzero()  # (groups that go on, 1)
    scores, parents, tokens = scores[groups, chosen], parents[groups, chosen], tokens[groups, chosen]
    scores = scores.masked_fill(tokens == end, -math.inf)  # a tiny vocabulary may not have beam_size continuations
    history = beams.tokens[groups, parents]
    history[..., length - 1] = tokens
    rows = (groups * num_beams + parents).flatten()
    return _Beams(beams.examples[going], history, scores), rows, tokens.reshape(-1, 1)
