"""Two attentions that keep every promise, and wrong ones made from them: each breaks one, and names the check to see it.

What is wrong in each was wrong in public code; docs and references are in the checks' own words.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import einsum
from torch import nn
from torch.nn import functional as F

from benchmark.interface import select_rows, state_bytes

SABOTEURS: list[tuple[str, str, type]] = []  # (check that must fail, pattern at which, class)


def fails(check, *patterns):
    """Puts a class on the list of saboteurs."""

    def note(cls):
        SABOTEURS.extend((check, pattern, cls) for pattern in patterns)
        return cls

    return note


def check_arguments(q, k, mask, pattern):
    if pattern.endswith("self") and q.shape[2] != k.shape[2]:
        raise ValueError(f"{pattern} needs equal lengths of q and k, not {q.shape[2]} and {k.shape[2]}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (k.shape[0], k.shape[2])):
        raise ValueError(
            f"key_padding_mask {mask.dtype} {tuple(mask.shape)}: bool of shape (batch, source length), True where padded"
        )


class Cache(NamedTuple):
    """Keys and values of everything that was read, (b, h, m, d), and which of them are padded, (b, m)."""

    k: torch.Tensor
    v: torch.Tensor
    padded: torch.Tensor


class Softmax(nn.Module):
    """Exact attention with a cache: the control."""

    version = 1
    unsupported = {}
    exact = True
    checks_arguments = True  # so that the checks of refusals meet its own, and not the engine's

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q, k, v, key_padding_mask=None):
        check_arguments(q, k, key_padding_mask, self.pattern)
        return self.attend(q, k, v, key_padding_mask)

    def attend(self, q, k, v, padded=None):
        """The last queries of a sequence, to all its keys."""
        if padded is not None:
            k, v = (x.masked_fill(padded[:, None, :, None], 0) for x in (k, v))
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        scores = self.scores(q, k).masked_fill(hidden, -math.inf)
        # A row of -inf alone is NaN forward and backward, so it gets numbers here and zeros below.
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
        return einsum(q.to(wide(q)), k.to(wide(k)), "b h n d, b h m d -> b h n m") * self.head_dim**-0.5

    def weights(self, scores):
        return scores.softmax(-1)

    def mix(self, weights, v):
        return weights @ v.to(weights.dtype)

    def definition(self, q, k, v, key_padding_mask=None):
        """Query by query, from the formula."""
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


def wide(x):
    """The dtype of sums: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


class Sums(NamedTuple):
    """Running sums of φ(k) vᵀ, (b, h, d, d), and of φ(k), (b, h, d); how many queries were answered."""

    kv: torch.Tensor
    k: torch.Tensor
    position: int


class Linear(nn.Module):
    """A linear attention with a learned scale, a drawn direction and a longest length: the second control."""

    version = 1
    unsupported = {}
    linear_state = True
    needs_max_length = True
    checks_arguments = True

    def __init__(self, *, pattern, num_heads, head_dim, max_length):
        super().__init__()
        self.pattern, self.num_heads, self.head_dim, self.max_length = pattern, num_heads, head_dim, max_length
        self.gain = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        self.draw(torch.randn(num_heads, 1, head_dim))

    def draw(self, direction):
        self.register_buffer("direction", direction)

    def features(self, x):
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
        if length > self.max_length:
            raise ValueError(f"length {length} is over max_length {self.max_length}")

    def keys(self, k, v, padded):
        k, v = self.features(k), v.to(wide(v))
        if padded is None:
            return k, v
        return (x.masked_fill(padded[:, None, :, None], 0) for x in (k, v))

    def ratio(self, value, weight):
        return value / torch.where(weight > 0, weight, 1)[..., None]  # no key: 0 / 1

    def init_state(self, batch_size, *, device=None, dtype=None):
        kind = {"device": device, "dtype": torch.promote_types(dtype, torch.float32)}
        shape = (batch_size, self.num_heads, self.head_dim)
        return Sums(torch.zeros(*shape, self.head_dim, **kind), torch.zeros(shape, **kind), 0)

    def extend(self, q, k, v, state):
        self.check_length(state.position + q.shape[2])
        return self.read_on(q, k, v, state)

    def read_on(self, q, k, v, state, padded=None):
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


