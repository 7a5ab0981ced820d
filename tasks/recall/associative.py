"""Associative recall: a text binds keys to values, and is then asked for the value of each key.

Values are drawn without repetition, as in Zoology, so guessing among the values of the text is right in 1 of ``pairs`` cases.
"""

from __future__ import annotations

import numpy as np

from benchmark.interface import Pattern
from tasks.recall.texts import BLANK, Texts, joined, keys_of, shuffled, values_of, weighted_places

POWER = 0.01  # of Zoology's power law of the distance between a pair and its query
FUZZY_SYMBOLS = 8  # words that the keys of ``fuzzy`` are made of, so that each occurs in several keys


def mqar(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """Key and value at two places, and queries at random places of the rest (Zoology's layout).

    The rest is filled with words that are no key of the text.  The last key is never asked for right behind its value, where a
    model without attention would see the answer beside the question.  In noncausal self-attention the place after a query is
    blank: a word there would follow its key as a value does.
    """
    keys, values = _bound(generator, count, pairs, vocab_size)
    context = np.stack([keys[:, :pairs], values], axis=-1).reshape(count, 2 * pairs)
    evidence = np.tile(np.arange(pairs) * 2 + 1, (count, 1))
    rest = _noise(generator, keys, pairs, length - 2 * pairs, vocab_size)
    if pattern.endswith("cross"):
        order = shuffled(generator, count, range(pairs))
        queries = np.take_along_axis(keys, order, 1)
        source = np.concatenate([context, rest], axis=1)
        texts = joined(pattern, source[..., None], evidence, queries[..., None], np.tile(np.arange(pairs), (count, 1)))
        return _answered(texts, values, order)
    places = 2 * _apart(weighted_places(generator, count, pairs, power_law((length - 2 * pairs) // 2)))
    np.put_along_axis(rest, places, keys[:, :pairs], 1)
    if pattern == "noncausal_self":
        np.put_along_axis(rest, places + 1, BLANK, 1)
    return joined(pattern, context[..., None], evidence, rest[..., None], places)._replace(answers=values)


def fused(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """Key and value at one place; then fillers, which are values without a key; then each key, with no value.

    Each place has two words: a key or blank, and a value or blank.
    """
    keys, values = _bound(generator, count, pairs, vocab_size)
    questions = 0 if pattern.endswith("cross") else pairs
    fillers = generator.integers(vocab_size // 2, vocab_size, (count, length - pairs - questions))
    context = np.concatenate(
        [np.stack([keys[:, :pairs], values], -1), np.stack([np.full_like(fillers, BLANK), fillers], -1)], axis=1
    )
    order = shuffled(generator, count, range(pairs))
    asked = np.take_along_axis(keys, order, 1)
    queries = np.stack([asked, np.full_like(asked, BLANK)], -1)
    evidence = np.tile(np.arange(pairs), (count, 1))
    texts = joined(pattern, context, evidence, queries, np.tile(np.arange(pairs), (count, 1)))
    return _answered(texts, values, order)


def fuzzy(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """Keys of two words, none of which is enough: they are two of FUZZY_SYMBOLS, and a word occurs in several keys.

    The text has keys of two words, each followed by its value; then fillers, which are values; then each key after a blank,
    so that no place that asks is near to a value.
    """
    numbers = shuffled(generator, count, range(FUZZY_SYMBOLS**2))[:, :pairs]
    keys = np.stack([numbers // FUZZY_SYMBOLS, numbers % FUZZY_SYMBOLS], -1) + keys_of(vocab_size).start
    values = shuffled(generator, count, values_of(vocab_size))[:, :pairs]
    questions = 0 if pattern.endswith("cross") else 3 * pairs
    fillers = generator.integers(vocab_size // 2, vocab_size, (count, length - 3 * pairs - questions))
    context = np.concatenate([keys, values[..., None]], -1).reshape(count, 3 * pairs)
    order = shuffled(generator, count, range(pairs))
    queries = np.take_along_axis(keys, order[..., None], 1)
    queries = np.concatenate([np.full((count, pairs, 1), BLANK), queries], -1).reshape(count, 3 * pairs)
    context = np.concatenate([context, fillers], 1)
    evidence = np.tile(np.arange(pairs) * 3 + 2, (count, 1))
    texts = joined(
        pattern, context[..., None], evidence, queries[..., None], np.tile(np.arange(pairs) * 3 + 2, (count, 1))
    )
    return _answered(texts, values, order)


def induction(
    generator: np.random.Generator, count: int, pairs: int, length: int, vocab_size: int, pattern: Pattern
) -> Texts:
    """A text of different words; then ``pairs`` of them, each after a blank: which word came after it in the text?

    Each word is a key and a value (the induction heads of Olsson et al., 2022, arXiv 2209.11895).
    """
    num_words = length if pattern.endswith("cross") else length - 2 * pairs
    words = shuffled(generator, count, range(1, vocab_size))[:, :num_words]
    order = shuffled(generator, count, range(num_words - 1))[:, :pairs]
    asked = np.take_along_axis(words, order, 1)
    queries = np.stack([np.full_like(asked, BLANK), asked], -1).reshape(count, 2 * pairs)
    places = np.tile(np.arange(pairs) * 2 + 1, (count, 1))
    texts = joined(pattern, words[..., None], order + 1, queries[..., None], places)
    return texts._replace(answers=np.take_along_axis(words, order + 1, 1))


def power_law(num_places: int) -> np.ndarray:
    """Returns Zoology's weights of the places for queries, near ones first, as whole numbers.  (num_places,)"""
    return np.rint(2**20 * np.arange(1, num_places + 1, dtype=np.float64) ** (POWER - 1)).astype(np.int64)


def _apart(places: np.ndarray) -> np.ndarray:
    """Swaps the places of the first and the last key where the last one has place 0.  (texts, pairs)"""
    swapped = np.concatenate([places[:, -1:], places[:, 1:-1], places[:, :1]], 1)
    return np.where(places[:, -1:] == 0, swapped, places) if places.shape[1] > 1 else places


def _bound(generator: np.random.Generator, count: int, pairs: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns all keys in random order, of which the first ``pairs`` are bound, and their values, (count, pairs)."""
    keys = shuffled(generator, count, keys_of(vocab_size))
    return keys, shuffled(generator, count, values_of(vocab_size))[:, :pairs]


def _noise(generator: np.random.Generator, keys: np.ndarray, pairs: int, number: int, vocab_size: int) -> np.ndarray:
    """Returns words of the whole vocabulary except the text's own keys: other keys, values and blank.  (count, number)"""
    others = keys.shape[1] - pairs
    drawn = generator.integers(0, vocab_size - pairs, (keys.shape[0], number))
    other_keys = np.take_along_axis(keys, pairs + np.minimum(drawn, others - 1), 1)
    value_or_blank = (drawn - others + vocab_size // 2) % vocab_size
    return np.where(drawn < others, other_keys, value_or_blank)


def _answered(texts: Texts, values: np.ndarray, order: np.ndarray) -> Texts:
    """Adds the answers, and puts the evidence into the order in which the keys are asked for."""
    answers, evidence = (np.take_along_axis(x, order, 1) for x in (values, texts.evidence))
    return texts._replace(answers=answers, evidence=evidence)
