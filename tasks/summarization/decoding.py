"""Greedy and beam search with the attentions' states: the source is read once, and each target token once.

An example that has its summary leaves the batch, so its neighbours change neither its text nor the work that it takes.
Lengths count the end mark.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.summarization.transformer import DecoderState, Transformer


class Hypothesis(NamedTuple):
    """A finished summary."""

    tokens: list[int]  # without begin and end mark
    score: float  # sum of ln p, the end mark's included, divided by length ** length_penalty
    cut: bool  # the maximum length ended it


class _Beams(NamedTuple):
    """The g examples that still go on, with k hypotheses each; row i * k + j of the state is hypothesis j of example i."""

    examples: Tensor  # (g,) their indices in the batch
    tokens: Tensor  # (g, k, max_length), filled up to the current length
    scores: Tensor  # (g, k) sum of ln p


class _Rules(NamedTuple):
    """The options of a search, as ``beam_search`` explains them."""

    begin: int
    end: int
    beam_size: int
    length_penalty: float
    min_length: int
    max_length: int


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

    Each step looks at the 2 * beam_size best continuations of an example's hypotheses.  A continuation among the first
    beam_size that ends is finished.  Of all that don't end, the first beam_size go on.  An example stops when it has
    beam_size finished hypotheses, or at max_length, where every hypothesis ends.  The result is the finished hypothesis
    with the highest score.

    state: what ``model.init_state`` gave, before the first token, one row an example; it stays valid.
    min_length: no hypothesis ends before this length.  ``begin`` is never generated.
    """
    rules = _Rules(begin, end, beam_size, length_penalty, min_length, max_length)
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
        nats = _allowed(logits[:, -1].float().log_softmax(-1), length, rules)
        beams, rows, last = _advance(beams, nats, length, rules, finished)
        if not len(beams.examples):
            break
        if not torch.equal(rows, torch.arange(logits.shape[0], device=device)):
            state = model.select(state, rows)
    # An example has no finished hypothesis only where its logits were NaN.
    return [max(found, key=lambda one: one.score) if found else Hypothesis([], -math.inf, True) for found in finished]


def _allowed(nats: Tensor, length: int, rules: _Rules) -> Tensor:
    """ln p of the next token, -inf for a token that is not allowed.  nats: (rows, vocab), changed in place."""
    if length == rules.max_length:
        ending = nats[:, rules.end].clone()
        nats.fill_(-math.inf)[:, rules.end] = ending
    elif length < rules.min_length:
        nats[:, rules.end] = -math.inf
    nats[:, rules.begin] = -math.inf
    return nats


def _advance(
    beams: _Beams, nats: Tensor, length: int, rules: _Rules, finished: list[list[Hypothesis]]
) -> tuple[_Beams, Tensor, Tensor]:
    """One step of all beams; hypotheses that end are added to ``finished``.

    nats: (g * k, vocab), ln p of the next token.  Returns the beams that go on, the rows of the state that belong to them
    (rows,), and their last tokens (rows, 1).
    """
    num_groups, num_beams, _ = beams.tokens.shape
    vocab_size = nats.shape[-1]
    totals = (beams.scores[..., None] + nats.view(num_groups, num_beams, vocab_size)).flatten(1)
    scores, index = totals.topk(min(2 * rules.beam_size, totals.shape[1]))  # (g, candidates), best first
    parents, tokens = index // vocab_size, index % vocab_size
    ended = tokens == rules.end
    for group, candidate in (ended & scores.isfinite())[:, : rules.beam_size].nonzero().tolist():
        summary = beams.tokens[group, parents[group, candidate], : length - 1].tolist()
        score = scores[group, candidate].item() / length**rules.length_penalty
        finished[int(beams.examples[group])].append(Hypothesis(summary, score, length == rules.max_length))
    going = torch.tensor(
        [length < rules.max_length and len(finished[example]) < rules.beam_size for example in beams.examples.tolist()],
        device=nats.device,
    )
    # The stable sort puts continuations that don't end first, and keeps the best of them in front.
    chosen = ended.int().argsort(dim=1, stable=True)[going, : rules.beam_size]
    groups = going.nonzero()  # (groups that go on, 1)
    scores, parents, tokens = scores[groups, chosen], parents[groups, chosen], tokens[groups, chosen]
    # In a tiny vocabulary fewer than beam_size continuations don't end; those that do fill the beam and must not win.
    scores = scores.masked_fill(tokens == rules.end, -math.inf)
    history = beams.tokens[groups, parents]
    history[..., length - 1] = tokens
    rows = (groups * num_beams + parents).flatten()
    return _Beams(beams.examples[going], history, scores), rows, tokens.reshape(-1, 1)
