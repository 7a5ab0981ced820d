"""Linear attention with the features φ(x) = elu(x) + 1 (Katharopoulos et al., 2020, arXiv 2006.16236)."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmark import register_attention


@register_attention("mine")
class Mine(nn.Module):
    version = 1  # raise it when results change
    unsupported = {"causal_cross": "has no init_cross() and read()"}  # pattern -> reason
    normalised = linear_values = True  # the output is a weighted mean of v, which `check` tests

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.causal = pattern == "causal_self"

    def forward(self, q, k, v, key_padding_mask=None):  # (batch, heads, length, head_dim); the mask is True at padding
        dtype, q = q.dtype, q.to(torch.promote_types(q.dtype, torch.float32))  # sums need float32
        k, v = k.to(q.dtype), v.to(q.dtype)
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)  # the sum over the ones is the denominator
        if key_padding_mask is not None:
            padding = key_padding_mask[:, None, :, None]
            k, v = k.masked_fill(padding, 0), v.masked_fill(padding, 0)
        products = (F.elu(k) + 1)[..., None] * v[..., None, :]
        state = products.cumsum(2) if self.causal else products.sum(2, keepdim=True)
        out = ((F.elu(q) + 1)[..., None, :] @ state).squeeze(-2)
        return (out[..., :-1] / out[..., -1:].clamp_min(1e-30)).to(dtype)
