"""LAVO token by token: the state after a sequence or a source, and how the next tokens continue from it.

A state stays valid, so any number of continuations can start from the same one.  Its size does not grow.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lavo.blocks import Tokens, accumulation_dtype, chunks
from lavo.chunked import Inputs, causal_forward
from lavo.memory import CausalRead
from lavo.overlap import local_summaries
from lavo.windows import bias_matrix, needs_lse


class SelfState(NamedTuple):
    """The state of a causal sequence: keys and values that the next token can see, and the mean of B e over all tokens.

    The places of a window are filled from the last to the first, so that they run from the newest token to the oldest, as the
    entries of the bias do.  ``Form.num_kept`` places are filled.  Without windows there are none.

    Several states may share these buffers: a state and its continuations.  ``written`` is a list of one number, the places
    that have been written so far, and all states on these buffers share the list object.  A state that has kept so many
    tokens may append in place, because no other state uses the places beyond its own.  Any other state copies its tokens
    first.
    """

    keys: Tensor  # (batch, heads, window, head_dim)
    values: Tensor  # (batch, heads, window, head_dim)
    mean: Tensor  # (batch, heads, 1, rank), in blocks.carry_dtype; zeros before the first token
    num_read: int  # the number of tokens that were read, the same for all rows of the batch
    written: list[int]


class CrossState(NamedTuple):
    """The state of a source: the coefficients H of its memory, which no query changes."""

    mean: Tensor  # H, (batch, heads, rank)


class Form(NamedTuple):
    """What is the same for all tokens of a stream."""

    basis: Tensor | None  # (h, r, d)
    bias: Tensor | None  # (h, window)
    output: str
    overlap: bool  # whether windows overlap

    def block(self, window: int) -> int:
        """Returns the number of tokens of a block; the tokens that are seen change where a block begins."""
        return window // 2 if self.overlap else window

    def num_kept(self, num_read: int, window: int) -> int:
        """Returns how many of the tokens that were read the next token can see in its window."""
        if not window:
            return 0
        block = self.block(window)
        return num_read % block + (block if self.overlap and num_read >= block else 0)


def extend(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Returns the output for new tokens, (b, h, n, d), and the state after them.  tokens: (b, h, n, d) each."""
    n, window = tokens.q.shape[2], state.keys.shape[2]
    if n == 1 and window:
        return _within_block(tokens, form, state)
    # The first ``first`` tokens belong to the current block; the others begin with a new block.
    first = min(n, -state.num_read % form.block(window)) if window else 0
    parts = [tokens.q[:, :, :0]]
    if first:
        out, state = _within_block(Tokens(*(x[:, :, :first] for x in tokens)), form, state)
        parts.append(out)
    if first < n:
        out, state = _new_blocks(Tokens(*(x[:, :, first:] for x in tokens)), form, state)
        parts.append(out)
    return (parts[1] if len(parts) == 2 else torch.cat(parts, 2)), state


