"""The texts of one family at one difficulty, and the random draws that all families share.

Word 0 is blank in every family.  Keys are the words below vocab_size / 2, values are those from vocab_size / 2 on, as in
Zoology (arXiv 2312.04927).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmark.interface import Pattern

BLANK = 0
NOWHERE = -1  # the evidence of an answer that no single place holds


class Texts(NamedTuple):
    """Texts of equal length.

    tokens    (texts, target length, channels): what asks; in self-attention also what is asked about
    source    (texts, source length, channels): in cross-attention, what is asked about; None in self-attention
    asked     (texts, questions): the places of ``tokens`` where an answer is wanted
    answers   (texts, questions): the right words
    evidence  (texts, questions): the place of ``source``, or without one of ``tokens``, that holds the answer, or NOWHERE
    """

    tokens: np.ndarray
    source: np.ndarray | None
    asked: np.ndarray
    answers: np.ndarray
    evidence: np.ndarray


def keys_of(vocab_size: int) -> range:
    """Returns the words that are keys."""
    return range(1, vocab_size // 2)


def values_of(vocab_size: int) -> range:
    """Returns the words that are values."""
    return range(vocab_size // 2, vocab_size)


def shuffled(generator: np.random.Generator, count: int, words: range) -> np.ndarray:
    """Returns all the words in a random order of its own for each text.  (count, words)"""
    return generator.random((count, len(words))).argsort(1, kind="stable") + words.start


def weighted_places(generator: np.random.Generator, count: int, number: int, weights: np.ndarray) -> np.ndarray:
    """Draws ``number`` different places for each text, one after another, each in proportion to the weights that are left.

    weights: (places,) int64, because sums of whole numbers are the same on every machine.  Returns (count, number).
    """
    left = np.repeat(weights[None], count, 0)
    drawn = np.empty((count, number), dtype=np.int64)
    rows = np.arange(count)
    for index in range(number):
        sums = left.cumsum(1)
        mark = generator.integers(0, sums[:, -1])
        drawn[:, index] = (sums <= mark[:, None]).sum(1)
        left[rows, drawn[:, index]] = 0
    return drawn


def joined(
    pattern: Pattern, context: np.ndarray, evidence: np.ndarray, queries: np.ndarray, asked: np.ndarray
) -> Texts:
    """Returns the texts of one pattern without answers: context and queries in one sequence, or in two for cross-attention.

    context: (texts, m, channels).  queries: (texts, n, channels).  asked: (texts, questions) places among the queries.
    """
    if pattern.endswith("cross"):
        return Texts(queries, context, asked, np.empty(0), evidence)
    tokens = np.concatenate([context, queries], axis=1)
    return Texts(tokens, None, asked + context.shape[1], np.empty(0), evidence)
