"""Figures against hand computation, with no engine."""

import math

import pytest

from tasks.language_modeling.metrics import bits_per_byte, loss, perplexity, word_perplexity


def test_a_uniform_guess_among_256_bytes_is_eight_bits_per_byte():
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8)
    assert perplexity(100 * math.log(256), 100) == pytest.approx(256)
    assert loss(100 * math.log(256), 100) == pytest.approx(5.545177)


def test_the_same_nats_per_token_per_word_and_per_byte():
    # "the cat sat": 11 bytes, 3 words; say 4 tokens at probabilities 1/2, 1/4, 1/8 and 1/16: 10 bits.
    nats = -sum(math.log(p) for p in (1 / 2, 1 / 4, 1 / 8, 1 / 16))
    assert perplexity(nats, 4) == pytest.approx(2**2.5)
    assert word_perplexity(nats, 3) == pytest.approx(2 ** (10 / 3))
    assert bits_per_byte(nats, 11) == pytest.approx(10 / 11)


def test_perplexity_is_of_nats_and_not_of_bits():
    # fairseq#182: a loss of 4.2593 bits is perplexity 19.15; read as nats it would be 70.76.
    assert perplexity(4.2593 * math.log(2), 1) == pytest.approx(2**4.2593)
    assert perplexity(4.2593, 1) == pytest.approx(math.exp(4.2593))


def test_a_diverged_model_has_infinite_perplexity():
    assert perplexity(1e6, 1) == math.inf
