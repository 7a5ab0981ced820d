"""Cross-attention: the memory of a source, and how queries read it (docs/notation.md, "compress" and "read").

    compress  H = mean_i B v_i                                    over the real tokens of the source
    read      g_t = Σ_u softmax_u(q_t·m_u / √d) m_u,  m_u = H_u b_u

A source has no windows in common with the queries, so there is no local part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavo.blocks import accumulation_dtype


def source_mean(v: Tensor, basis: Tensor | None, mask: Tensor | None) -> Tensor:
    """Returns H, (b, h, r), in float32 at least; zeros for an empty source.

    v: (b, h, m, d).  basis: (h, r, d), or None for the head's own axes.  mask: (b, m), True where padded, or None.
    """
    dtype = accumulation_dtype(v)
    if mask is None:
        mean = v.sum(2, dtype=dtype) / max(v.shape[2], 1)
    else:
        mean = v.masked_fill(mask[:, None, :, None], 0).sum(2, dtype=dtype)
        mean = mean / (~mask).sum(1).clamp_min(1)[:, None, None]
    return mean if basis is None else torch.einsum("hrd,bhd->bhr", basis.to(dtype), mean)


def read_memory(q: Tensor, mean: Tensor, basis: Tensor | None) -> Tensor:
    """Returns g, (b, h, n, d), as exact attention over the r units of the memory, which are the same for all queries.

    q: (b, h, n, d).  mean: H, (b, h, r).  basis: (h, r, d), or None for the head's own axes.
    """
    memory = torch.diag_embed(mean) if basis is None else mean[..., None] * basis.to(mean.dtype)
    memory = memory.to(q.dtype)
    return torch.nn.functional.scaled_dot_product_attention(q, memory, memory)
