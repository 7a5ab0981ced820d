"""cosFormer: linear attention with ReLU features, reweighted by the cosine of the distance (arXiv 2202.08791).

In the authors' code, the output of a sequence depends on the other sequences of its batch.  Here it does not, because the
length in the angle is a fixed option, positions count only real tokens, and nothing is clamped.

Floating-point operations for one token and head: the product of the 2 d features of k with [v, 1], and the product of the
features of q with the sum, take 4·d·(d + 1) each.  The causal pattern adds, inside chunks of c tokens, 2·c·d for scores (they
are computed without doubled features) and 2·c·(d + 1) for values.  The state is 2·d·(d + 1) numbers for each head.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from baselines.padding import empty_padded, without_padding
from baselines.precision import without_autocast
from baselines.prefix_sum import (
    block_tokens,
    by_blocks,
    causal_sums,
    chunk_starts,
    empty_sums,
    in_chunks,
    normalised,
    with_ones,
)
from benchmark.arguments import check_positive
from benchmark.interface import Pattern, select_rows, state_bytes

CHUNK_SIZE = 64
# The number of features of one block.  On a CPU so many fit into the cache; on a GPU they are enough to keep it busy.
BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}


class CosformerState(NamedTuple):
    """The streaming state."""

    sums: Tensor  # (b, h, 2 d, d + 1), Σ φ(k) [v, 1] over the keys that were read
    position: int  # the position of the next query


class CosformerAttention(nn.Module):
    """o_i = Σ_j a_ij v_j / Σ_j a_ij with a_ij = ReLU(q_i)·ReLU(k_j) cos( π (i − j) / (2 max_length) ).

    max_length   the longest length that is accepted, because beyond it weights would be negative.  It determines the angles,
                 so tasks set it from their own lengths
    """

    version = 1
    unsupported: dict[str, str] = {}
    linear_state = True
    linear_values = True
    needs_max_length = True
    kernel = "torch_chunked"

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int, max_length: int = 8192) -> None:
        super().__init__()
        check_positive("max_length", max_length)
        self.pattern, self.num_heads, self.head_dim, self.max_length = pattern, num_heads, head_dim, max_length

    def extra_repr(self) -> str:
        """Returns the options, as ``repr`` of the module shows them."""
        return f"pattern={self.pattern!r}, max_length={self.max_length}"

    @without_autocast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the attention of q, (b, h, n, d), to k and v, (b, h, m, d).  Returns (b, h, n, d).

        key_padding_mask: (b, m), True where padded, or None.
        """
        if self.pattern == "causal_self":
            if key_padding_mask is None:
                return self._causal(q, k, v)
            return without_padding(self._causal, q, k, v, key_padding_mask)
        sums = self._source_sums(k, v, key_padding_mask)
        if key_padding_mask is None or self.pattern.endswith("_cross"):
            return self._read(q, CosformerState(sums, 0))[0]
        q = empty_padded(q, key_padding_mask)
        return empty_padded(
            self._read(q, CosformerState(sums, 0), real_positions(key_padding_mask))[0], key_padding_mask
        )

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the formula with all weights a_ij in one (n, m) matrix: the reference that ``forward`` is checked against."""
        n, m = q.shape[2], k.shape[2]
        i, j = (
            torch.arange(n, device=q.device).expand(q.shape[0], n),
            torch.arange(m, device=q.device).expand(len(k), m),
        )
        if key_padding_mask is not None:
            k, v = empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask)
            j = real_positions(key_padding_mask)
            if self.pattern.endswith("_self"):
                q, i = empty_padded(q, key_padding_mask), j
        distance = (i[:, None, :, None] - j[:, None, None, :]).to(q.dtype)
        weights = (q.relu() @ k.relu().mT) * (distance * (math.pi / (2 * self.max_length))).cos()
        if self.pattern == "causal_self":
            weights = weights.tril()
        total = weights.sum(-1, keepdim=True)
        return (weights @ v) / total.masked_fill(total == 0, 1)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> CosformerState:
        """Returns the state before the first token, for the pattern ``causal_self``."""
        return self._empty(batch_size, device=device, dtype=dtype)

    @without_autocast
    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: CosformerState) -> tuple[Tensor, CosformerState]:
        """Attends from the new tokens to all earlier tokens and to one another, causally.  q, k, v: (b, h, n, d)."""
        return self._extend(q, k, v, state)

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> CosformerState:
        """Returns the state for ``causal_cross``: the sums over a complete source.  k, v: (b, h, m, d)."""
        return CosformerState(self._source_sums(k, v, key_padding_mask), 0)

    @without_autocast
    def read(self, q: Tensor, state: CosformerState) -> tuple[Tensor, CosformerState]:
        """Attends from the next queries, (b, h, n, d), to the source.  The new state has the position after them."""
        return self._read(q, state)

    def select(self, state: CosformerState, rows: Tensor) -> CosformerState:
        """Returns the state of these rows of the batch.  rows: (new batch,) int64."""
        return select_rows(state, rows)

    def state_bytes(self, state: CosformerState) -> int:
        """Returns the bytes of the sums."""
        return state_bytes(state)

    def _empty(self, batch_size: int, *, device: Any, dtype: Any) -> CosformerState:
        d = self.head_dim
        return CosformerState(empty_sums(batch_size, self.num_heads, 2 * d, d, device=device, dtype=dtype), 0)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._extend(q, k, v, self._empty(q.shape[0], device=q.device, dtype=q.dtype))[0]

    def _extend(self, q: Tensor, k: Tensor, v: Tensor, state: CosformerState) -> tuple[Tensor, CosformerState]:
        step = functools.partial(causal_block, angle=self._angle)
        return by_blocks(step, (q, k, v), state, chunk_size=CHUNK_SIZE, block_size=self._block_size(q))

    @without_autocast
    def _source_sums(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """Returns Σ φ(k) [v, 1] over a whole source, (b, h, 2 d, d + 1)."""
        positions = token_positions(k) if key_padding_mask is None else real_positions(key_padding_mask)[:, None]
        k, v = empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask)
        step = functools.partial(source_block, angle=self._angle)
        empty = self._empty(k.shape[0], device=k.device, dtype=k.dtype)
        sequences = (k, v, positions)
        return by_blocks(step, sequences, empty.sums, chunk_size=CHUNK_SIZE, block_size=self._block_size(k))[1]

    def _read(self, q: Tensor, state: CosformerState, positions: Tensor | None = None) -> tuple[Tensor, CosformerState]:
        """Attends from queries to the sums of a source.

        positions: (b, n), the positions of the queries; None means that they follow those of the state.
        """
        positions = token_positions(q) + state.position if positions is None else positions[:, None]
        step = functools.partial(read_block, angle=self._angle)
        out, _ = by_blocks(step, (q, positions), state.sums, chunk_size=CHUNK_SIZE, block_size=self._block_size(q))
        return out, CosformerState(state.sums, state.position + q.shape[2])

    @property
    def _angle(self) -> float:
        """The angle between two neighbouring positions."""
        return math.pi / (2 * self.max_length)

    def _block_size(self, q: Tensor) -> int:
        return block_tokens(q, 2 * self.head_dim, elements=BLOCK_ELEMENTS.get(q.device.type, 1 << 26))


def token_positions(x: Tensor) -> Tensor:
    """Returns the positions 0, 1, 2, … of the tokens of x, as (1, 1, n)."""
    return torch.arange(x.shape[2], device=x.device)[None, None]


def real_positions(key_padding_mask: Tensor) -> Tensor:
    """Returns the positions of tokens if only real tokens count: the number of real tokens before each one, (b, m)."""
    return (~key_padding_mask).cumsum(1).sub(1).clamp_min(0)


def features(x: Tensor, positions: Tensor, angle: float) -> Tensor:
    """Returns [ReLU(x) cos θ, ReLU(x) sin θ], (…, 2 d), with θ = position · angle.

    Because cos(a − b) = cos a cos b + sin a sin b, the product of a query's and a key's features is their weight.
    """
    theta = (positions.double() * angle)[..., None]  # in float32, large positions would lose digits
    x = x.relu()
    return torch.cat((x * theta.cos().to(x.dtype), x * theta.sin().to(x.dtype)), -1)


def causal_block(
    q: Tensor, k: Tensor, v: Tensor, state: CosformerState, *, angle: float
) -> tuple[Tensor, CosformerState]:
    """Returns the output of a block of tokens, and the state after it.

    q, k, v: (b, h, n, d); n is a multiple of the chunk size, or less than one chunk.
    """
    dtype = state.sums.dtype
    n = q.shape[2]
    if n == 0:
        return q, state
    positions = in_chunks(token_positions(q) + state.position, CHUNK_SIZE)
    q_chunks, k_chunks, values = (in_chunks(x.to(dtype), CHUNK_SIZE) for x in (q, k, with_ones(v)))
    q_features, k_features = features(q_chunks, positions, angle), features(k_chunks, positions, angle)
    before, total = chunk_starts(k_features.mT @ values, state.sums)
    steps = torch.arange(values.shape[3], device=q.device)
    cosines = ((steps[:, None] - steps).double() * angle).cos().tril().to(dtype)
    scores = (q_chunks.relu() @ k_chunks.relu().mT) * cosines
    out = normalised(causal_sums(scores, q_features, values, before))
    return out.flatten(2, 3).to(q.dtype), CosformerState(total, state.position + n)


def source_block(k: Tensor, v: Tensor, positions: Tensor, sums: Tensor, *, angle: float) -> tuple[Tensor, Tensor]:
    """Returns the sums with a block of a source, (b, h, m, d), added.

    The first of the two results, the output in ``by_blocks``, is empty, because there are no queries.
    """
    k, v = k.to(sums.dtype), v.to(sums.dtype)
    return v[:, :, :0], sums + features(k, positions, angle).mT @ with_ones(v)


def read_block(q: Tensor, positions: Tensor, sums: Tensor, *, angle: float) -> tuple[Tensor, Tensor]:
    """Returns the output of a block of queries, (b, h, n, d), and the sums, which do not change."""
    return normalised(features(q.to(sums.dtype), positions, angle) @ sums).to(q.dtype), sums