# What follows is wrong on purpose.  A saboteur keeps all promises but the one that its docstring says.


@fails("shape_and_dtype", "noncausal_self", "causal_cross")
class WrongDtype(Softmax):
    """Gives the dtype of its sums."""

    def mix(self, weights, v):
        return weights.float() @ v.float()

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, padded).to(wide(q))


@fails("shape_and_dtype", "causal_self")
class StreamsInFloat32(Softmax):
    """Forward has the inputs' dtype, the stream hasn't."""

    def extend(self, q, k, v, state):
        out, state = super().extend(q, k, v, state)
        return out.float(), state


@fails("shape_and_dtype", "noncausal_cross")
@fails("unequal_lengths", "causal_self")
class Transposed(Softmax):
    """Takes the number of keys for that of queries, and refuses nothing."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = self.attend(q, k, v, key_padding_mask)
        return out[:, :, :1].expand(-1, -1, k.shape[2], -1)


@fails("oracle", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
@fails("exact", "noncausal_self", "causal_self")
class WrongScale(Softmax):
    """Divides by d and not by its root."""

    def scores(self, q, k):
        return super().scores(q, k) * self.head_dim**-0.5


@fails("oracle", "noncausal_self", "noncausal_cross")
@fails("padding", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
@fails("empty_context", "noncausal_self")
class InvertedMask(Softmax):
    """Takes True for real."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, None if padded is None else ~padded)


@fails("oracle", "causal_self")
@fails("streaming", "causal_self")
class ForgetsPartialChunk(Softmax):
    """Leaves the last tokens out where they don't fill a chunk of 8."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = super().forward(q, k, v, key_padding_mask)
        whole = out.shape[2] - out.shape[2] % 8
        return out if whole == 0 else torch.cat((out[:, :, :whole], torch.zeros_like(out[:, :, whole:])), 2)


@fails("oracle", "noncausal_self", "causal_self")
class OffByOneBehindWindow(Softmax):
    """One token more than its window of 64 loses the first of them."""

    window = 64

    def hidden(self, target, source, padded, device):
        hidden = super().hidden(target, source, padded, device).clone()
        if target == self.window + 1:
            hidden[..., -1, 0] = True
        return hidden


@fails("gradients", "noncausal_self", "causal_self", "noncausal_cross")
class DetachedNormaliser(Softmax):
    """The right value, and a gradient that takes the normaliser for a constant."""

    def weights(self, scores):
        return (scores - scores.logsumexp(-1, keepdim=True).detach()).exp()


@fails("gradients", "noncausal_self", "causal_self", "causal_cross")
class DetachedDenominator(Linear):
    """The same without a definition to compare with."""

    def ratio(self, value, weight):
        return super().ratio(value, weight.detach())


@fails("gradients", "noncausal_self")
class ParameterWithoutGradient(Softmax):
    """A learned gain whose gradient is lost, though the definition has it."""

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__(pattern=pattern, num_heads=num_heads, head_dim=head_dim)
        self.gain = nn.Parameter(torch.ones(head_dim))

    def mix(self, weights, v):
        return super().mix(weights, v * self.gain.detach())

    def definition(self, q, k, v, key_padding_mask=None):
        return super().definition(q, k, v * self.gain, key_padding_mask)


@fails("causality", "causal_self")
class NormalisesOverAll(Softmax):
    """The future is out of the numerator and in the denominator."""

    def attend(self, q, k, v, padded=None):
        seen = super().attend(q, k, v, padded)
        scores = self.scores(q, k)
        past = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        return seen * (past.logsumexp(-1) - scores.logsumexp(-1)).exp()[..., None]


@fails("causality", "causal_self")
class StabilisesOverAll(Softmax):
    """Subtracts one maximum over all positions, and adds an epsilon so that it doesn't cancel."""

    def weights(self, scores):
        terms = (scores - scores.amax((-2, -1), keepdim=True)).exp()
        return terms / (terms.sum(-1, keepdim=True) + 1e-4)


