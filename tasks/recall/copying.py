"""Copying and compressing a text, and facts that only training can teach."""

from __future__ import annotations

import numpy as np

from benchmark.interface import Pattern
from tasks.recall.texts import BLANK, NOWHERE, Texts, joined, keys_of, shuffled, values_of

MARK = 1  # the word that asks for an answer
COPIED = range(2, 18)  # the words that are copied or compressed: 16, as in MAD (arXiv 2403.17844)
FACTS_SEED = 2312  # the facts of ``memorisation`` are the same in all parts of the data, whatever their seed


def selective_copy(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """``pairs`` words among blanks, then as many marks: name the words in their order."""
    del vocab_size
    context_length = length - pairs
    places = np.sort(shuffled(generator, count, range(context_length))[:, :pairs], 1)
    words = generator.integers(COPIED.start, COPIED.stop, (count, pairs))
    context = np.full((count, context_length), BLANK)
    np.put_along_axis(context, places, words, 1)
    queries = np.full((count, pairs, 1), MARK)
    asked = np.tile(np.arange(pairs), (count, 1))
    return joined(pattern, context[..., None], places, queries, asked)._replace(answers=words)


def compression(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """``pairs`` words, then blanks, then one mark: name all words, in order, from what the model has at the mark.

    ``asked`` is the mark's place for each word; a decoder that is told the number of the word answers, as in MAD.
    """
    del vocab_size
    blanks = length - pairs - (0 if pattern.endswith("cross") else 1)
    words = generator.integers(COPIED.start, COPIED.stop, (count, pairs))
    context = np.concatenate([words, np.full((count, blanks), BLANK)], 1)
    queries = np.full((count, 1, 1), MARK)
    evidence = np.tile(np.arange(pairs), (count, 1))
    texts = joined(pattern, context[..., None], evidence, queries, np.zeros((count, pairs), dtype=np.int64))
    return texts._replace(answers=words)


def memorisation(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """``pairs`` keys, each asked for the value that it has in all texts.  The text does not say it; training does.

    The text before the keys is blank.
    """
    asked = shuffled(generator, count, keys_of(vocab_size))[:, :pairs]
    blanks = length if pattern.endswith("cross") else length - pairs
    context = np.full((count, blanks, 1), BLANK)
    evidence = np.full((count, pairs), NOWHERE)
    texts = joined(pattern, context, evidence, asked[..., None], np.tile(np.arange(pairs), (count, 1)))
    return texts._replace(answers=facts(vocab_size)[asked])


def facts(vocab_size: int) -> np.ndarray:
    """Returns the value of each key, all different; entry 0, the blank's, is not used.  (vocab_size / 2,)"""
    generator = np.random.Generator(np.random.PCG64(FACTS_SEED))
    return shuffled(generator, 1, values_of(vocab_size))[0]
