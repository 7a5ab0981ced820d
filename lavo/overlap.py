"""Self-attention in windows that overlap (option ``window_overlap``).

Plain windows are consecutive blocks of w tokens.  The first token of a block sees nothing before itself, and the last one sees
w − 1 tokens back.  With overlap, blocks have w / 2 tokens, and a token sees its own block and the one before it:

    W(t) = { j : ⌊t/h⌋ − 1 ≤ ⌊j/h⌋ ≤ ⌊t/h⌋, and j ≤ t },         h = w / 2         causal
    W(t) = { j : |⌊t/h⌋ − ⌊j/h⌋| ≤ 1 }                                             noncausal

So a token sees at least w / 2 and at most w − 1 tokens back (noncausal: also ahead), as far as the sequence goes.  Distances
t − j are those of plain windows, and so is the shape of the bias.  The causal form takes as many operations as plain windows,
4·w·d for a token and head, and the noncausal form 6·w·d, because it sees three blocks.

Everything after the windows is the same.  This file computes e and l for a whole sequence, some blocks at a time, and
leaves the memory to memory.py (causal) or to ``read_shared`` (noncausal).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lavo.blocks import accumulation_dtype, carry_dtype
from lavo.memory import CausalRead, no_sums
from lavo.windows import Local

SPAN_ROWS = 16384  # rows (batch x heads x tokens) that are computed at a time, so that temporaries stay small


def self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor | None,
    *,
    window: int,
    bias: Tensor | None,
    causal: bool,
    output: str,
    lengths: Tensor | None,
) -> Tensor:
    """Computes LAVO with overlapping windows over one sequence.  Arguments and result are those of ``chunked.self_attention``."""
    if 0 in q.shape:
        return q + k + v
    dtype = accumulation_dtype(q)
    basis = None if basis is None else basis.to(dtype)
    e, lse = local_summaries(q, k, v, bias, window=window, causal=causal, lengths=lengths)
    if causal:
        return CausalRead.apply(q, e, lse, no_sums(q, basis), basis, output, 0, window // 2)
    if lengths is None:
        mean = e.sum(2, dtype=carry_dtype(q.device)) / q.shape[2]
    else:
        padded = torch.arange(q.shape[2], device=q.device) >= lengths[:, None]
        mean = e.masked_fill(padded[:, None, :, None], 0).sum(2, dtype=carry_dtype(q.device))
        mean = mean / lengths.clamp_min(1)[:, None, None]
    H = mean.to(dtype) if basis is None else torch.einsum("hrd,bhd->bhr", basis, mean.to(dtype))
    return read_shared(q.to(dtype), e, lse, H, basis, output).to(q.dtype)


def read_shared(q: Tensor, e: Tensor, lse: Tensor | None, H: Tensor, basis: Tensor | None, output: str) -> Tensor:
    """Returns the output, (b, h, n, d), if all queries share one memory.

    q, e: (b, h, n, d).  lse: (b, h, n).  H: (b, h, r).  basis: (h, r, d) or None.
    """
    H = H[:, :, None]
    a = q if basis is None else q @ basis.mT
    scores = a * (H * q.shape[3] ** -0.5)
    if output == "joint" and lse is not None:
        weights = torch.cat([scores, lse[..., None]], -1).softmax(-1)
        weights, e = weights[..., :-1], e * weights[..., -1:]
    else:
        weights = scores.softmax(-1)
    read = weights * H if basis is None else (weights * H) @ basis
    return read if output == "memory" else read + e


def local_summaries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    window: int,
    causal: bool,
    lengths: Tensor | None = None,
    before: tuple[Tensor, Tensor] | None = None,
) -> Local:
    """Returns the local summaries e (b, h, n, d) and their log-sum-exps (b, h, n), in float32 at least.

    q, k, v: (b, h, n, d), of which the first token begins a block.  bias: (h, window) if ``causal``, else (h, 2 window - 1).
    lengths: (b,), the number of real tokens of each row, or None if all are real.
    before: keys and values of the block before the first token, (b, h, window / 2, d) each; None at the start of a sequence.
    """
    half, n = window // 2, q.shape[2]
    after = -n % half  # the last block is filled up
    ahead = 0 if causal else half  # and one more block follows for the noncausal form
    place = torch.arange(-half, n + after + ahead, device=q.device)
    hidden = (place >= n) | ((place < 0) if before is None else False)
    hidden = hidden[None] if lengths is None else hidden | (place >= lengths[:, None])
    if before is None:
        k, v = (F.pad(x, (0, 0, half, after + ahead)) for x in (k, v))
    else:
        k, v = (F.pad(torch.cat([x, y], 2), (0, 0, 0, after + ahead)) for x, y in zip(before, (k, v), strict=True))
    e, lse = _OverlappingWindows.apply(F.pad(q, (0, 0, 0, after)), k, v, bias_by_key(bias, half, causal, q), hidden)
    return Local(e[:, :, :n], lse[:, :, :n])


def bias_by_key(bias: Tensor | None, half: int, causal: bool, q: Tensor) -> Tensor:
    """Returns P[t - j] for the tokens t of a block and the keys j that they see; minus infinity for j > t if ``causal``.

    bias: (h, 2 half) if ``causal``, else (h, 4 half - 1); None gives zeros in place of P.
    Returns (h or 1, half, keys): the keys are those of the block before, of the own block, and if not ``causal`` of the next.
    """
    dtype = accumulation_dtype(q)
    t, j = torch.arange(half, device=q.device), torch.arange(-half, half if causal else 2 * half, device=q.device)
    distance = t[:, None] - j[None, :]
    if bias is None:
        matrix = torch.zeros(1, *distance.shape, dtype=dtype, device=q.device)
    else:
        matrix = bias.to(dtype)[:, distance.clamp_min(0) if causal else distance + 2 * half - 1]
    return matrix.masked_fill(distance < 0, float("-inf")) if causal else matrix


class _OverlappingWindows(torch.autograd.Function):
    """Returns e (b, h, n, d) and l (b, h, n).  n is a multiple of the tokens of a block.

    q: (b, h, n, d).  k, v: (b, h, n + one or two blocks, d).  bias: (h or 1, block, keys), from ``bias_by_key``.
    hidden: (b or 1, length of k), True for keys that do not exist.
    Only the inputs are kept for the backward pass, which computes each span of blocks again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, bias, hidden)
        e = torch.empty(q.shape, dtype=bias.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=bias.dtype, device=q.device)
        for own, seen in _spans(q, k, bias.shape[1]):
            tokens = (q[:, :, own], k[:, :, seen], v[:, :, seen])
            e[:, :, own], lse[:, :, own] = _attend(*tokens, bias, hidden[:, seen])
        return e, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, de: Tensor, dlse: Tensor) -> tuple:
        q, k, v, bias, hidden = ctx.saved_tensors
        dq, dk, dv, dbias = (torch.zeros_like(x) for x in (q, k, v, bias))
        for own, seen in _spans(q, k, bias.shape[1]):
            given = (q[:, :, own], k[:, :, seen], v[:, :, seen], bias)
            query, key, value, own_bias = (x.detach().requires_grad_() for x in given)
            with torch.enable_grad():
                found = _attend(query, key, value, own_bias, hidden[:, seen])
            grads = torch.autograd.grad(found, (query, key, value, own_bias), (de[:, :, own], dlse[:, :, own]))
            dq[:, :, own] = grads[0]
            # A block is seen by its own span and by the spans beside it, so these gradients add up.
            for total, grad in ((dk[:, :, seen], grads[1]), (dv[:, :, seen], grads[2]), (dbias, grads[3])):
                total += grad
        return dq, dk, dv, dbias if ctx.needs_input_grad[3] else None, None


def _spans(q: Tensor, k: Tensor, block: int) -> Iterator[tuple[slice, slice]]:
    """Yields spans of whole blocks: the places of their tokens in q, and of the keys that these tokens see in k."""
    n, more = q.shape[2], k.shape[2] - q.shape[2]
    step = max(1, SPAN_ROWS // (q.shape[0] * q.shape[1] * block)) * block
    for first in range(0, n, step):
        last = min(n, first + step)
        yield slice(first, last), slice(first, last + more)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Computes e and l of a span; arguments and results as those of ``_OverlappingWindows``."""
    block, num_keys = bias.shape[1:]
    query = q.to(bias.dtype).unflatten(2, (-1, block))  # (b, h, blocks, block, d)
    keys, values = (x.to(bias.dtype).unfold(2, num_keys, block) for x in (k, v))  # (b, h, blocks, d, keys)
    scores = query @ keys * q.shape[3] ** -0.5 + bias[:, None]
    # Not minus infinity, because the softmax of a padded token that sees nothing would then be nan.
    hidden = hidden.unfold(1, num_keys, block)[:, None, :, None]
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    e = scores.softmax(-1) @ values.mT
    return e.flatten(2, 3), scores.logsumexp(-1).flatten(2, 3)
