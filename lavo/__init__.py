"""LAVO: linear attention via orthogonal memory (arXiv 2312.11135), usable with torch and einops alone.

>>> import torch
>>> from lavo import lavo_attention
>>> q, k, v = torch.randn(3, 2, 4, 100, 16)  # (batch, heads, length, head_dim) each
>>> basis = torch.eye(16).expand(4, 16, 16)  # (heads, rank, head_dim), orthonormal rows
>>> lavo_attention(q, k, v, basis, causal=True).shape
torch.Size([2, 4, 100, 16])
"""

from lavo.attention import LAVOAttention
from lavo.functional import lavo_attention, lavo_cross_attention

__all__ = ["LAVOAttention", "lavo_attention", "lavo_cross_attention"]
