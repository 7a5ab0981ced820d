"""Attentions as plain float64 loops over their formulas, for one head, written from the papers and not from the code.

q: (n, d).  k, v: (m, d), numpy arrays of real tokens only.  Returns (n, d).
"""

import math

import numpy as np
import torch


def softmax(q, k, v, *, causal):
    out = np.zeros_like(q)
    for i in range(len(q)):
        seen = visible(i, len(k), causal)
        if seen:
            scores = k[:seen] @ q[i] / math.sqrt(q.shape[1])
            weights = np.exp(scores - scores.max())
            out[i] = weights @ v[:seen] / weights.sum()
    return out


def performer(q, k, v, *, causal, omega):
    """Weights are normalised in logarithms, because e^{-|x|²/2} of a large x is 0 even in float64."""
    scale = q.shape[1] ** -0.25

    def log_features(x):
        return omega @ (x * scale) - ((x * scale) ** 2).sum() / 2 - math.log(len(omega)) / 2

    out = np.zeros_like(q)
    log_k = np.array([log_features(x) for x in k])
    for i in range(len(q)):
        seen = visible(i, len(k), causal)
        if seen:
            log_weights = np.logaddexp.reduce(log_features(q[i]) + log_k[:seen], axis=1)
            weights = np.exp(log_weights - log_weights.max())
            out[i] = weights @ v[:seen] / weights.sum()
    return out


def cosformer(q, k, v, *, causal, max_length):
    out = np.zeros_like(q)
    for i in range(len(q)):
        j = np.arange(visible(i, len(k), causal))
        similarity = np.maximum(k[: len(j)], 0) @ np.maximum(q[i], 0)
        weights = similarity * np.cos(math.pi * (i - j) / (2 * max_length))
        if weights.sum():
            out[i] = weights @ v[: len(j)] / weights.sum()
    return out


def none(q, k, v, *, causal):
    return np.zeros_like(q)


def visible(i, source_len, causal):
    return min(i + 1, source_len) if causal else source_len


def batched(oracle, q, k, v, key_padding_mask=None, *, is_self, **options):
    """The oracle for each head of each sample, over the real tokens; padded tokens get zeros."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(q.shape[0]):
        real = torch.ones(k.shape[2], dtype=torch.bool) if key_padding_mask is None else ~key_padding_mask[b]
        queries = real if is_self else torch.ones(q.shape[2], dtype=torch.bool)
        for h in range(q.shape[1]):
            parts = [x[b, h].detach().double()[keep].numpy() for x, keep in ((q, queries), (k, real), (v, real))]
            out[b, h, queries] = torch.from_numpy(oracle(*parts, **options))
    return out
