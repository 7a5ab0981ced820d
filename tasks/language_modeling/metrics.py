"""Figures of a language model from its negative log-likelihood, which each function takes as a sum over a text, in nats.

The functions also take arrays of such sums, and give arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Sum = float | np.ndarray


def loss(nats: Sum, num_tokens: Sum) -> Any:
    """Nats per token: the sum of -ln p over all tokens, divided by their number."""
    return np.divide(nats, num_tokens)


def perplexity(nats: Sum, num_tokens: Sum) -> Any:
    """exp(nats per token).  It depends on the tokeniser, so compare it only for the same tokens.

    nats: the sum over all tokens.

    >>> float(perplexity(4 * math.log(50), num_tokens=4).round(6))
    50.0
    """
    return _exp(np.divide(nats, num_tokens))


def word_perplexity(nats: Sum, num_words: Sum) -> Any:
    """exp(nats per word).  nats: the sum over all tokens of the text.  A word is a run of bytes without ASCII space.

    >>> float(word_perplexity(6 * math.log(10), num_words=2).round(6))
    1000.0
    """
    return _exp(np.divide(nats, num_words))


def bits_per_byte(nats: Sum, num_bytes: Sum) -> Any:
    """nats / (ln 2 · bytes).  nats: the sum over all tokens.  num_bytes: of the UTF-8 text, so that tokenisers compare.

    >>> float(bits_per_byte(16 * math.log(2), num_bytes=4))
    4.0
    """
    return np.divide(nats, math.log(2) * num_bytes)


def _exp(x: Any) -> Any:
    with np.errstate(over="ignore"):  # a diverged model has infinite perplexity; that must not end the run
        return np.exp(x)
