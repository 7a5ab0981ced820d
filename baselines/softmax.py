"""Exact softmax attention as a matrix product, a softmax and a second matrix product.

This baseline is quadratic in time and memory, because it holds the (n, m) matrix of weights.  It never runs a fused kernel;
``flash`` computes the same function with fused kernels.  The two products take 4·m·d operations for each query and head.
Causal self-attention takes as many, because scores of the future are computed and then hidden.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from baselines.kv_cache import KeyValueCache, append, cache_bytes, cached, empty_cache, select_cached
from baselines.padding import empty_padded, zeros_from
from baselines.precision import accumulation_dtype, without_autocast
from benchmark.interface import Pattern, select_rows, state_bytes


class Source(NamedTuple):
    """A complete source: its keys and values (b, h, m, d), with zeros at padded tokens, and its mask (b, m) or None."""

    keys: Tensor
    values: Tensor
    key_padding_mask: Tensor | None


class SoftmaxAttention(nn.Module):
    """o_i = Σ_j softmax_j( q_i·k_j / √d ) v_j."""

    version = 1
    unsupported: dict[str, str] = {}
    exact = True
    normalised = True
    linear_values = True
    kernel = "matmul"

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def extra_repr(self) -> str:
        """Returns the options, as ``repr`` of the module shows them."""
        return f"pattern={self.pattern!r}"

    @without_autocast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the attention of q, (b, h, n, d), to k and v, (b, h, m, d).  Returns (b, h, n, d).

        key_padding_mask: (b, m), True where padded, or None.
        """
        return padded_softmax_attention(
            q, k, v, key_padding_mask, pattern=self.pattern, weights_dtype=accumulation_dtype(q)
        )

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the same with weights in the precision of the inputs: the reference that ``forward`` is checked against."""
        return padded_softmax_attention(q, k, v, key_padding_mask, pattern=self.pattern, weights_dtype=q.dtype)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> KeyValueCache:
        """Returns an empty cache, the state for the pattern ``causal_self``."""
        return empty_cache(batch_size, self.num_heads, self.head_dim, device=device, dtype=dtype)

    @without_autocast
    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Attends from the new tokens to all earlier tokens and to one another, causally.  q, k, v: (b, h, n, d)."""
        state = append(state, k, v)
        return softmax_attention(
            q, *cached(state), hidden=future(q, state.length), weights_dtype=accumulation_dtype(q)
        ), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Source:
        """Returns the state for ``causal_cross``: the keys and values of a complete source.  k, v: (b, h, m, d)."""
        return Source(empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask), key_padding_mask)

    @without_autocast
    def read(self, q: Tensor, state: Source) -> tuple[Tensor, Source]:
        """Attends from the next queries (b, h, n, d) to the source."""
        hidden = None if state.key_padding_mask is None else state.key_padding_mask[:, None, None, :]
        keys, values = state.keys.to(q.dtype), state.values.to(q.dtype)
        return softmax_attention(q, keys, values, hidden=hidden, weights_dtype=accumulation_dtype(q)), state

    def select(self, state: KeyValueCache | Source, rows: Tensor) -> KeyValueCache | Source:
        """Returns the state of these rows of the batch.  rows: (new batch,) int64."""
        return select_cached(state, rows) if isinstance(state, KeyValueCache) else select_rows(state, rows)

    def state_bytes(self, state: KeyValueCache | Source) -> int:
        """Returns the bytes of keys, values and mask."""
        return cache_bytes(state) if isinstance(state, KeyValueCache) else state_bytes(state)


def padded_softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, *, pattern: Pattern, weights_dtype: torch.dtype
) -> Tensor:
    """Computes softmax attention in any pattern.  In self-attention, padded tokens get zeros.

    q: (b, h, n, d).  k, v: (b, h, m, d).  key_padding_mask: (b, m) or None.  weights_dtype: the dtype of the softmax.
    Returns (b, h, n, d).
    """
    hidden = future(q, k.shape[2]) if pattern == "causal_self" else None
    if key_padding_mask is None:
        return softmax_attention(q, k, v, hidden=hidden, weights_dtype=weights_dtype)
    padded = key_padding_mask[:, None, None, :]
    hidden = padded if hidden is None else padded | hidden
    k, v = empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask)
    if pattern.endswith("_cross"):
        return softmax_attention(q, k, v, hidden=hidden, weights_dtype=weights_dtype)
    out = softmax_attention(empty_padded(q, key_padding_mask), k, v, hidden=hidden, weights_dtype=weights_dtype)
    return empty_padded(out, key_padding_mask)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, hidden: Tensor | None, weights_dtype: torch.dtype) -> Tensor:
    """Computes softmax attention to the keys that are not hidden.  A query that sees no key gets zeros.

    q: (b, h, n, d).  k, v: (b, h, m, d).  hidden: broadcasts to (b, h, n, m), True where a query does not see a key.
    """
    if k.shape[2] == 0:
        return zeros_from(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if hidden is None:
        return scores.softmax(-1, dtype=weights_dtype).to(v.dtype) @ v
    # The softmax of a row of -inf is NaN, and so is its gradient.  So a query that sees no key keeps its scores here, and its
    # weights are set to zero below.
    blind = hidden.all(-1, keepdim=True)
    weights = scores.masked_fill(hidden & ~blind, float("-inf")).softmax(-1, dtype=weights_dtype)
    return weights.masked_fill(blind, 0).to(v.dtype) @ v


def future(q: Tensor, source_len: int) -> Tensor:
    """Returns (n, m), True where a key comes after the query.  The last query has the position of the last key."""
    target_len = q.shape[2]
    return torch.ones(target_len, source_len, dtype=torch.bool, device=q.device).triu(source_len - target_len + 1)