def _within_block(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Does what ``extend`` does, for tokens that all belong to the current block.

    The parts below are "local", "compress", "read" and "output" of docs/notation.md.  For one token each call of torch costs
    more than its arithmetic, so there are as few as possible, and views and conversions are made only where they change
    something.
    """
    q, k, v = tokens
    b, h, n, d = q.shape
    dtype, scale, basis = accumulation_dtype(q), d**-0.5, form.basis
    kept = form.num_kept(state.num_read, state.keys.shape[2])
    keys, values, written = _appended(state, kept, k, v)
    key, value = _places(keys, values, keys.shape[2] - kept - n, kept + n)
    query = q
    if q.dtype != dtype:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)

    e, lse = _local(query, key, value, form)
    if basis is None:
        means = _means(state, e)
        a, H = query, means.to(dtype)
    else:
        # From here on (b h, n, d): torch multiplies three dimensions in a fraction of the time that it takes for four.
        basis = basis if b == 1 else basis.repeat(b, 1, 1)
        e, query, lse = e.flatten(0, 1), query.flatten(0, 1), None if lse is None else lse.flatten(0, 1)
        means = _means(state, torch.bmm(e, basis.mT).view(b, h, n, -1))
        a, H = torch.bmm(query, basis.mT), means.to(dtype).flatten(0, 1)

    weights = torch.addcmul(zero(dtype, q.device), a, H, value=scale)
    if lse is None:
        weights = weights.softmax(-1)
    else:
        weights = torch.cat([weights, lse], -1).softmax(-1)
        weights, e = weights[..., :-1], e * weights[..., -1:]
    if form.output == "memory":
        out = weights * H if basis is None else torch.bmm(weights * H, basis)
    else:
        out = torch.addcmul(e, weights, H) if basis is None else torch.baddbmm(e, weights * H, basis)
    out = out if basis is None else out.view(b, h, n, d)
    state = SelfState(keys, values, means if n == 1 else means[:, :, -1:], state.num_read + n, written)
    return out if out.dtype == q.dtype else out.to(q.dtype), _settled(state, kept + n, form)


def _local(q: Tensor, k: Tensor, v: Tensor, form: Form) -> tuple[Tensor, Tensor | None]:
    """Returns the local summaries, (b, h, n, d), and their log-sum-exps, (b, h, n, 1), if the output needs them.

    q: (b, h, n, d).  k, v: (b, h, kept + n, d), from the newest token to the oldest.
    """
    b, h, n, d = q.shape
    # torch's kernel is one call where the formula is three.  It gives no log-sum-exps, and on other devices it has other limits.
    fused = n == 1 and not needs_lse(form.output) and q.device.type == "cpu"
    bias = _bias_by_key(form.bias, k.shape[2] - n, n, q)
    if fused:
        return F.scaled_dot_product_attention(q, k, v, bias), None
    if bias is None:
        scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).mul_(d**-0.5)
    else:
        bias = bias.expand(b, h, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=d**-0.5)
    lse = scores.logsumexp(-1, keepdim=True).view(b, h, n, 1) if needs_lse(form.output) else None
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(b, h, n, d), lse


def _places(keys: Tensor, values: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Returns views of some places of two buffers of one shape, contiguous, from ``first`` on: (b, h, count, d) each.

    ``narrow`` takes twice as long.
    """
    b, h, window, d = keys.shape
    size, strides, offset = (b, h, count, d), (h * window * d, window * d, d, 1), first * d
    return (
        keys.as_strided(size, strides, keys.storage_offset() + offset),
        values.as_strided(size, strides, values.storage_offset() + offset),
    )


def _means(state: SelfState, c: Tensor) -> Tensor:
    """Returns the mean after each of the new tokens, (b, h, n, r), in the dtype of the state's.  c: B e of the new tokens."""
    if c.shape[2] == 1:
        return torch.lerp(state.mean, c.to(state.mean.dtype), 1 / (state.num_read + 1))
    count = torch.arange(state.num_read + 1, state.num_read + 1 + c.shape[2], device=c.device)
    return (state.mean * state.num_read + c.cumsum(2, dtype=state.mean.dtype)) / count[:, None]


@cache
def zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a zero without dimensions, which is made only once."""
    return torch.zeros((), dtype=dtype, device=device)


def _appended(state: SelfState, kept: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Returns keys, values and ``written`` of a state that has kept ``kept`` tokens of ``state``, and then k and v."""
    keys, values, written = state.keys, state.values, state.written
    if written[0] != kept or keys.dtype != k.dtype or keys.is_inference() != torch.is_inference_mode_enabled():
        keys, values = (torch.empty_like(old, dtype=new.dtype) for old, new in ((keys, k), (values, v)))
        if kept:
            first = keys.shape[2] - kept
            keys[:, :, first:], values[:, :, first:] = state.keys[:, :, first:], state.values[:, :, first:]
        written = [kept]
    n = k.shape[2]
    new_keys, new_values = _places(keys, values, keys.shape[2] - kept - n, n)
    new_keys.copy_(k if n == 1 else k.flip(2))
    new_values.copy_(v if n == 1 else v.flip(2))
    written[0] = kept + n
    return keys, values, written


def _settled(state: SelfState, filled: int, form: Form) -> SelfState:
    """Returns the state with its tokens in new buffers if the last token was the end of a block, and some are seen no more.

    filled: the number of places that hold tokens.
    """
    window = state.keys.shape[2]
    kept = form.num_kept(state.num_read, window)
    if kept == filled:
        return state
    first = window - filled
    return keeping(state, state.keys[:, :, first : first + kept], state.values[:, :, first : first + kept])


def keeping(state: SelfState, k: Tensor, v: Tensor) -> SelfState:
    """Returns the state with these keys and values in new buffers.  k, v: (b, h, kept, d), from the newest to the oldest."""
    kept = k.shape[2]
    keys, values = (torch.empty_like(state.keys, dtype=x.dtype) for x in (k, v))
    if kept:
        first = keys.shape[2] - kept
        keys[:, :, first:], values[:, :, first:] = k, v
    return state._replace(keys=keys, values=values, written=[kept])


def _bias_by_key(bias: Tensor | None, kept: int, n: int, query: Tensor) -> Tensor | None:
    """Returns P[t - j] of the new queries against the keys that are kept and new ones; minus infinity for keys of the future.

    kept: the number of keys before the new ones.  n: the number of new tokens.
    Returns (1, h, n, kept + n), h = 1 if there is no bias; None if it would be all zeros.  Keys are in the order of their places.
    """
    if n == 1:
        if bias is None:
            return None
        strides = (0, bias.stride(0), 0, bias.stride(1))
        row = bias.as_strided((1, bias.shape[0], 1, kept + 1), strides, bias.storage_offset())
        return row if row.dtype == query.dtype else row.to(query.dtype)
    distance = torch.arange(kept + n, device=query.device) + torch.arange(1 - n, 1, device=query.device)[:, None]
    if bias is None:
        matrix = query.new_zeros(1, *distance.shape)
    else:
        matrix = bias.to(query.dtype)[:, distance.clamp_min(0)]
    return matrix.masked_fill(distance < 0, float("-inf"))[None]


def _new_blocks(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Does what ``extend`` does, for tokens of which the first begins a new block.

    This is the causal form of a sequence that continues from the sums of the state.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    sums = (state.mean * state.num_read)[:, :, 0]
    if form.overlap:
        before = None
        if state.num_read:
            before = state.keys[:, :, window // 2 :].flip(2), state.values[:, :, window // 2 :].flip(2)
        local = local_summaries(*tokens, form.bias, window=window, causal=True, before=before)
        out = CausalRead.apply(tokens.q, *local, sums, form.basis, form.output, state.num_read, window // 2)
        sums = sums + _sum_of_units(local.e, form.basis, sums.dtype)
    else:
        matrix = bias_matrix(form.bias, min(window, n), window, True, tokens.q) if window else None
        inputs = Inputs(tokens, form.basis, matrix, form.output)
        out = causal_forward(inputs, sums, state.num_read, chunks(tokens.q, window or None)).out
    return out, after_new_blocks(tokens, form, state, sums)


def _sum_of_units(e: Tensor, basis: Tensor | None, dtype: torch.dtype) -> Tensor:
    total = e.sum(2, dtype=dtype)
    return total if basis is None else torch.einsum("bhd,hrd->bhr", total, basis.to(dtype))


def after_new_blocks(tokens: Tokens, form: Form, state: SelfState, sums: Tensor) -> SelfState:
    """Returns the state after tokens of which the first begins a new block.

    state: the state before them.  sums: (b, h, r), the sum of B e over all tokens, the new ones included.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    num_read = state.num_read + n
    kept = form.num_kept(num_read, window)
    k, v = (x[:, :, max(0, n - kept) :].flip(2) for x in (tokens.k, tokens.v))
    if kept > n:  # windows overlap, and the block before is still seen
        first = window - (kept - n)
        k, v = (torch.cat([y, x[:, :, first:].to(y.dtype)], 2) for x, y in ((state.keys, k), (state.values, v)))
    return keeping(state._replace(mean=(sums / num_read)[:, :, None], num_read=num_read), k, v)
