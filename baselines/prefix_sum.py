"""Causal sums of φ(k) v' in chunks, which all kernel attentions use.

A kernel attention maps queries and keys to f features φ >= 0.  Its output is a ratio of two sums over the keys that a query
sees,

    o_t = φ(q_t)·Σ_j φ(k_j) v_j  /  φ(q_t)·Σ_j φ(k_j),

With v' = [v, 1] both are one sum; its last column is the denominator, here called the normaliser.

The sequence is cut into chunks of c tokens.  Inside a chunk the sum is (φ(q) φ(k)ᵀ, on and below the diagonal) v'.  The tokens
before the chunk add φ(q) S, where S = Σ φ(k) v' over these tokens.  One S for each chunk is n·f·d/c numbers; one for each
token would be n·f·d.

Several chunks together are a block.  Autograd keeps only q, k, v and one S for each block, and the backward pass computes the
rest of a block again.  In shapes, g is the number of chunks; the other letters are those of docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from baselines.precision import accumulation_dtype

Step = Callable[..., tuple[Tensor, Any]]


def with_ones(v: Tensor) -> Tensor:
    """Returns v' = [v, 1]: (…, d) -> (…, d + 1)."""
    return F.pad(v, (0, 1), value=1.0)


def causal_sums(scores: Tensor, q_features: Tensor, values: Tensor, before: Tensor) -> Tensor:
    """Returns the sums of every query: over the tokens of its chunk up to the query, plus all tokens before the chunk.

    scores: (b, h, g, c, c) for g chunks, zero above the diagonal.  q_features: (b, h, g, c, f).
    values: v', (b, h, g, c, d + 1).  before: S before each chunk, (b, h, g, f, d + 1).
    Returns (b, h, g, c, d + 1): the numerators, and the normaliser in the last column.
    """
    inside = scores.flatten(0, 2) @ values.flatten(0, 2)
    return torch.baddbmm(inside, q_features.flatten(0, 2), before.flatten(0, 2)).view_as(values)


def chunk_starts(sums: Tensor, start: Tensor, rescale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the sum over all tokens before each chunk, (b, h, g, f, e), and the sum over all tokens, (b, h, f, e).

    sums: (b, h, g, f, e), the sum over each chunk.  start: (b, h, f, e), the sum before the first chunk.
    rescale: (b, h, g + 1, f), for each chunk a factor by which the sum before it is multiplied, and one for the sum after
    the last chunk.
    """
    # unbind is used instead of x[i], because the gradient of each x[i] would have the size of x.
    factors = None if rescale is None else rescale[..., None].unbind(2)
    before, total = [], start
    for i, chunk_sum in enumerate(sums.unbind(2)):
        if factors is not None:
            total = total * factors[i]
        before.append(total)
        total = total + chunk_sum
    if factors is not None:
        total = total * factors[-1]
    return torch.stack(before, 2), total


def normalised(sums: Tensor) -> Tensor:
    """Divides the numerators by the normaliser, the last column: (…, d + 1) -> (…, d).

    A query that sees no key has 0 / 0 and gets 0.
    """
    numerators, weight = sums.split((sums.shape[-1] - 1, 1), -1)
    return numerators / weight.masked_fill(weight == 0, 1)


def by_blocks(
    step: Step, sequences: tuple[Tensor | None, ...], state: Any, *, chunk_size: int, block_size: int
) -> tuple[Tensor, Any]:
    """Runs ``out, state = step(*block of each sequence, state)`` for every block, from the first to the last.

    sequences: each (b, h, n, …) or None; the step gets None for a None.
    Returns the outputs, joined over tokens, and the last state.
    Autograd keeps only the state before each block and computes the rest again.  It keeps everything of the last block,
    because the backward pass begins there.
    """
    seq_len = next(x.shape[2] for x in sequences if x is not None)
    sizes = block_sizes(seq_len, chunk_size, block_size)
    # split is used instead of slices, because the gradient of each slice would have the length of the whole sequence.
    blocks = zip(*(x.split(sizes, 2) if x is not None else [None] * len(sizes) for x in sequences), strict=True)
    outputs = []
    for i, block in enumerate(blocks):
        if torch.is_grad_enabled() and i < len(sizes) - 1:
            out, state = checkpoint(step, *block, state, use_reentrant=False, preserve_rng_state=False)
        else:
            out, state = step(*block, state)
        outputs.append(out)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), state


def block_sizes(seq_len: int, chunk_size: int, block_size: int) -> list[int]:
    """Returns the number of tokens of each block.

    Blocks consist of whole chunks.  If the last tokens do not fill a chunk, they are a block of their own.  A sequence without
    tokens is one empty block.
    """
    per_block = max(block_size // chunk_size, 1) * chunk_size
    rest = seq_len % chunk_size
    whole = seq_len - rest
    sizes = [per_block] * (whole // per_block) + [whole % per_block, rest]
    return [size for size in sizes if size] or [0]


def in_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """Views tokens as chunks: (b, h, n, …) -> (b, h, g, c, …).

    n must be a multiple of the chunk size, or less than one chunk, which gives one shorter chunk.
    """
    size = max(min(chunk_size, x.shape[2]), 1)
    return x.unflatten(2, (x.shape[2] // size, size))


def block_tokens(q: Tensor, num_features: int, *, elements: int) -> int:
    """Returns how many tokens a block may have so that its features are about ``elements`` numbers."""
    return max(elements // max(q.shape[0] * q.shape[1] * num_features, 1), 1)


def empty_sums(batch_size: int, num_heads: int, num_features: int, head_dim: int, *, device: Any, dtype: Any) -> Tensor:
    """Returns S before the first token: zeros (b, h, f, d + 1), in float32 at least."""
    start = torch.zeros(batch_size, num_heads, num_features, head_dim + 1, device=device, dtype=dtype)
    return start.to(accumulation_dtype(start))
