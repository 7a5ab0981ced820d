"""The table of families: what each draws, in which patterns it makes sense, and what its model needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from benchmark.interface import PATTERNS, Pattern
from tasks.recall import associative, copying, tracking
from tasks.recall.texts import Texts, keys_of, values_of

SELF = ("noncausal_self", "causal_self")
CAUSAL_SELF = ("causal_self",)

Draw = Callable[[np.random.Generator, int, int, int, int, Pattern], Texts]


class Family(NamedTuple):
    """One kind of text.

    draw           generator, texts, pairs, length, vocab_size, pattern -> Texts
    patterns       in which the text can be answered
    places         (pairs, cross) -> the shortest length
    most_pairs     vocab_size -> the most pairs that a text can have; None: any number
    shift          the number of words before its own that a place must see at the input
    channels       words at one place
    ordered        True: the answer depends on the order of far words, so the model needs positions
    from_one_place True: all answers come from one place, so the model is told which of them is wanted
    num_layers     the least number of layers with which softmax can answer
    num_words      the number of words, the blank included, if it is not vocab_size
    num_answers    vocab_size -> the number of answers that are equally likely without the text
    values         how the answers of one text are drawn: all different, or each by itself; None: they follow from other words,
                   or from no text, so that ceilings by counting don't hold for them
    """

    draw: Draw
    places: Callable[[int, bool], int]
    patterns: tuple[str, ...] = PATTERNS
    most_pairs: Callable[[int], int] | None = None
    shift: int = 0
    channels: int = 1
    ordered: bool = False
    from_one_place: bool = False
    num_layers: int = 1
    num_words: int | None = None
    num_answers: Callable[[int], int] = lambda vocab_size: len(values_of(vocab_size))
    values: Literal["different", "independent"] | None = "different"

    def words(self, vocab_size: int) -> int:
        """Returns the size of the vocabulary."""
        return self.num_words or vocab_size


def _keys(vocab_size: int) -> int:
    return len(keys_of(vocab_size))


FAMILIES: dict[str, Family] = {
    "mqar": Family(associative.mqar, lambda pairs, cross: 2 * pairs if cross else 4 * pairs, most_pairs=_keys, shift=1),
    "fused": Family(
        associative.fused, lambda pairs, cross: pairs if cross else 2 * pairs, most_pairs=_keys, channels=2
    ),
    "fused_far": Family(
        associative.fused, lambda pairs, cross: pairs if cross else 2 * pairs, most_pairs=_keys, channels=2
    ),
    "fuzzy": Family(
        associative.fuzzy,
        lambda pairs, cross: 3 * pairs if cross else 6 * pairs,
        most_pairs=lambda vocab_size: min(associative.FUZZY_SYMBOLS**2, vocab_size // 2),
        shift=2,
    ),
    "induction": Family(
        associative.induction,
        lambda pairs, cross: pairs + 1 if cross else 3 * pairs + 1,
        num_answers=lambda vocab_size: vocab_size - 1,
        shift=1,
        values=None,
    ),
    "selective_copy": Family(
        copying.selective_copy,
        lambda pairs, _: 2 * pairs,
        patterns=SELF,
        ordered=True,
        num_layers=2,
        num_words=copying.COPIED.stop,
        num_answers=lambda _: len(copying.COPIED),
        values="independent",
    ),
    "compression": Family(
        copying.compression,
        lambda pairs, cross: pairs if cross else pairs + 1,
        ordered=True,
        from_one_place=True,
        num_words=copying.COPIED.stop,
        num_answers=lambda _: len(copying.COPIED),
        values="independent",
    ),
    "memorisation": Family(copying.memorisation, lambda pairs, _: pairs, most_pairs=_keys, values=None),
    "parity": Family(
        tracking.parity, lambda pairs, _: pairs, patterns=CAUSAL_SELF, num_words=3, num_answers=lambda _: 2, values=None
    ),
    "permutations": Family(
        tracking.permutations,
        lambda pairs, _: pairs,
        patterns=CAUSAL_SELF,
        num_layers=2,
        num_words=121,
        num_answers=lambda _: 120,
        values=None,
    ),
}
