"""Exact softmax attention as a product, a softmax and a product.

It is the baseline that is quadratic in time and memory, because it holds the (n, m) matrix of weights.  No fused kernel runs
under this name; ``flash`` is the same function by fused kernels.  Two products of n·m·d make 4·m·d operations a query.  The
causal patterns take as many, because scores of the future are computed and then hidden.
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
    """A finished source: its keys and values (b, h, m, d), padded tokens emptied, and its mask (b, m) or None."""

    keys: Tensor
    values: Tensor
    key_padding_mask: Tensor | None


class SoftmaxAttention(nn.Module):
    """o_i = Σ_j softmax_j( q_i·k_j / √d ) v_j."""

    version = 1
    unsupported: dict[str, str] = {}
    exact = True
    kernel = "matmul"

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"pattern={self.pattern!r}"

    @without_autocast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """q: (b, h, n, d).  k, v: (b, h, m, d).  key_padding_mask: (b, m), True where padded.  Returns the shape of q."""
        return padded_softmax_attention(
            q, k, v, key_padding_mask, pattern=self.pattern, weights_dtype=accumulation_dtype(q)
        )

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """The same with weights in the inputs' own precision."""
        return padded_softmax_attention(q, k, v, key_padding_mask, pattern=self.pattern, weights_dtype=q.dtype)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> KeyValueCache:
        """The empty cache of ``causal_self``."""
        return empty_cache(batch_size, self.num_heads, self.head_dim, device=device, dtype=dtype)

    @without_autocast
    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Attends from the new tokens to all that were read and to one another.  q, k, v: (b, h, n, d)."""
        state = append(state, k, v)
        return softmax_attention(
            q, *cached(state), hidden=future(q, state.length), weights_dtype=accumulation_dtype(q)
        ), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Source:
        """Keeps the keys and values of a finished source, (b, h, m, d)."""
        return Source(empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask), key_padding_mask)

    @without_autocast
    def read(self, q: Tensor, state: Source) -> tuple[Tensor, Source]:
        """Attends from the next queries (b, h, n, d) to the source."""
        hidden = None if state.key_padding_mask is None else state.key_padding_mask[:, None, None, :]
        keys, values = state.keys.to(q.dtype), state.values.to(q.dtype)
        return softmax_attention(q, keys, values, hidden=hidden, weights_dtype=accumulation_dtype(q)), state

    def select(self, state: KeyValueCache | Source, rows: Tensor) -> KeyValueCache | Source:
        """The state of these rows of the batch."""
        return select_cached(state, rows) if isinstance(state, KeyValueCache) else select_rows(state, rows)

    def state_bytes(self, state: KeyValueCache | Source) -> int:
        """Bytes of keys, values and mask."""
        return cache_bytes(state) if isinstance(state, KeyValueCache) else state_bytes(state)


def padded_softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, *, pattern: Pattern, weights_dtype: torch.dtype
) -> Tensor:
    """Softmax attention in any pattern, with zeros at the padded tokens of self-attention.

    q: (b, h, n, d).  k, v: (b, h, m, d).  key_padding_mask: (b, m).  weights_dtype: of the softmax.  Returns (b, h, n, d).
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
    """Softmax attention to the keys that are not hidden; a query that sees no key gets zeros.

    q: (b, h, n, d).  k, v: (b, h, m, d).  hidden: broadcasts to (b, h, n, m), True where a query does not see a key.
    """
    if k.shape[2] == 0:
        return zeros_from(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if hidden is None:
        return scores.softmax(-1, dtype=weights_dtype).to(v.dtype) @ v
    # The softmax of a row of -inf is NaN, and so is its gradient.  Such a row keeps its scores and gets weights of zero below.
    blind = hidden.all(-1, keepdim=True)
    weights = scores.masked_fill(hidden & ~blind, float("-inf")).softmax(-1, dtype=weights_dtype)
    return weights.masked_fill(blind, 0).to(v.dtype) @ v


def future(q: Tensor, source_len: int) -> Tensor:
    """(n, m), True where a key comes after the query.  The last query stands where the last key stands."""
    target_len = q.shape[2]
    return torch.ones(target_len, source_len, dtype=torch.bool, device=q.device).triu(source_len - target_len + 1)
