"""State tracking: the state after a sequence of moves, for causal self-attention."""

from __future__ import annotations

import functools
from itertools import permutations as orders

import numpy as np

from benchmark.interface import Pattern
from tasks.recall.texts import NOWHERE, Texts

FIRST = 1  # the word of bit 0, and of the identity; word 0 is blank
PERMUTED = 5


def parity(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """Bits; at each of the last ``pairs`` places: is the number of ones so far odd?"""
    del vocab_size, pattern
    bits = generator.integers(0, 2, (count, length))
    return _states(FIRST + bits, FIRST + bits.cumsum(1) % 2, pairs)


def permutations(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """Permutations of five things; at each of the last ``pairs`` places: which permutation are all so far together?

    Composition in S5 can't be computed in constant depth (Liu et al., 2023, arXiv 2210.10749).
    """
    del vocab_size, pattern
    moves = generator.integers(0, len(products()), (count, length))
    composed = moves
    step = 1
    while step < length:  # afterwards each place has the product of the last 2 · step moves
        later = products()[composed[:, step:], composed[:, :-step]]
        composed = np.concatenate([composed[:, :step], later], 1)
        step *= 2
    return _states(FIRST + moves, FIRST + composed, pairs)


@functools.cache
def products() -> np.ndarray:
    """Returns the number of "a after b" at [a, b], for the permutations of five in lexical order.  (120, 120)"""
    tables = np.array(list(orders(range(PERMUTED))))
    after = tables[np.arange(len(tables))[:, None, None], tables[None]]  # after[a, b, i] = a(b(i))
    place_values = PERMUTED ** np.arange(PERMUTED)[::-1]
    return np.searchsorted(tables @ place_values, after @ place_values)


def _states(tokens: np.ndarray, states: np.ndarray, questions: int) -> Texts:
    count, length = tokens.shape
    asked = np.tile(np.arange(length - questions, length), (count, 1))
    return Texts(tokens[..., None], None, asked, states[:, -questions:], np.full_like(asked, NOWHERE))
