"""What trivial rules answer: expected accuracies and nats, without a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from benchmark.interface import Columns, Splits
from tasks.recall.data import Part, Set, Training
from tasks.recall.families import FAMILIES

Shares = tuple[np.ndarray, np.ndarray]  # accuracy in per cent, and nats; (texts,) each


def rules(splits: Splits, vocab_size: int) -> dict[str, Columns]:
    """Returns what each rule scores on the test part: rule -> the columns of ``Recall.score``.

    chance         any of the possible answers, drawn at random
    most_frequent  the most frequent answer in training
    bag            the answers of the text in random order: it knows what they are, but not which is asked for.  Facts that
                   no text says are guessed at random
    """
    assert isinstance(splits.train, Training)
    assert isinstance(splits.test, Part)
    answers = {
        family: np.concatenate([one.texts.answers.ravel() for one in splits.train.sets if one.family == family])
        for family in dict.fromkeys(one.family for one in splits.train.sets)
    }
    counts = {family: np.bincount(found) for family, found in answers.items()}

    def chance(one: Set) -> Shares:
        return _constant(one, 1 / FAMILIES[one.family].num_answers(vocab_size))

    def most_frequent(one: Set) -> Shares:
        count = counts[one.family]
        number = FAMILIES[one.family].num_answers(vocab_size)
        padded = np.zeros(max(len(count), int(one.texts.answers.max()) + 1))
        padded[: len(count)] = count
        # One is added to each count, so that an answer that training lacks has a finite number of nats.
        share = (padded + 1) / (padded.sum() + number)
        right = one.texts.answers == count.argmax()
        return 100 * right.mean(1), -np.log(share[one.texts.answers]).mean(1)

    def bag(one: Set) -> Shares:
        if one.family == "memorisation":
            return chance(one)
        same = one.texts.answers[:, :, None] == one.texts.answers[:, None, :]
        share = same.mean(-1)
        return 100 * share.mean(1), -np.log(share).mean(1)

    found: dict[str, Callable[[Set], Shares]] = {"chance": chance, "most_frequent": most_frequent, "bag": bag}
    return {name: _columns(splits.test, rule) for name, rule in found.items()}


def _constant(one: Set, share: float) -> Shares:
    count = len(one.texts.answers)
    return np.full(count, 100 * share), np.full(count, -math.log(share))


def _columns(part: Part, rule: Callable[[Set], Shares]) -> Columns:
    """Returns the columns of a rule, in the order of the examples."""
    shares = {id(one): rule(one) for one in part.sets}
    names = list(FAMILIES)
    examples = [part[index][0] for index in range(len(part))]
    about = np.array(
        [[names.index(one.set.family), one.set.pairs, one.set.length, one.set.is_trained] for one in examples], float
    )
    found = np.array([[column[one.row] for column in shares[id(one.set)]] for one in examples])
    columns = dict(zip(("family", "pairs", "length", "is_trained"), about.T, strict=True))
    return {**columns, "accuracy": found[:, 0], "nats": found[:, 1]}
