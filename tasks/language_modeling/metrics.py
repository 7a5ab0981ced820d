"""Figures of a language model from its negative log-likelihood, which each function takes as a sum over a text, in nats."""

from __future__ import annotations

import math

import numpy as np


def loss(nats: float, num_tokens: float) -> float:
    """Nats per token: the sum of -ln p over all tokens, divided by their number."""
    return float(np.float64(nats) / num_tokens)


def perplexity(nats: float, num_tokens: float) -> float:
    """exp(nats per token).  It depends on the tokeniser, so compare it only for the same tokens.

    nats: the sum over all tokens.

    >>> round(perplexity(4 * math.log(50), num_tokens=4), 6)
    50.0
    """
    return _exp(nats / num_tokens)


def word_perplexity(nats: float, num_words: float) -> float:
    """exp(nats per word).  nats: the sum over all tokens of the text.  A word is a run of bytes without ASCII space.

    >>> round(word_perplexity(6 * math.log(10), num_words=2), 6)
    1000.0
    """
    return _exp(nats / num_words)


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """nats / (ln 2 · bytes).  nats: the sum over all tokens.  num_bytes: of the UTF-8 text, so that tokenisers compare.

    >>> bits_per_byte(16 * math.log(2), num_bytes=4)
    4.0
    """
    return float(np.float64(nats) / (math.log(2) * num_bytes))


def _exp(x: float) -> float:
    with np.errstate(over="ignore"):  # a diverged model has infinite perplexity; that must not end the run
        return float(np.exp(np.float64(x)))
