"""The control of language modelling: n-gram counts of the last few tokens, without attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class NGram:
    """Interpolated Witten-Bell estimates from counts of up to ``order`` tokens of context.

        p_j(x | c) = (n(c, x) + t(c) p_{j-1}(x | c')) / (n(c) + t(c))

    c is the last j tokens, c' the last j - 1, n(.) a count, t(c) the number of different tokens seen after c, and p_{-1} is
    uniform over all tokens but ``begin``, which is never predicted.  For a context that was never seen, p_j = p_{j-1}.
    Contexts don't reach back beyond the begin of a block, as those of the model don't.

    blocks: arrays of tokens, (n,) each.  Raises ValueError if a context and its next token, as one number, don't
    fit 63 bits.
    """

    def __init__(self, blocks: Sequence[np.ndarray], *, order: int, vocab_size: int, begin: int) -> None:
        if float(vocab_size) ** (order + 1) >= 2.0**63:
            raise ValueError(
                f"order {order}: contexts of a vocabulary of {vocab_size} don't fit 64 bits; use a lower order"
            )
        self.order, self.vocab_size, self.begin = order, vocab_size, begin
        self.tables = [_count(*self._contexts(blocks, j), vocab_size) for j in range(order + 1)]

    def nats(self, blocks: Sequence[np.ndarray], order: int | None = None) -> np.ndarray:
        """-ln p of every token of the blocks, which are joined.  Returns (tokens,).

        order: tokens of context of the estimate, -1 for the uniform one; the highest by default.
        """
        num_tokens = sum(len(block) for block in blocks)
        p = np.full(num_tokens, 1 / (self.vocab_size - 1))
        for j in range((self.order if order is None else order) + 1):
            context, token = self._contexts(blocks, j)
            pairs, pair_counts, contexts, totals, kinds = self.tables[j]
            seen = _look_up(pairs, pair_counts, context * self.vocab_size + token)
            total, kind = _look_up(contexts, totals, context), _look_up(contexts, kinds, context)
            p = np.where(total > 0, (seen + kind * p) / np.maximum(total + kind, 1), p)
        return -np.log(p)

    def likeliest(self, contexts: Sequence[np.ndarray], order: int) -> np.ndarray:
        """The likeliest token after each context by the estimate of this order, the lowest number among equals.  (contexts,)

        contexts: arrays of tokens, of which the last ``order`` count; a shorter one begins a block.
        """
        # Each token in turn follows on each context, as one block: its last entry has the probability that is wanted.
        tokens = np.arange(self.vocab_size)
        p = np.full((len(contexts), self.vocab_size), 1 / (self.vocab_size - 1))
        for j in range(order + 1):
            padded = np.array(
                [[self.begin] * max(0, j - len(c)) + [*c[max(0, len(c) - j) :]] for c in contexts], dtype=np.int64
            )
            context = np.zeros(len(contexts), dtype=np.int64)
            for column in padded.reshape(len(contexts), j).T:
                context = context * self.vocab_size + column
            pairs, pair_counts, known, totals, kinds = self.tables[j]
            seen = _look_up(pairs, pair_counts, context[:, None] * self.vocab_size + tokens)
            total, kind = (_look_up(known, values, context)[:, None] for values in (totals, kinds))
            p = np.where(total > 0, (seen + kind * p) / np.maximum(total + kind, 1), p)
        p[:, self.begin] = 0
        return p.argmax(1)

    def _contexts(self, blocks: Sequence[np.ndarray], j: int) -> tuple[np.ndarray, np.ndarray]:
        """The j tokens before each token, as one number, and the token itself.  (tokens,) each"""
        padded = np.full(sum(len(block) + j for block in blocks), self.begin, dtype=np.int64)
        real = np.zeros(len(padded), dtype=bool)
        stop = 0
        for block in blocks:
            start, stop = stop + j, stop + j + len(block)
            padded[start:stop], real[start:stop] = block, True
        places = np.flatnonzero(real)
        context = np.zeros(len(places), dtype=np.int64)
        for distance in range(j, 0, -1):
            context = context * self.vocab_size + padded[places - distance]
        return context, padded[places]


def _count(context: np.ndarray, token: np.ndarray, vocab_size: int) -> tuple[np.ndarray, ...]:
    """Sorted numbers of (context, token) and their counts; sorted contexts, their counts and their kinds of next token."""
    pairs, pair_counts = np.unique(context * vocab_size + token, return_counts=True)
    contexts, firsts, kinds = np.unique(pairs // vocab_size, return_index=True, return_counts=True)
    return pairs, pair_counts, contexts, np.add.reduceat(pair_counts, firsts), kinds


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[i] for the i with keys[i] == wanted, 0 if there is none.  keys: sorted."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