@fails("causality", "causal_self")
class LeaksGradient(Softmax):
    """No output moves, yet the past is trained on the future."""

    def attend(self, q, k, v, padded=None):
        leak = v.mean(2, keepdim=True)
        return super().attend(q, k, v, padded) + (leak - leak.detach())


@fails("causality", "causal_cross")
class MixesQueries(Softmax):
    """A query's answer depends on the queries after it."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q - q.mean(2, keepdim=True), k, v, padded)


@fails("padding", "noncausal_self", "noncausal_cross", "causal_cross")
class MaskReachesValuesOnly(Linear):
    """A padded key stays in the normaliser."""

    def keys(self, k, v, padded):
        features, (_, v) = self.features(k), super().keys(k, v, padded)
        return features, v


@fails("padding", "noncausal_self", "causal_self")
class MultipliesByMask(Linear):
    """0 · NaN is NaN."""

    def keys(self, k, v, padded):
        k, v = super().keys(k, v, None)
        real = 1.0 if padded is None else (~padded)[:, None, :, None].to(k)
        return k * real, v * real


@fails("padding", "noncausal_self", "noncausal_cross")
class IgnoresMaskOfOneRow(Softmax):
    """Skips the mask where the batch is 1."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, None if q.shape[0] == 1 else padded)


@fails("padding", "noncausal_self")
class CountsPaddedPositions(Softmax):
    """Distances count padded tokens."""

    def scores(self, q, k):
        return super().scores(q, k) - 0.05 * torch.arange(k.shape[2])


@fails("padding", "noncausal_self")
class ScalesByPaddedLength(Linear):
    """Takes a length from the padded batch."""

    def keys(self, k, v, padded):
        k, v = super().keys(k, v, padded)
        return k, v * math.log(v.shape[2])


@fails("padding_gradients", "noncausal_self", "causal_self", "causal_cross")
class TrainsOnPadding(Softmax):
    """Padded values change nothing and get a gradient."""

    def attend(self, q, k, v, padded=None):
        leak = v.mean()
        return super().attend(q, k, v, padded) + (leak - leak.detach())


@fails("empty_context", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class NaNWithoutKeys(Softmax):
    """The softmax of nothing but -inf."""

    def attend(self, q, k, v, padded=None):
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        return (self.scores(q, k).masked_fill(hidden, -math.inf).softmax(-1) @ v.to(wide(v))).to(q.dtype)


@fails("empty_context", "noncausal_self", "causal_self")
class AveragesPadding(Softmax):
    """Masks with a very small number, which is as good as any other where all have it."""

    def attend(self, q, k, v, padded=None):
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        scores = self.scores(q, k)
        return (scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1) @ v.to(wide(v))).to(q.dtype)


@fails("empty_context", "noncausal_self", "noncausal_cross")
class NaNGradientWithoutKeys(NaNWithoutKeys):
    """Replaces the NaN afterwards: its gradient stays."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, padded).nan_to_num(0.0)


@fails("batch_invariance", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class BatchStatistic(Softmax):
    """Scales by a mean over the batch."""

    def scores(self, q, k):
        return super().scores(q, k / k.abs().mean())


@fails("streaming", "causal_self")
class RestartsPositions(Linear):
    """Positions begin again at each call."""

    def read_on(self, q, k, v, state, padded=None):
        out, after = super().read_on(q, k, v, state, padded)
        return out * (1 + 0.01 * torch.arange(q.shape[2], dtype=out.dtype))[:, None], after


@fails("streaming", "causal_self")
@fails("select", "causal_self")
class AlignsTopLeft(Softmax):
    """New queries see the beginning of the cache."""

    def hidden(self, target, source, padded, device):
        hidden = torch.ones(1, 1, target, source, dtype=torch.bool, device=device).triu(1)
        return hidden if padded is None else hidden | padded[:, None, None, :]


@fails("streaming", "causal_self")
class NeedsNewTokens(Linear):
    """No tokens at all are an error."""

    def extend(self, q, k, v, state):
        assert q.shape[2] > 0
        return super().extend(q, k, v, state)


@fails("streaming", "causal_cross")
class ForgetsSourceMask(Softmax):
    """The source's padding is read when streaming."""

    def init_cross(self, k, v, key_padding_mask=None):
        return super().init_cross(k, v, None if key_padding_mask is None else torch.zeros_like(key_padding_mask))


