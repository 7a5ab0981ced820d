"""LAVO token by token: the state after a sequence or a source, and how the next tokens continue from it.

A state is never changed, so any number of continuations can start from the same one.  Its size does not grow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavo.blocks import Tokens, accumulation_dtype, chunks
from lavo.chunked import Inputs, causal_forward
from lavo.windows import bias_matrix


class SelfState(NamedTuple):
    """The state of a causal sequence: keys and values of its current window, and the sum of B e over all its tokens.

    The first ``num_read % window`` places of a window are filled.  Without windows, ``window`` is 0.
    """

    keys: Tensor  # (batch, heads, window, head_dim)
    values: Tensor  # (batch, heads, window, head_dim)
    sums: Tensor  # (batch, heads, rank), in blocks.carry_dtype
    num_read: int  # the number of tokens that were read, the same for all rows of the batch


class CrossState(NamedTuple):
    """The state of a source: the coefficients H of its memory, which no query changes."""

    mean: Tensor  # H, (batch, heads, rank)


def extend(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, *, output: str
) -> tuple[Tensor, SelfState]:
    """Returns the output for new tokens, (b, h, n, d), and the state after them.

    tokens: (b, h, n, d) each.  basis: (h, r, d) or None.  bias: (h, window) or None.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    filled = state.num_read % window if window else 0
    # The first ``first`` tokens belong to the current window; the others begin with a new window.
    first = min(n, window - filled) if filled or n <= window else 0
    parts = []
    if first:
        out, state = _within_window(Tokens(*(x[:, :, :first] for x in tokens)), basis, bias, state, output)
        parts.append(out)
    if first < n:
        out, state = _new_windows(Tokens(*(x[:, :, first:] for x in tokens)), basis, bias, state, output)
        parts.append(out)
    return (parts[0] if len(parts) == 1 else torch.cat([tokens.q[:, :, :0], *parts], 2)), state


def _within_window(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, output: str
) -> tuple[Tensor, SelfState]:
    """Does what ``extend`` does, for tokens that all belong to the current window.

    The parts below are "local", "compress", "read" and "output" of docs/notation.md.
    """
    q, k, v = tokens
    dtype, n, scale = accumulation_dtype(q), q.shape[2], q.shape[3] ** -0.5
    filled = state.num_read % state.keys.shape[2]
    keys, values = state.keys.to(k.dtype, copy=True), state.values.to(v.dtype, copy=True)
    keys[:, :, filled : filled + n], values[:, :, filled : filled + n] = k, v
    query, key, value = q.to(dtype), keys[:, :, : filled + n].to(dtype), values[:, :, : filled + n].to(dtype)

    scores = query @ key.mT * scale
    if n > 1 or bias is not None:
        scores += _bias_by_key(bias, filled, n, scores)
    e, lse = scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)

    c, a = (e, query) if basis is None else (e @ basis.mT, query @ basis.mT)
    sums = state.sums[:, :, None] + c.cumsum(2, dtype=state.sums.dtype)
    count = torch.arange(state.num_read + 1, state.num_read + n + 1, device=q.device)[:, None]
    H = (sums / count).to(dtype)

    scores = a * H * scale
    if output == "joint":
        weights = torch.cat([scores, lse], -1).softmax(-1)
        weights, e = weights[..., :-1], e * weights[..., -1:]
    else:
        weights = scores.softmax(-1)
    read = weights * H if basis is None else (weights * H) @ basis
    out = read if output == "memory" else read + e
    return out.to(q.dtype), SelfState(keys, values, sums[:, :, -1], state.num_read + n)


def _bias_by_key(bias: Tensor | None, filled: int, n: int, scores: Tensor) -> Tensor:
    """Returns P[t - j] of the new queries against all keys of the window; minus infinity for keys of the future.

    filled: the number of tokens of the window before the new ones.  n: the number of new tokens.
    Returns (h, n, filled + n), or (1, n, filled + n) if there is no bias.
    """
    if n == 1 and bias is not None:
        return bias[:, None, : filled + 1].flip(2).to(scores.dtype)
    steps = torch.arange(filled + n, device=scores.device)
    distance = steps[filled:, None] - steps[None, :]
    matrix = scores.new_zeros(1, *distance.shape) if bias is None else bias.to(scores.dtype)[:, distance.clamp_min(0)]
    return matrix.masked_fill(distance < 0, float("-inf"))


def _new_windows(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, output: str
) -> tuple[Tensor, SelfState]:
    """Does what ``extend`` does, for tokens of which the first begins a new window.

    This is the causal form of a sequence (chunked.py) that continues from the sums of the state.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    matrix = bias_matrix(bias, min(window, n), window, True, tokens.q) if window else None
    sums, cut = state.sums.clone(), chunks(tokens.q, matrix)
    found = causal_forward(Inputs(tokens, basis, matrix, output), sums, state.num_read, cut)
    return found.out, after_new_windows(tokens, state, sums)


def after_new_windows(tokens: Tokens, state: SelfState, sums: Tensor) -> SelfState:
    """Returns the state after tokens of which the first begins a new window.

    state: the state before them.  sums: (b, h, r), the sum of B e over all tokens, the new ones included.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    filled = n % window if window else 0
    keys, values = (torch.zeros_like(state.keys, dtype=x.dtype) for x in tokens[1:])
    keys[:, :, :filled], values[:, :, :filled] = tokens.k[:, :, n - filled :], tokens.v[:, :, n - filled :]
    return SelfState(keys, values, sums, state.num_read + n)
