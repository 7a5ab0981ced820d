"""Attentions whose values or gradients differ from their definition."""

from __future__ import annotations

import torch
from broken import fails
from correct_attentions import Linear, Softmax
from torch import nn


@fails("oracle", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
@fails("exact", "noncausal_self", "causal_self")
class WrongScale(Softmax):
    """Divides the scores by d and not by its square root."""

    def scores(self, q, k):
        return super().scores(q, k) * self.head_dim**-0.5


@fails("oracle", "causal_self")
@fails("streaming", "causal_self")
class ForgetsPartialChunk(Softmax):
    """Gives zeros for the last tokens if they don't fill a chunk of 8."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = super().forward(q, k, v, key_padding_mask)
        whole = out.shape[2] - out.shape[2] % 8
        return out if whole == 0 else torch.cat((out[:, :, :whole], torch.zeros_like(out[:, :, whole:])), 2)


@fails("oracle", "noncausal_self", "causal_self")
class OffByOneBehindWindow(Softmax):
    """Loses the first token of its window of 64 when the sequence is one token longer."""

    window = 64

    def hidden(self, target, source, padded, device):
        hidden = super().hidden(target, source, padded, device).clone()
        if target == self.window + 1:
            hidden[..., -1, 0] = True
        return hidden


@fails("gradients", "noncausal_self", "causal_self", "noncausal_cross")
class DetachedNormaliser(Softmax):
    """Gives the right values, with a gradient that treats the normaliser as a constant."""

    def weights(self, scores):
        return (scores - scores.logsumexp(-1, keepdim=True).detach()).exp()


@fails("gradients", "noncausal_self", "causal_self", "causal_cross")
class DetachedDenominator(Linear):
    """Treats the denominator as a constant in the gradient, and has no definition to compare with."""

    def ratio(self, value, weight):
        return super().ratio(value, weight.detach())


@fails("gradients", "noncausal_self")
class ParameterWithoutGradient(Softmax):
    """Loses the gradient of a learned gain, although the definition has it."""

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__(pattern=pattern, num_heads=num_heads, head_dim=head_dim)
        self.gain = nn.Parameter(torch.ones(head_dim))

    def mix(self, weights, v):
        return super().mix(weights, v * self.gain.detach())

    def definition(self, q, k, v, key_padding_mask=None):
        return super().definition(q, k, v * self.gain, key_padding_mask)


@fails("equal_values", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AddsToDenominator(Linear):
    """Adds 0.01 to the denominator, so that weights don't sum to one."""

    def ratio(self, value, weight):
        return value / (weight + 0.01)[..., None]


@fails("linear_values", "noncausal_self", "causal_self")
class ClampsValues(Softmax):
    """Cuts large values off."""

    def mix(self, weights, v):
        return super().mix(weights, v.clamp(-2, 2))
