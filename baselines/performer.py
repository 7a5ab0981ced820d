"""Performer: softmax attention by positive orthogonal random features, FAVOR+ (arXiv 2009.14794).

The logarithms of the features are computed first, and a reference is subtracted from them before the exponential, so that
nothing overflows.  For keys there is one reference for each feature, a maximum over keys that all the queries see; it is part
of the state.  For a query it is the maximum of its own features.  Both references cancel in the ratio of the output, so there
is no ε and no clamp, and a later key changes no earlier output.

Floating-point operations for one token and head: 2·f·d for the features of q and 2·f·(d + 1) for those of k; 2·f·(d + 1) each
for the product of the features of k with [v, 1], and of the features of q with the sum.  The causal pattern adds, inside
chunks of c tokens, 2·c·f for scores and 2·c·(d + 1) for values.  The state is f·(d + 1) sums and f maxima for each head.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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
# How far a key's log feature may be above the reference.  e^60 times a chunk of values is far below 3e38, the largest number of
# float32.
LARGEST_RISE = 60.0


class PerformerState(NamedTuple):
    """The streaming state, over the keys that were read."""

    sums: Tensor  # (b, h, f, d + 1), Σ_j e^{log φ(k_j) − c} [v_j, 1]
    maxima: Tensor  # (b, h, f), c = max_j log φ(k_j)


class PerformerAttention(nn.Module):
    """o_i = φ(q_i)·Σ_j φ(k_j) v_j / φ(q_i)·Σ_j φ(k_j),  φ(x) = f^{−1/2} exp( Ω x' − |x'|²/2 ),  x' = x / d^{1/4}.

    num_features      f, the number of rows of Ω; the default is that of the paper
    redraw_interval   the number of forward calls in training after which Ω is drawn again; 0 means never; the default is that
                      of the paper's code
    seed              the seed of all draws of Ω; None takes one from torch's global generator, as initial weights do
    """

    version = 1
    unsupported: dict[str, str] = {}
    linear_state = True
    normalised = True
    linear_values = True
    kernel = "torch_chunked"
    omega: Tensor
    forward_calls: Tensor
    draw_seed: Tensor

    def __init__(
        self,
        *,
        pattern: Pattern,
        num_heads: int,
        head_dim: int,
        num_features: int = 256,
        redraw_interval: int = 1000,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("num_features", num_features)
        if redraw_interval < 0:
            raise ValueError(f"redraw_interval is {redraw_interval}; allowed are 0 (never) and larger whole numbers")
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim
        self.num_features, self.redraw_interval = num_features, redraw_interval
        # Drawn on the CPU: the default device may be "meta", whose tensors have no values.
        seed = int(torch.randint(1 << 31, (), device="cpu")) if seed is None else seed
        # Buffers, so that training goes on from a checkpoint with the same features and the same next draws.
        self.register_buffer("draw_seed", torch.tensor(seed))
        self.register_buffer("forward_calls", torch.tensor(0))
        omega = orthogonal_features(num_features, head_dim, seed=seed, draw=0)
        self.register_buffer("omega", omega.to(self.draw_seed.device))

    def extra_repr(self) -> str:
        """Returns the options, as ``repr`` of the module shows them."""
        return f"pattern={self.pattern!r}, num_features={self.num_features}, redraw_interval={self.redraw_interval}"

    @without_autocast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the attention of q, (b, h, n, d), to k and v, (b, h, m, d).  Returns (b, h, n, d).

        key_padding_mask: (b, m), True where padded, or None.
        """
        if self.training and self.redraw_interval:
            self._count_call()
        if self.pattern == "causal_self":
            if key_padding_mask is None:
                return self._causal(q, k, v)
            return without_padding(self._causal, q, k, v, key_padding_mask)
        state = self._source_state(k, v, key_padding_mask)
        if key_padding_mask is None or self.pattern.endswith("_cross"):
            return self._read(q, state)
        return empty_padded(self._read(empty_padded(q, key_padding_mask), state), key_padding_mask)

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the formula one query at a time, with weights φ(q_i)·φ(k_j) that are normalised as logarithms.

        It is the reference that ``forward`` is checked against.
        """
        k, v = empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask)
        is_self = self.pattern.endswith("_self")
        q = empty_padded(q, key_padding_mask) if is_self else q
        omega = self._scaled_omega(q.dtype)
        log_q, log_k = log_query_features(q, omega), log_key_features(k, omega)
        rows = []
        for i in range(q.shape[2]):
            log_weights = (log_q[:, :, i, None] + log_k).logsumexp(-1)  # (b, h, m)
            hidden = torch.zeros(log_weights.shape, dtype=torch.bool, device=q.device)
            if self.pattern == "causal_self":
                hidden[..., i + 1 :] = True
            if key_padding_mask is not None:
                hidden = hidden | key_padding_mask[:, None]
            blind = hidden.all(-1, keepdim=True)
            weights = log_weights.masked_fill(hidden & ~blind, -math.inf).softmax(-1).masked_fill(blind, 0)
            rows.append(torch.einsum("bhm,bhmd->bhd", weights, v))
        out = torch.stack(rows, 2) if rows else q
        return empty_padded(out, key_padding_mask) if is_self else out

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> PerformerState:
        """Returns the state before the first token, for the pattern ``causal_self``."""
        return self._empty(batch_size, device=device, dtype=dtype)

    @without_autocast
    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: PerformerState) -> tuple[Tensor, PerformerState]:
        """Attends from the new tokens to all earlier tokens and to one another, causally.  q, k, v: (b, h, n, d)."""
        return self._extend(q, k, v, state)

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> PerformerState:
        """Returns the state for ``causal_cross``: the sums over a complete source.  k, v: (b, h, m, d)."""
        return self._source_state(k, v, key_padding_mask)

    @without_autocast
    def read(self, q: Tensor, state: PerformerState) -> tuple[Tensor, PerformerState]:
        """Attends from the next queries, (b, h, n, d), to the source.  The state does not change."""
        return self._read(q, state), state

    def select(self, state: PerformerState, rows: Tensor) -> PerformerState:
        """Returns the state of these rows of the batch.  rows: (new batch,) int64."""
        return select_rows(state, rows)

    def state_bytes(self, state: PerformerState) -> int:
        """Returns the bytes of sums and maxima."""
        return state_bytes(state)

    def _count_call(self) -> None:
        """Counts a forward call in training, and draws Ω again if its interval is over."""
        calls = int(self.forward_calls)
        if calls and calls % self.redraw_interval == 0:
            draw = calls // self.redraw_interval
            self.omega.copy_(orthogonal_features(self.num_features, self.head_dim, seed=int(self.draw_seed), draw=draw))
        self.forward_calls += 1

    def _scaled_omega(self, dtype: torch.dtype) -> Tensor:
        """Returns Ω / d^{1/4}, so that its product with x is the Ω x' of the formula."""
        return self.omega.to(dtype) * self.head_dim**-0.25

    def _empty(self, batch_size: int, *, device: Any, dtype: Any) -> PerformerState:
        b, h, f = batch_size, self.num_heads, self.num_features
        sums = empty_sums(b, h, f, self.head_dim, device=device, dtype=dtype)
        # The maxima do not start at -inf, because the difference of two of these would be NaN.
        return PerformerState(sums, torch.full_like(sums[..., 0], torch.finfo(sums.dtype).min))

    def _causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._extend(q, k, v, self._empty(q.shape[0], device=q.device, dtype=q.dtype))[0]

    def _extend(self, q: Tensor, k: Tensor, v: Tensor, state: PerformerState) -> tuple[Tensor, PerformerState]:
        step = functools.partial(causal_block, omega=self._scaled_omega(state.sums.dtype))
        return by_blocks(step, (q, k, v), state, chunk_size=CHUNK_SIZE, block_size=self._block_size(q))

    @without_autocast
    def _source_state(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> PerformerState:
        state = self._empty(k.shape[0], device=k.device, dtype=k.dtype)
        k, v = empty_padded(k, key_padding_mask), empty_padded(v, key_padding_mask)
        step = functools.partial(source_block, omega=self._scaled_omega(state.sums.dtype))
        sequences = (k, v, None if key_padding_mask is None else key_padding_mask[:, None])
        return by_blocks(step, sequences, state, chunk_size=CHUNK_SIZE, block_size=self._block_size(k))[1]

    def _read(self, q: Tensor, state: PerformerState) -> Tensor:
        step = functools.partial(read_block, omega=self._scaled_omega(state.sums.dtype))
        return by_blocks(step, (q,), state, chunk_size=CHUNK_SIZE, block_size=self._block_size(q))[0]

    def _block_size(self, q: Tensor) -> int:
        return block_tokens(q, self.num_features, elements=BLOCK_ELEMENTS.get(q.device.type, 1 << 26))


def orthogonal_features(num_features: int, head_dim: int, *, seed: int, draw: int) -> Tensor:
    """Draws Ω, (f, d).  Each group of d rows is orthogonal; every row has the length of an independent Gaussian vector.

    seed, draw: together they determine Ω; ``draw`` counts the draws of one module.
    The numbers are drawn on the CPU, so that they are the same on every device.
    """
    generator = torch.Generator("cpu").manual_seed((seed + 1_000_003 * draw) % (1 << 63))
    gaussians = functools.partial(torch.randn, generator=generator, dtype=torch.float64, device="cpu")
    blocks = []
    for _ in range(math.ceil(num_features / head_dim)):
        gaussian = gaussians(head_dim, head_dim)
        rotation, upper = torch.linalg.qr(gaussian)
        blocks.append(rotation * upper.diagonal().sign())  # the signs make the rotation uniform
    lengths = gaussians(num_features, head_dim).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:num_features] * lengths).float()


