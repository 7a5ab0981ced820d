"""The control against closed forms."""

import math

import numpy as np
import pytest

from tasks.language_modeling.ngram import NGram


def test_unigram_is_witten_bell_by_hand():
    # Seen: 3 a, 1 b of 4 tokens, 2 kinds, vocabulary of 4 without begin: p(a) = (3 + 2/4) / 6, p(unseen) = (2/4) / 6.
    model = NGram([np.array([0, 0, 1, 0])], order=1, vocab_size=5, begin=4)
    nats = model.nats([np.array([0, 1, 2])], order=0)
    np.testing.assert_allclose(np.exp(-nats), [3.5 / 6, 1.5 / 6, 0.5 / 6])


def test_bigram_is_witten_bell_by_hand():
    # After begin: 0 once.  After 0: 0 once, 1 once, 2 kinds.
    model = NGram([np.array([0, 0, 1])], order=1, vocab_size=5, begin=4)
    unigram = np.array([2 + 2 / 4, 1 + 2 / 4]) / 5
    expected = [(1 + 1 * unigram[0]) / 2, (1 + 2 * unigram[1]) / 4]
    np.testing.assert_allclose(np.exp(-model.nats([np.array([0, 1])])), expected)


@pytest.mark.parametrize("order", [-1, 0, 1, 2, 3])
def test_probabilities_sum_to_one(order):
    rng = np.random.default_rng(0)
    model = NGram([rng.integers(0, 6, 200), rng.integers(0, 3, 50)], order=3, vocab_size=8, begin=7)
    for context in ([], [0], [1, 2], [5, 5, 0], [6, 6, 6]):  # token 6 was never seen
        probabilities = [np.exp(-model.nats([np.array([*context, token])], order)[-1]) for token in range(7)]
        assert sum(probabilities) == pytest.approx(1)


def test_a_bigram_reaches_the_entropy_rate_of_a_markov_chain():
    rng = np.random.default_rng(0)
    stay, num_tokens = 0.9, 200_000
    chain = np.cumsum(rng.random(num_tokens) > stay) % 2
    model = NGram([chain[: num_tokens // 2]], order=2, vocab_size=3, begin=2)
    test = [chain[num_tokens // 2 :]]
    rate = -stay * math.log(stay) - (1 - stay) * math.log(1 - stay)
    assert model.nats(test, 0).mean() == pytest.approx(math.log(2), abs=0.01)
    assert model.nats(test, 1).mean() == pytest.approx(rate, abs=0.01)
    assert model.nats(test, 2).mean() == pytest.approx(rate, abs=0.01)


def test_uniform_is_ln_of_the_vocabulary_without_begin():
    model = NGram([np.array([0, 1])], order=1, vocab_size=257, begin=256)
    np.testing.assert_allclose(model.nats([np.array([3, 200])], -1), math.log(256))


def test_blocks_know_nothing_of_each_other():
    rng = np.random.default_rng(0)
    model = NGram([rng.integers(0, 5, 500)], order=3, vocab_size=6, begin=5)
    blocks = [rng.integers(0, 5, size) for size in (7, 1, 12)]
    np.testing.assert_array_equal(model.nats(blocks), np.concatenate([model.nats([block]) for block in blocks]))


def test_contexts_that_do_not_fit_an_integer_are_refused():
    with pytest.raises(ValueError, match="order 4: contexts of a vocabulary of 50257"):
        NGram([np.array([0])], order=4, vocab_size=50257, begin=50256)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_likeliest_token_has_the_highest_probability(order):
    rng = np.random.default_rng(0)
    model = NGram([rng.integers(0, 4, 300), rng.integers(1, 6, 60)], order=3, vocab_size=8, begin=7)
    contexts = [np.array(context, dtype=np.int64) for context in ([], [0], [1, 2], [5, 5, 0], [6, 6, 6], [3, 2, 1, 0])]
    found = model.likeliest(contexts, order)
    for context, token in zip(contexts, found, strict=True):
        nats = [model.nats([np.array([*context[-3:], other])], order)[-1] for other in range(7)]
        assert nats[token] == pytest.approx(min(nats))
