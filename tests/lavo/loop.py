"""LAVO as a loop over heads, tokens and units in float64, written from the definition alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lavo_loop(q, k, v, basis, *, window, bias=None, causal, output="sum", dissect=True, window_overlap=False) -> Tensor:
    """q, k, v: (heads, n, d) of one sequence without padding; basis: (heads, r, d).  Differentiable."""
    heads = []
    for h in range(q.shape[0]):
        P = None if bias is None else bias[h]
        options = {"causal": causal, "output": output, "dissect": dissect, "overlap": window_overlap}
        heads.append(_head(q[h], k[h], v[h], basis[h], window, P, **options))
    return torch.stack(heads)


def _head(q, k, v, B, w, P, *, causal, output, dissect, overlap) -> Tensor:
    n, d = q.shape
    e, l_local = [], []
    for t in range(n):
        if overlap:
            W = [j for j in range(n) if abs(j // (w // 2) - t // (w // 2)) <= 1 and (j <= t or not causal)]
        else:
            W = [j for j in range(n) if j // w == t // w and (j <= t or not causal)]
        scores = torch.stack([q[t] @ k[j] / math.sqrt(d) for j in W])
        if P is not None:
            scores = scores + torch.stack([P[t - j] if causal else P[t - j + w - 1] for j in W])
        p = torch.exp(scores - scores.max())
        l_local.append(scores.max() + torch.log(p.sum()))
        e.append(sum(p[i] * v[j] for i, j in enumerate(W)) / p.sum() if dissect else v[t])
    total = sum(B @ e_i for e_i in e)
    out, so_far = [], torch.zeros(B.shape[0], dtype=q.dtype)
    for t in range(n):
        so_far = so_far + B @ e[t]
        H = so_far / (t + 1) if causal else total / n
        m = [H[u] * B[u] for u in range(B.shape[0])]
        scores = torch.stack([q[t] @ m_u / math.sqrt(d) for m_u in m])
        p = torch.exp(scores - scores.max())
        g = sum(p[u] * m[u] for u in range(len(m))) / p.sum()
        l_memory = scores.max() + torch.log(p.sum())
        share = 1 / (1 + torch.exp(l_memory - l_local[t]))
        if output == "memory" or not dissect:
            out.append(g)
        elif output == "sum":
            out.append(e[t] + g)
        else:
            out.append(share * e[t] + (1 - share) * g)
    return torch.stack(out)


def example(*, batch=1, heads=2, n=9, d=8, rank=8, window=4, causal=True, dtype=torch.float64, seed=0, grad=False):
    """q, k, v, basis, bias of this shape; basis orthonormal."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, n, d, generator=generator, dtype=torch.float64) for _ in range(3))
    basis = torch.linalg.qr(torch.randn(heads, d, d, generator=generator, dtype=torch.float64))[0][:, :rank]
    bias = torch.randn(heads, window if causal else 2 * window - 1, generator=generator, dtype=torch.float64)
    return [x.to(dtype).requires_grad_(grad) for x in (q, k, v, basis, bias)]