def log_query_features(q: Tensor, omega: Tensor) -> Tensor:
    """Returns Ω q', (…, f): the logarithm of φ(q) without a constant of the query, which cancels."""
    return q @ omega.T


def log_key_features(k: Tensor, omega: Tensor) -> Tensor:
    """Returns Ω k' − |k'|²/2, (…, f): the logarithm of φ(k) without the factor f^{−1/2}, which cancels."""
    half_square = k.square().sum(-1, keepdim=True) * (-0.5 * k.shape[-1] ** -0.5)
    # The square is one more column of the product, and the first one.  If it were added after the other terms, to a sum that may
    # be large, the rounding error would be half as large again.
    return torch.cat((half_square, k), -1) @ F.pad(omega, (1, 0), value=1.0).T


def query_features(q: Tensor, reference: Tensor, omega: Tensor) -> Tensor:
    """Returns φ(q) e^{reference}, (…, f), scaled so that the largest feature of a query is 1.

    reference: that of the keys; it must broadcast to (…, f).
    """
    log_q = log_query_features(q, omega) + reference
    return (log_q - log_q.detach().amax(-1, keepdim=True)).exp()


def causal_block(
    q: Tensor, k: Tensor, v: Tensor, state: PerformerState, *, omega: Tensor
) -> tuple[Tensor, PerformerState]:
    """Returns the output of a block of tokens, and the state after it.

    q, k, v: (b, h, n, d); n is a multiple of the chunk size, or less than one chunk.
    The reference of a chunk is the maximum over all keys before it and its first key.  If a key of the chunk exceeds the
    reference so far that its feature could overflow, the block is computed again in two halves.  This goes on, if necessary,
    down to single tokens, whose key is part of the reference.  Queries before the exceeding key keep the output of the first
    computation, so that a later key changes no earlier output.
    """
    dtype = state.sums.dtype
    if q.shape[2] == 0:
        return q, state
    q_chunks, k_chunks, values = (in_chunks(x.to(dtype), CHUNK_SIZE) for x in (q, k, with_ones(v)))
    log_k = log_key_features(k_chunks, omega)
    with torch.no_grad():
        reference, maxima, highest = references(log_k, state.maxima)
        entered = torch.cat((state.maxima[:, :, None], reference), 2)
        rescale = (entered - torch.cat((reference, maxima[:, :, None]), 2)).exp()
        rises = highest - reference
        has_risen = rises.numel() > 0 and bool(rises.amax() > LARGEST_RISE)  # an empty batch has no largest rise
    rise = log_k - reference[..., None, :]
    k_features = rise.clamp_max(LARGEST_RISE).exp() if has_risen else rise.exp()
    q_features = query_features(q_chunks, reference[..., None, :], omega)
    before, total = chunk_starts(k_features.mT @ values, state.sums, rescale)
    scores = (q_features @ k_features.mT).tril()
    out = normalised(causal_sums(scores, q_features, values, before)).flatten(2, 3).to(q.dtype)
    if not has_risen:
        return out, PerformerState(total, maxima)
    after_rise = (rise > LARGEST_RISE).any(-1).flatten(2).cummax(2).values[..., None]
    in_halves, state = causal_halves(q, k, v, state, omega=omega)
    # Samples and heads without an exceeding key keep the sums of the first computation, so that they do not depend on others.
    sums = torch.where(after_rise[:, :, -1:], state.sums, total)
    return torch.where(after_rise, in_halves, out), PerformerState(sums, maxima)


