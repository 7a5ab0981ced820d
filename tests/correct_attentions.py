"""Two attentions that keep every promise of the conformance suite.

Methods without a docstring are those of ``benchmark.interface.StreamingAttention``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import einsum
from torch import nn
from torch.nn import functional as F

from benchmark.interface import select_rows, state_bytes


class Cache(NamedTuple):
    """Keys and values of all tokens read, (b, h, m, d), and which of them are padded, (b, m)."""

    k: torch.Tensor
    v: torch.Tensor
    padded: torch.Tensor


class Softmax(nn.Module):
    """Exact attention, which streams with a cache."""

    version = 1
    unsupported = {}
    exact = True
    normalised = True
    linear_values = True
    checks_arguments = True  # so that the checks of refusals meet its own, and not the engine's

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q, k, v, key_padding_mask=None):
        check_arguments(q, k, key_padding_mask, self.pattern)
        return self.attend(q, k, v, key_padding_mask)

    def attend(self, q, k, v, padded=None):
        """Attends from the last queries of a sequence to all its keys: padded, bool (b, m), or None."""
        if padded is not None:
            k, v = (x.masked_fill(padded[:, None, :, None], 0) for x in (k, v))
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        scores = self.scores(q, k).masked_fill(hidden, -math.inf)
        # The softmax of a row of -inf is NaN in value and gradient, so such a row gets numbers here and zeros below.
        empty = hidden.all(-1, keepdim=True).expand(*scores.shape[:-1], 1)
        weights = self.weights(scores.masked_fill(empty, 0)).masked_fill(hidden | empty, 0)
        return self.mix(weights, v).to(q.dtype)

    def hidden(self, target, source, padded, device):
        """True where a query must not look: (b or 1, 1, n, m)."""
        hidden = torch.zeros(1, 1, target, source, dtype=torch.bool, device=device)
        if self.pattern == "causal_self":
            hidden = torch.ones_like(hidden).triu(1 + source - target)
        return hidden if padded is None else hidden | padded[:, None, None, :]

    def scores(self, q, k):
        """Scaled products of queries and keys, (b, h, n, m), in float32 at least."""
        return einsum(q.to(wide(q)), k.to(wide(k)), "b h n d, b h m d -> b h n m") * self.head_dim**-0.5

    def weights(self, scores):
        """Normalised over the keys, (b, h, n, m)."""
        return scores.softmax(-1)

    def mix(self, weights, v):
        """The weighted sums of the values, (b, h, n, d)."""
        return weights @ v.to(weights.dtype)

    def definition(self, q, k, v, key_padding_mask=None):
        """The formula, one query at a time."""
        out = torch.zeros_like(q)
        for row in range(q.shape[0]):
            real = torch.ones(k.shape[2], dtype=torch.bool) if key_padding_mask is None else ~key_padding_mask[row]
            for t in range(q.shape[2]):
                seen = real.clone()
                if self.pattern == "causal_self":
                    seen[t + 1 :] = False
                if seen.any():
                    scores = k[row][:, seen] @ q[row, :, t, :, None] / math.sqrt(self.head_dim)
                    out[row, :, t] = (scores.softmax(1) * v[row][:, seen]).sum(1)
        return out

    def init_state(self, batch_size, *, device=None, dtype=None):
        empty = torch.zeros(batch_size, self.num_heads, 0, self.head_dim, device=device, dtype=dtype)
        return Cache(empty, empty, torch.zeros(batch_size, 0, device=device, dtype=torch.bool))

    def extend(self, q, k, v, state):
        padded = F.pad(state.padded, (0, k.shape[2]))
        state = Cache(torch.cat((state.k, k), 2), torch.cat((state.v, v), 2), padded)
        return self.attend(q, *state), state

    def init_cross(self, k, v, key_padding_mask=None):
        padded = torch.zeros(k.shape[0], k.shape[2], dtype=torch.bool) if key_padding_mask is None else key_padding_mask
        return Cache(k, v, padded)

    def read(self, q, state):
        return self.attend(q, *state), state

    def select(self, state, rows):
        return select_rows(state, rows)

    def state_bytes(self, state):
        return state_bytes(state)


class Sums(NamedTuple):
    """Running sums of φ(k) vᵀ, (b, h, d, d), and of φ(k), (b, h, d), and the number of queries answered so far."""

    kv: torch.Tensor
    k: torch.Tensor
    position: int


class Linear(nn.Module):
    """Linear attention with a learned scale, a direction drawn at random, and a longest length."""

    version = 1
    unsupported = {}
    linear_state = True
    normalised = True
    linear_values = True
    needs_max_length = True
    checks_arguments = True

    def __init__(self, *, pattern, num_heads, head_dim, max_length):
        super().__init__()
        self.pattern, self.num_heads, self.head_dim, self.max_length = pattern, num_heads, head_dim, max_length
        self.gain = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        self.draw(torch.randn(num_heads, 1, head_dim))

    def draw(self, direction):
        """Keeps the direction in the checkpoint: (h, 1, d)."""
        self.register_buffer("direction", direction)

    def features(self, x):
        """φ(x), positive, of the shape of x and in float32 at least."""
        x = x.to(wide(x))
        return F.elu(x * (1 + self.gain.to(x)) + self.direction.to(x)) + 1

    def forward(self, q, k, v, key_padding_mask=None):
        check_arguments(q, k, key_padding_mask, self.pattern)
        self.check_length(max(q.shape[2], k.shape[2]))
        if self.pattern == "causal_self":
            empty = self.init_state(q.shape[0], device=q.device, dtype=q.dtype)
            return self.read_on(q, k, v, empty, key_padding_mask)[0]
        return self.read(q, self.init_cross(k, v, key_padding_mask))[0]

    def check_length(self, length):
        """Raises ValueError for a length over ``max_length``."""
        if length > self.max_length:
            raise ValueError(f"length {length} is over max_length {self.max_length}")

    def keys(self, k, v, padded):
        """φ(k) and v, both with zeros where padded."""
        k, v = self.features(k), v.to(wide(v))
        if padded is None:
            return k, v
        return (x.masked_fill(padded[:, None, :, None], 0) for x in (k, v))

    def ratio(self, value, weight):
        """value (b, h, n, d) by weight (b, h, n); 0 / 1 where no key is seen."""
        return value / torch.where(weight > 0, weight, 1)[..., None]

    def init_state(self, batch_size, *, device=None, dtype=None):
        kind = {"device": device, "dtype": torch.promote_types(dtype, torch.float32)}
        shape = (batch_size, self.num_heads, self.head_dim)
        return Sums(torch.zeros(*shape, self.head_dim, **kind), torch.zeros(shape, **kind), 0)

    def extend(self, q, k, v, state):
        self.check_length(state.position + q.shape[2])
        return self.read_on(q, k, v, state)

    def read_on(self, q, k, v, state, padded=None):
        """The outputs of new tokens after those of the state, and the state after them."""
        queries, (k, v) = self.features(q), self.keys(k, v, padded)
        kv = state.kv[:, :, None] + einsum(k, v, "b h n d, b h n e -> b h n d e").cumsum(2)
        total = state.k[:, :, None] + k.cumsum(2)
        out = self.ratio(einsum(queries, kv, "b h n d, b h n d e -> b h n e"), (queries * total).sum(-1))
        if not k.shape[2]:
            return out.to(q.dtype), state
        return out.to(q.dtype), Sums(kv[:, :, -1], total[:, :, -1], state.position + q.shape[2])

    def init_cross(self, k, v, key_padding_mask=None):
        self.check_length(k.shape[2])
        k, v = self.keys(k, v, key_padding_mask)
        return Sums(einsum(k, v, "b h m d, b h m e -> b h d e"), k.sum(2), 0)

    def read(self, q, state):
        self.check_length(state.position + q.shape[2])
        queries = self.features(q)
        weight = einsum(queries, state.k, "b h n d, b h d -> b h n")
        out = self.ratio(einsum(queries, state.kv, "b h n d, b h d e -> b h n e"), weight)
        return out.to(q.dtype), state._replace(position=state.position + q.shape[2])

    def select(self, state, rows):
        return select_rows(state, rows)

    def state_bytes(self, state):
        return state_bytes(state)


def check_arguments(q, k, mask, pattern):
    """Raises ValueError for unequal lengths of self-attention and for a wrong mask."""
    if pattern.endswith("self") and q.shape[2] != k.shape[2]:
        raise ValueError(f"{pattern} needs equal lengths of q and k, not {q.shape[2]} and {k.shape[2]}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (k.shape[0], k.shape[2])):
        raise ValueError(
            f"key_padding_mask {mask.dtype} {tuple(mask.shape)}: bool of shape (batch, source length), True where padded"
        )


def wide(x):
    """The dtype of sums: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