@fails("streaming", "causal_self", "causal_cross")
class NoStream(Softmax):
    """Claims causal patterns and has no state."""

    init_state = extend = init_cross = read = None


@fails("branching", "causal_self")
class AddsInPlace(Linear):
    """Writes new tokens into the sums that it was given."""

    def read_on(self, q, k, v, state, padded=None):
        out, after = super().read_on(q, k, v, state, padded)
        return out, Sums(state.kv.copy_(after.kv), state.k.copy_(after.k), after.position)


@fails("branching", "causal_self")
class SharesBuffer(Softmax):
    """A cache that grows in one buffer, without asking whether another branch has grown it already."""

    def extend(self, q, k, v, state):
        read, room = state.k.shape[2], 400
        if read == 0:
            self.buffers_of = [torch.zeros(*k.shape[:2], room, self.head_dim, dtype=k.dtype) for _ in "kv"]
        grown = []
        for buffer, held, new in zip(self.buffers_of, (state.k, state.v), (k, v), strict=True):
            if held.shape[0] != buffer.shape[0]:
                return super().extend(q, k, v, state)
            buffer[:, :, read : read + new.shape[2]] = new
            grown.append(buffer[:, :, : read + new.shape[2]])
        state = Cache(*grown, F.pad(state.padded, (0, k.shape[2])))
        return self.attend(q, *state), state


@fails("branching", "causal_cross")
class CountsOnModule(Linear):
    """Keeps the number of queries on the module, where the other branch finds it."""

    def read(self, q, state):
        answered = 0 if state.position == 0 else self.answered
        self.answered = answered + q.shape[2]
        out, state = super().read(q, state)
        steps = torch.arange(answered, answered + q.shape[2], dtype=out.dtype)
        return out * (1 + 0.01 * steps)[:, None], state


@fails("select", "causal_self", "causal_cross")
class SelectsInOrder(Softmax):
    """Each row at most once, in the order of the batch."""

    def select(self, state, rows):
        return select_rows(state, rows.sort().values)


@fails("select", "causal_self", "causal_cross")
class SelectsKeysOnly(Linear):
    """One part of the state stays behind."""

    def select(self, state, rows):
        chosen = select_rows(state, rows)
        return chosen._replace(k=state.k[: len(rows)] if len(rows) <= len(state.k) else chosen.k.flip(0))


@fails("select", "causal_self", "causal_cross")
class SelectsInPlace(Linear):
    """The state that was selected from is lost."""

    def select(self, state, rows):
        chosen = select_rows(state, rows)
        state.kv.zero_()
        return chosen


@fails("lengths", "noncausal_self", "causal_self")
class RoundsUp(Linear):
    """Gives whole chunks of 8."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = super().forward(q, k, v, key_padding_mask)
        return F.pad(out, (0, 0, 0, -q.shape[2] % 8))


@fails("lengths", "noncausal_self", "noncausal_cross")
class WholeChunksOnly(Linear):
    """Refuses a last, partial chunk."""

    def keys(self, k, v, padded):
        return (x.unflatten(2, (-1, 8)).flatten(2, 3) for x in super().keys(k, v, padded))


@fails("precision", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class SumsInInputDtype(Linear):
    """Running sums have the inputs' precision."""

    def keys(self, k, v, padded):
        dtype = v.dtype
        k, v = super().keys(k, v, padded)
        if dtype != torch.bfloat16:
            return k, v
        # What a loop over tokens holds after the last: CPU kernels would sum in float32 behind our back.
        places = torch.arange(k.shape[2])[:, None]
        return k.masked_fill(places >= 256, 0), v.masked_fill(places >= 256, 0)