def causal_halves(
    q: Tensor, k: Tensor, v: Tensor, state: PerformerState, *, omega: Tensor
) -> tuple[Tensor, PerformerState]:
    """Runs ``causal_block`` on the first half of the block and then on the second.

    A block of several chunks is cut between two chunks.
    """
    n = q.shape[2]
    half = n // 2 if n <= CHUNK_SIZE else n // CHUNK_SIZE // 2 * CHUNK_SIZE
    first, state = causal_block(q[:, :, :half], k[:, :, :half], v[:, :, :half], state, omega=omega)
    second, state = causal_block(q[:, :, half:], k[:, :, half:], v[:, :, half:], state, omega=omega)
    return torch.cat((first, second), 2), state


def references(log_k: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the references of chunks.

    log_k: log features of the keys, (b, h, g, c, f) for g chunks of c tokens.  maxima: before the first chunk, (b, h, f).
    Returns the reference of each chunk (b, h, g, f), the maxima after all chunks (b, h, f), and the maximum of each chunk
    (b, h, g, f).
    """
    highest = log_k.amax(3)
    running = torch.cat((maxima[:, :, None], highest), 2).cummax(2).values
    return torch.maximum(running[:, :, :-1], log_k[:, :, :, 0]), running[:, :, -1], highest


def source_block(
    k: Tensor, v: Tensor, key_padding_mask: Tensor | None, state: PerformerState, *, omega: Tensor
) -> tuple[Tensor, PerformerState]:
    """Returns the state with a block of a source, (b, h, m, d), added.

    The first of the two results, the output in ``by_blocks``, is empty, because there are no queries.
    """
    k, v = k.to(state.sums.dtype), v.to(state.sums.dtype)
    if k.shape[2] == 0:
        # Sums over no tokens are zero.  They connect k and v with the output, so that both get a gradient.
        return v, PerformerState(state.sums + k.sum() + v.sum(), state.maxima)
    log_k = log_key_features(k, omega)
    if key_padding_mask is not None:
        log_k = log_k.masked_fill(key_padding_mask[..., None], -math.inf)
    maxima = torch.maximum(state.maxima, log_k.detach().amax(2))
    k_features = (log_k - maxima[:, :, None]).exp()
    sums = state.sums * (state.maxima - maxima).exp()[..., None] + k_features.mT @ with_ones(v)
    return v[:, :, :0], PerformerState(sums, maxima)


def read_block(q: Tensor, state: PerformerState, *, omega: Tensor) -> tuple[Tensor, PerformerState]:
    """Returns the output of a block of queries, (b, h, n, d), and the state, which does not change."""
    q_features = query_features(q.to(state.sums.dtype), state.maxima[:, :, None], omega)
    return normalised(q_features @ state.sums).to(q.dtype), state
