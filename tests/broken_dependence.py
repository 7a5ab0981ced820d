"""Attentions whose outputs depend on the future, on padding, or on other samples of the batch."""

from __future__ import annotations

import math

import torch
from broken import fails
from correct_attentions import Linear, Softmax, wide


@fails("causality", "causal_self")
class NormalisesOverAll(Softmax):
    """Leaves the future out of the numerator but not out of the denominator."""

    def attend(self, q, k, v, padded=None):
        seen = super().attend(q, k, v, padded)
        scores = self.scores(q, k)
        past = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        return seen * (past.logsumexp(-1) - scores.logsumexp(-1)).exp()[..., None]


@fails("causality", "causal_self")
class StabilisesOverAll(Softmax):
    """Subtracts one maximum over all positions, and adds an epsilon, so the maximum doesn't cancel."""

    def weights(self, scores):
        terms = (scores - scores.amax((-2, -1), keepdim=True)).exp()
        return terms / (terms.sum(-1, keepdim=True) + 1e-4)


@fails("causality", "causal_self")
class LeaksGradient(Softmax):
    """Gives the right outputs, but a gradient to future values."""

    def attend(self, q, k, v, padded=None):
        leak = v.mean(2, keepdim=True)
        return super().attend(q, k, v, padded) + (leak - leak.detach())


@fails("causality", "causal_cross")
class MixesQueries(Softmax):
    """Lets the output of a query depend on later queries."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q - q.mean(2, keepdim=True), k, v, padded)


@fails("oracle", "noncausal_self", "noncausal_cross")
@fails("padding", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
@fails("empty_context", "noncausal_self")
class InvertedMask(Softmax):
    """Takes True in the mask for real tokens."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, None if padded is None else ~padded)


@fails("padding", "noncausal_self", "noncausal_cross", "causal_cross")
class MaskReachesValuesOnly(Linear):
    """Keeps padded keys in the normaliser."""

    def keys(self, k, v, padded):
        features, (_, v) = self.features(k), super().keys(k, v, padded)
        return features, v


@fails("padding", "noncausal_self", "causal_self")
class MultipliesByMask(Linear):
    """Multiplies padded tokens by 0, and 0 · NaN is NaN."""

    def keys(self, k, v, padded):
        k, v = super().keys(k, v, None)
        real = 1.0 if padded is None else (~padded)[:, None, :, None].to(k)
        return k * real, v * real


@fails("padding", "noncausal_self", "noncausal_cross")
class IgnoresMaskOfOneRow(Softmax):
    """Ignores the mask if the batch has one row."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, None if q.shape[0] == 1 else padded)


@fails("padding", "noncausal_self")
class CountsPaddedPositions(Softmax):
    """Counts padded tokens in its distances."""

    def scores(self, q, k):
        return super().scores(q, k) - 0.05 * torch.arange(k.shape[2])


@fails("padding", "noncausal_self")
class ScalesByPaddedLength(Linear):
    """Scales by the length of the padded batch."""

    def keys(self, k, v, padded):
        k, v = super().keys(k, v, padded)
        return k, v * math.log(v.shape[2])


@fails("padding_gradients", "noncausal_self", "causal_self", "causal_cross")
class TrainsOnPadding(Softmax):
    """Gives padded values a gradient, although they change no output."""

    def attend(self, q, k, v, padded=None):
        leak = v.mean()
        return super().attend(q, k, v, padded) + (leak - leak.detach())


@fails("empty_context", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class NaNWithoutKeys(Softmax):
    """Takes the softmax of -inf alone."""

    def attend(self, q, k, v, padded=None):
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        return (self.scores(q, k).masked_fill(hidden, -math.inf).softmax(-1) @ v.to(wide(v))).to(q.dtype)


@fails("empty_context", "noncausal_self", "causal_self")
class AveragesPadding(Softmax):
    """Masks with a very small number, which has no effect in a row where every score is that number."""

    def attend(self, q, k, v, padded=None):
        hidden = self.hidden(q.shape[2], k.shape[2], padded, q.device)
        scores = self.scores(q, k)
        return (scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1) @ v.to(wide(v))).to(q.dtype)


@fails("empty_context", "noncausal_self", "noncausal_cross")
class NaNGradientWithoutKeys(NaNWithoutKeys):
    """Replaces the NaN of the output, but not that of the gradient."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, padded).nan_to_num(0.0)


@fails("batch_invariance", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class BatchStatistic(Softmax):
    """Scales keys by a mean over the batch."""

    def scores(self, q, k):
        return super().scores(q, k / k.abs().mean())


@fails("heads", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class SwapsHeads(Softmax):
    """Attends in each head with the queries and keys of its neighbour, as after a wrong reshape."""

    def attend(self, q, k, v, padded=None):
        return super().attend(q.flip(1), k.flip(1), v, padded)


@fails("heads", "noncausal_self", "causal_cross")
class SwapsOutputs(Linear):
    """Gives each head the output of its neighbour."""

    def ratio(self, value, weight):
        return super().ratio(value, weight).flip(1)


@fails("heads", "causal_self")
class SharesWeights(Softmax):
    """Averages the weights over the heads."""

    def weights(self, scores):
        return super().weights(scores).mean(1, keepdim=True).expand_as(scores)
