"""Attentions that fail at some lengths, precisions or magnitudes, or differ between runs."""

from __future__ import annotations

import torch
from broken import fails
from correct_attentions import Linear, Softmax, wide
from torch.nn import functional as F


@fails("lengths", "noncausal_self", "causal_self")
class RoundsUp(Linear):
    """Rounds the output's length up to whole chunks of 8."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = super().forward(q, k, v, key_padding_mask)
        return F.pad(out, (0, 0, 0, -q.shape[2] % 8))


@fails("lengths", "noncausal_self", "noncausal_cross")
class WholeChunksOnly(Linear):
    """Fails on a partial last chunk."""

    def keys(self, k, v, padded):
        return (x.unflatten(2, (-1, 8)).flatten(2, 3) for x in super().keys(k, v, padded))


@fails("precision", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class SumsInInputDtype(Linear):
    """Keeps running sums in the precision of the inputs."""

    def keys(self, k, v, padded):
        dtype = v.dtype
        k, v = super().keys(k, v, padded)
        if dtype != torch.bfloat16:
            return k, v
        # CPU kernels sum in float32, so this makes by hand what a loop gives in bfloat16: its sums of ones stop at 256.
        places = torch.arange(k.shape[2])[:, None]
        return k.masked_fill(places >= 256, 0), v.masked_fill(places >= 256, 0)


@fails("precision", "causal_self")
class StateInBfloat16(Linear):
    """Keeps the sums of its state in the precision of the inputs."""

    def extend(self, q, k, v, state):
        out, after = super().extend(q, k, v, state)
        return out, after._replace(kv=after.kv.to(q.dtype).to(wide(q)), k=after.k.to(q.dtype).to(wide(q)))


@fails("long_inputs", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class SumsInFloat16(Linear):
    """Keeps the normaliser in float16, which ends at 65,504."""

    def ratio(self, value, weight):
        return super().ratio(value, weight) if value.dtype == torch.float64 else value / weight.half()[..., None]


@fails("large_inputs", "noncausal_self", "causal_self", "noncausal_cross")
class ExpWithoutMaximum(Softmax):
    """Takes the exponential of scores without subtracting their maximum."""

    def weights(self, scores):
        return scores.exp() / scores.exp().sum(-1, keepdim=True)


@fails("determinism", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class DropoutLeftOn(Softmax):
    """Applies dropout in evaluation mode."""

    def weights(self, scores):
        return F.dropout(super().weights(scores), 0.1, training=True)


@fails("determinism", "noncausal_self")
class OwnSeed(Linear):
    """Draws from a generator of its own, so two modules of one seed differ."""

    def draw(self, direction):
        generator = torch.Generator()
        generator.seed()
        super().draw(torch.randn(direction.shape, generator=generator))


@fails("state_dict", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class UnsavedDraw(Linear):
    """Leaves the direction that it drew out of the checkpoint."""

    def draw(self, direction):
        self.direction = direction
