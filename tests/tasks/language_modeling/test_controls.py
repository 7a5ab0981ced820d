"""The n-gram controls count what a model has seen in training and nothing else, against a counter of plain dictionaries."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tasks.language_modeling import task as task_module


def brute_force(blocks, test, order, vocab_size, begin):
    """The nats of each test block by interpolated Witten-Bell estimates, from counts in dictionaries."""
    counts = [defaultdict(Counter) for _ in range(order + 1)]
    for block in blocks:
        padded = [begin] * order + [int(token) for token in block]
        for place in range(order, len(padded)):
            for j in range(order + 1):
                counts[j][tuple(padded[place - j : place])][padded[place]] += 1
    sums = []
    for block in test:
        padded = [begin] * order + [int(token) for token in block]
        total = 0.0
        for place in range(order, len(padded)):
            p = 1 / (vocab_size - 1)
            for j in range(order + 1):
                after = counts[j].get(tuple(padded[place - j : place]))
                if after:
                    p = (after[padded[place]] + len(after) * p) / (sum(after.values()) + len(after))
            total -= math.log(p)
        sums.append(total)
    return np.array(sums)


@pytest.mark.parametrize("num_examples", [1, 10, 10**9])
def test_controls_have_seen_as_many_blocks_as_the_model(data_root, make_task, num_examples):
    task = make_task(data_root)
    train = [block.tokens for block in task.splits.train]
    count = min(num_examples, len(train))
    seen = [train[i * len(train) // count] for i in range(count)]
    test = [block.tokens for block in task.splits.test]
    controls = task.controls_after(num_examples)
    for name, order in {"unigram": 0, "bigram": 1, "order_3": 3}.items():
        expected = brute_force(seen, test, order, task.tokenizer.vocab_size, task.tokenizer.begin)
        np.testing.assert_allclose(controls[name]["nats"], expected, rtol=1e-9)
    assert count < len(train) or all(
        np.array_equal(controls[name]["nats"], columns["nats"]) for name, columns in task.controls().items()
    )


def test_a_short_training_gets_a_weaker_control(data_root, make_task):
    task = make_task(data_root)
    few, all_of_it = (task.controls_after(n)["order_3"]["nats"].sum() for n in (4, 10**9))
    assert few > 1.02 * all_of_it


def test_controls_count_no_more_tokens_than_their_limit(data_root, make_task, monkeypatch):
    monkeypatch.setattr(task_module, "CONTROL_TOKENS", 320)
    task = make_task(data_root)
    counted = []
    monkeypatch.setattr(task_module, "NGram", lambda blocks, **sizes: counted.append(blocks) or _ngram(blocks, **sizes))
    task.controls()
    assert 200 < sum(map(len, counted[0])) <= 340


def _ngram(blocks, **sizes):
    from tasks.language_modeling.ngram import NGram

    return NGram(blocks, **sizes)
