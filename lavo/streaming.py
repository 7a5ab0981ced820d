"""LAVO token by token: the state after a sequence or a source, and how the next tokens continue from it.

A state stays valid, so any number of continuations can start from the same one.  Its size does not grow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavo.blocks import Tokens, accumulation_dtype, chunks
from lavo.chunked import Inputs, causal_forward
from lavo.memory import CausalRead
from lavo.overlap import local_summaries
from lavo.windows import bias_matrix


class SelfState(NamedTuple):
    """The state of a causal sequence: keys and values that the next token can see, and the sum of B e over all tokens.

    The first ``num_kept`` places of ``keys`` and ``values`` are filled.  Without windows there are no places.  Several states may
    share these buffers: a state and its continuations.  ``written`` is a list of one number, the places that have been
    written so far, and all states on these buffers share the list object.  A state that has kept so many tokens may append
    in place, because no other state uses the places after its own.  Any other state copies its tokens first.
    """

    keys: Tensor  # (batch, heads, window, head_dim)
    values: Tensor  # (batch, heads, window, head_dim)
    sums: Tensor  # (batch, heads, rank), in blocks.carry_dtype
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

    The parts below are "local", "compress", "read" and "output" of docs/notation.md.
    """
    q, k, v = tokens
    n, d = q.shape[2:]
    dtype, scale, basis = accumulation_dtype(q), d**-0.5, form.basis
    kept = form.num_kept(state.num_read, state.keys.shape[2])
    keys, values, written = _appended(state, kept, k, v)
    query = q.to(dtype) * scale
    key, value = keys.narrow(2, 0, kept + n).to(dtype), values.narrow(2, 0, kept + n).to(dtype)

    scores = query @ key.mT
    if n > 1 or form.bias is not None:
        scores += _bias_by_key(form.bias, kept, n, scores)
    e = scores.softmax(-1) @ value

    c, a = (e, query) if basis is None else (e @ basis.mT, query @ basis.mT)
    if n == 1:
        sums = state.sums.unsqueeze(2) + c
        H = (sums / (state.num_read + 1)).to(dtype)
    else:
        sums = state.sums.unsqueeze(2) + c.cumsum(2, dtype=state.sums.dtype)
        H = (sums / torch.arange(state.num_read + 1, state.num_read + n + 1, device=q.device)[:, None]).to(dtype)

    unit_scores = a * H
    if form.output == "joint":
        weights = torch.cat([unit_scores, scores.logsumexp(-1, keepdim=True)], -1).softmax(-1)
        weights, e = weights[..., :-1], e * weights[..., -1:]
    else:
        weights = unit_scores.softmax(-1)
    if form.output == "memory":
        out = weights * H if basis is None else (weights * H) @ basis
    else:
        out = torch.addcmul(e, weights, H) if basis is None else e + (weights * H) @ basis
    state = _settled(SelfState(keys, values, sums[:, :, -1], state.num_read + n, written), kept + n, form)
    return out.to(q.dtype), state


def _appended(state: SelfState, kept: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Returns keys, values and ``written`` of a state whose first ``kept`` places are those of ``state``, and k and v follow."""
    keys, values, written = state.keys, state.values, state.written
    if written[0] != kept or keys.dtype != k.dtype or keys.is_inference() != torch.is_inference_mode_enabled():
        keys, values = (torch.empty_like(old, dtype=new.dtype) for old, new in ((keys, k), (values, v)))
        if kept:
            keys[:, :, :kept], values[:, :, :kept] = state.keys[:, :, :kept], state.values[:, :, :kept]
        written = [kept]
    n = k.shape[2]
    keys.narrow(2, kept, n).copy_(k)
    values.narrow(2, kept, n).copy_(v)
    written[0] = kept + n
    return keys, values, written


def _settled(state: SelfState, filled: int, form: Form) -> SelfState:
    """Returns the state with its tokens in the first places of new buffers, if the last token was the end of a block.

    filled: the number of places that hold tokens.
    """
    kept = form.num_kept(state.num_read, state.keys.shape[2])
    return state if kept == filled else state_after(state, kept, state.keys[:, :, :filled], state.values[:, :, :filled])


def state_after(state: SelfState, kept: int, k: Tensor, v: Tensor) -> SelfState:
    """Returns the state with the last ``kept`` of these keys and values in new buffers.  k, v: (b, h, at least kept, d)."""
    keys, values = (torch.empty_like(state.keys, dtype=x.dtype) for x in (k, v))
    first = k.shape[2] - kept
    keys[:, :, :kept], values[:, :, :kept] = k[:, :, first:], v[:, :, first:]
    return state._replace(keys=keys, values=values, written=[kept])


def _bias_by_key(bias: Tensor | None, kept: int, n: int, scores: Tensor) -> Tensor:
    """Returns P[t - j] of the new queries against all keys that they may see; minus infinity for keys of the future.

    kept: the number of keys before the new ones.  n: the number of new tokens.
    Returns (h, n, kept + n), or (1, n, kept + n) if there is no bias.
    """
    if n == 1 and bias is not None:
        return bias[:, None, : kept + 1].flip(2).to(scores.dtype)
    steps = torch.arange(kept + n, device=scores.device)
    distance = steps[kept:, None] - steps[None, :]
    matrix = scores.new_zeros(1, *distance.shape) if bias is None else bias.to(scores.dtype)[:, distance.clamp_min(0)]
    return matrix.masked_fill(distance < 0, float("-inf"))


def _new_blocks(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Does what ``extend`` does, for tokens of which the first begins a new block.

    This is the causal form of a sequence that continues from the sums of the state.
    """
    n, window = tokens.q.shape[2], state.keys.shape[2]
    if form.overlap:
        before = (state.keys[:, :, : window // 2], state.values[:, :, : window // 2]) if state.num_read else None
        local = local_summaries(*tokens, form.bias, window=window, causal=True, before=before)
        sums = state.sums + _sum_of_units(local.e, form.basis, state.sums.dtype)
        out = CausalRead.apply(tokens.q, *local, state.sums, form.basis, form.output, state.num_read, window // 2)
    else:
        matrix = bias_matrix(form.bias, min(window, n), window, True, tokens.q) if window else None
        sums, cut = state.sums.clone(), chunks(tokens.q, window or None)
        inputs = Inputs(tokens, form.basis, matrix, form.output)
        out = causal_forward(inputs, sums, state.num_read, cut).out
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
    k, v = tokens.k, tokens.v
    if kept > n:  # windows overlap, and some tokens of the block before are still seen
        old = form.num_kept(state.num_read, window)
        k, v = (torch.cat([x[:, :, :old].to(y.dtype), y], 2) for x, y in ((state.keys, k), (state.values, v)))
    return state_after(state._replace(sums=sums, num_read=num_read), kept, k, v)
