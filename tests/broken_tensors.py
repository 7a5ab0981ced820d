"""Attentions that return a wrong shape or dtype, misread their inputs, or write to them."""

from __future__ import annotations

import torch
from broken import fails
from correct_attentions import Softmax, wide


@fails("shape_and_dtype", "noncausal_self", "causal_cross")
class WrongDtype(Softmax):
    """Returns the dtype of its sums."""

    def mix(self, weights, v):
        return weights.float() @ v.float()

    def attend(self, q, k, v, padded=None):
        return super().attend(q, k, v, padded).to(wide(q))


@fails("shape_and_dtype", "causal_self")
class StreamsInFloat32(Softmax):
    """Returns the inputs' dtype from forward, but not when streaming."""

    def extend(self, q, k, v, state):
        out, state = super().extend(q, k, v, state)
        return out.float(), state


@fails("shape_and_dtype", "noncausal_cross")
@fails("unequal_lengths", "causal_self")
class Transposed(Softmax):
    """Returns as many outputs as there are keys, and refuses nothing."""

    def forward(self, q, k, v, key_padding_mask=None):
        out = self.attend(q, k, v, key_padding_mask)
        return out[:, :, :1].expand(-1, -1, k.shape[2], -1)


@fails("strides", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class AssumesContiguous(Softmax):
    """Reads memory as if the last axis were densest, like a kernel that ignores strides."""

    def forward(self, q, k, v, key_padding_mask=None):
        stride = (k.shape[1] * k.shape[2] * k.shape[3], k.shape[2] * k.shape[3], k.shape[3], 1)
        if not k.is_contiguous() and k.untyped_storage().nbytes() >= k.numel() * k.element_size():
            k = torch.as_strided(k, k.shape, stride)
        return super().forward(q, k, v, key_padding_mask)


@fails("inputs_untouched", "noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
class FillsInPlace(Softmax):
    """Sets padded values to zero in the caller's tensor."""

    def forward(self, q, k, v, key_padding_mask=None):
        if key_padding_mask is not None:
            v = v.masked_fill_(key_padding_mask[:, None, :, None], 0)
        return super().forward(q, k, v, key_padding_mask)


@fails("inputs_untouched", "causal_self")
class ScalesInPlace(Softmax):
    """Scales the caller's queries when streaming."""

    def extend(self, q, k, v, state):
        out, state = super().extend(q, k, v, state)
        q.mul_(self.head_dim**-0.5)
        return out, state
