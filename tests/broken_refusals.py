"""Attentions that accept bad input, or refuse it without a reason."""

from __future__ import annotations

from broken import fails
from correct_attentions import Linear, Softmax


@fails("mask_refused", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AcceptsFloatMask(Softmax):
    """Accepts a mask of numbers."""

    def forward(self, q, k, v, key_padding_mask=None):
        return super().forward(q, k, v, None if key_padding_mask is None else key_padding_mask.bool())


@fails("mask_refused", "noncausal_self")
class RefusesWithoutReason(Softmax):
    """Refuses a mask without saying what it wants."""

    def forward(self, q, k, v, key_padding_mask=None):
        try:
            return super().forward(q, k, v, key_padding_mask)
        except ValueError:
            raise ValueError("bad mask") from None


@fails("max_length", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AcceptsAnyLength(Linear):
    """Accepts sequences beyond its longest length."""

    def check_length(self, length):
        pass


@fails("max_length", "causal_self", "causal_cross")
class StreamsAnyLength(Linear):
    """Refuses sequences beyond its longest length in forward, but not when streaming."""

    def extend(self, q, k, v, state):
        return super().extend(q, k, v, state._replace(position=0))

    def read(self, q, state):
        return super().read(q, state._replace(position=0))