@fails("precision", "causal_self")
class StateInBfloat16(Linear):
    """The stream keeps its sums in the inputs' precision."""

    def extend(self, q, k, v, state):
        out, after = super().extend(q, k, v, state)
        return out, after._replace(kv=after.kv.to(q.dtype).to(wide(q)), k=after.k.to(q.dtype).to(wide(q)))


@fails("long_inputs", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class SumsInFloat16(Linear):
    """The normaliser passes 65,504."""

    def ratio(self, value, weight):
        return super().ratio(value, weight) if value.dtype == torch.float64 else value / weight.half()[..., None]


@fails("large_inputs", "noncausal_self", "causal_self", "noncausal_cross")
class ExpWithoutMaximum(Softmax):
    """The exponential of the bare scores."""

    def weights(self, scores):
        return scores.exp() / scores.exp().sum(-1, keepdim=True)


@fails("determinism", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class DropoutLeftOn(Softmax):
    """Drops weights in evaluation too."""

    def weights(self, scores):
        return F.dropout(super().weights(scores), 0.1, training=True)


@fails("determinism", "noncausal_self")
class OwnSeed(Linear):
    """Two modules of one seed differ."""

    def draw(self, direction):
        generator = torch.Generator()
        generator.seed()
        super().draw(torch.randn(direction.shape, generator=generator))


@fails("state_dict", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class UnsavedDraw(Linear):
    """What it drew isn't in the checkpoint."""

    def draw(self, direction):
        self.direction = direction


@fails("state_size", "causal_self", "causal_cross")
class GrowsThoughLinear(Softmax):
    """Declares a state that doesn't grow."""

    linear_state = True


@fails("state_size", "causal_self", "causal_cross")
class StateByFormula(Softmax):
    """Counts the state by a formula that forgot the values."""

    def state_bytes(self, state):
        return state.k.nbytes


@fails("mask_refused", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AddsFloatMask(Softmax):
    """A mask of numbers is taken as it comes."""

    def forward(self, q, k, v, key_padding_mask=None):
        return super().forward(q, k, v, None if key_padding_mask is None else key_padding_mask.bool())


@fails("mask_refused", "noncausal_self")
class RefusesWithoutReason(Softmax):
    """Refuses and doesn't say what it wants."""

    def forward(self, q, k, v, key_padding_mask=None):
        try:
            return super().forward(q, k, v, key_padding_mask)
        except ValueError:
            raise ValueError("bad mask") from None


@fails("max_length", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AcceptsAnyLength(Linear):
    """Longer than it can be right for."""

    def check_length(self, length):
        pass


@fails("max_length", "causal_self", "causal_cross")
class StreamsAnyLength(Linear):
    """Refuses in forward alone."""

    def extend(self, q, k, v, state):
        return super().extend(q, k, v, state._replace(position=0))

    def read(self, q, state):
        return super().read(q, state._replace(position=0))


@fails("strides", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AssumesContiguous(Softmax):
    """Reads memory as if the last axis were densest, as a kernel without its strides would."""

    def forward(self, q, k, v, key_padding_mask=None):
        stride = (k.shape[1] * k.shape[2] * k.shape[3], k.shape[2] * k.shape[3], k.shape[3], 1)
        if not k.is_contiguous() and k.untyped_storage().nbytes() >= k.numel() * k.element_size():
            k = torch.as_strided(k, k.shape, stride)
        return super().forward(q, k, v, key_padding_mask)


@fails("inputs_untouched", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class FillsInPlace(Softmax):
    """Zeroes padded values in the tensor that it was given."""

    def forward(self, q, k, v, key_padding_mask=None):
        if key_padding_mask is not None:
            v = v.masked_fill_(key_padding_mask[:, None, :, None], 0)
        return super().forward(q, k, v, key_padding_mask)


@fails("inputs_untouched", "causal_self")
class ScalesInPlace(Softmax):
    """Scales the queries that it was given, when streaming."""

    def extend(self, q, k, v, state):
        out, state = super().extend(q, k, v, state)
        q.mul_(self.head_dim**-0.5)
        return out, state
