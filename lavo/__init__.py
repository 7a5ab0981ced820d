"""LAVO: linear attention via orthogonal memory (arXiv 2312.11135), usable with torch and einops alone.

>>> import torch
>>> from lavo import lavo_attention
>>> q, k, v = torch.randn(3, 2, 4, 100, 16)  # (batch, heads, length, head_dim) each
>>> basis = torch.eye(16).expand(4, 16, 16)  # (heads, rank, head_dim), orthonormal rows
>>> lavo_attention(q, k, v, basis, causal=True).shape
torch.Size([2, 4, 100, 16])

The files, in the order in which they read best:

    reference         the definition, formula by formula (docs/notation.md)
    basis             the orthonormal bases
    functional        the two functions: arguments, choice of a backend, padding
    attention         the module: parameters, the four patterns, streaming
    blocks            backend "torch": how a sequence is cut into blocks, and the buffers that they use
    windows, memory   the two halves of LAVO, for one block
    chunked           the causal and the noncausal form over a whole sequence
    cross             cross-attention
    overlap           windows that overlap, an option
    streaming         token by token, with a state of constant size
    parallel          one sequence, shared by several processes
    launch, kernels, kernels_backward, fused, fused_streaming    backend "triton", on GPUs
    one_pass          a second causal form on GPUs, which is off until it has been measured
"""

from lavo.attention import LAVOAttention
from lavo.functional import lavo_attention, lavo_cross_attention

__all__ = ["LAVOAttention", "lavo_attention", "lavo_cross_attention"]
