"""Backend "reference": the definition of LAVO, written beside its formulas (docs/notation.md), in any precision.

It forms the n x n scores and the n x r x d memory, so it is for reading and for comparison, not for long inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from torch import Tensor


def self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor,
    *,
    window: int,
    bias: Tensor | None,
    causal: bool,
    key_padding_mask: Tensor | None,
    output: str,
    dissect: bool,
    window_overlap: bool = False,
) -> Tensor:
    """Computes LAVO over one sequence.  q, k, v: (b, h, n, d).  basis: (h, r, d).  Returns (b, h, n, d), zeros where padded.

    The other arguments are those of ``lavo.functional.lavo_attention``.
    """
    options: dict[str, Any] = {"window": window, "bias": bias, "causal": causal, "output": output, "dissect": dissect}
    options["window_overlap"] = window_overlap
    if key_padding_mask is None:
        return _sequence(q, k, v, basis, **options)
    rows = []
    for q_row, k_row, v_row, padded in zip(q, k, v, key_padding_mask, strict=True):
        real = (~padded).nonzero()[:, 0]  # padded tokens are removed, and zeros are put in their places below
        if not len(real):  # the mean of no tokens would be nan, and the gradient of the basis too
            rows.append(torch.zeros_like(q_row))
            continue
        out = _sequence(q_row[None, :, real], k_row[None, :, real], v_row[None, :, real], basis, **options)
        rows.append(torch.zeros_like(q_row).index_copy(1, real, out[0]))
    return torch.stack(rows) if rows else torch.zeros_like(q)


def cross_attention(q: Tensor, v: Tensor, basis: Tensor, *, key_padding_mask: Tensor | None) -> Tensor:
    """Computes LAVO over another sequence.  q: (b, h, n, d).  v: (b, h, m, d).  basis: (h, r, d).  Returns (b, h, n, d)."""
    query, value, basis = (x.to(_precision(x)) for x in (q, v, basis))
    real = torch.ones(v.shape[0], v.shape[2], dtype=torch.bool, device=v.device)
    if key_padding_mask is not None:
        real = ~key_padding_mask
    value = value.masked_fill(~real[:, None, :, None], 0)
    count = real.sum(1).clamp_min(1)  # for an empty source H is then 0, and the output too
    H = einsum(basis, value, "h r d, b h m d -> b h r") / count[:, None, None]
    memory = einsum(H, basis, "b h r, h r d -> b h r d")
    return _read(query, memory[:, :, None])[0].to(q.dtype)


def _sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor,
    *,
    window: int,
    bias: Tensor | None,
    causal: bool,
    output: str,
    dissect: bool,
    window_overlap: bool,
) -> Tensor:
    """Computes self-attention of sequences without padding.  Arguments and result as for ``self_attention``."""
    query, key, value, basis = (x.to(_precision(x)) for x in (q, k, v, basis))
    n, d = query.shape[2:]
    t = torch.arange(n, device=q.device)
    distance = t[:, None] - t[None, :]  # t - j

    if dissect:  # local: e_t = sum over j in W(t) of softmax_j(q_t . k_j / sqrt(d) + P[t - j]) v_j
        if window_overlap:  # the block of half a window that the token is in, and its neighbours
            block = t // (window // 2)
            visible = (block[:, None] - block[None, :]).abs() <= 1
        else:
            visible = t[:, None] // window == t[None, :] // window
        if causal:
            visible &= distance >= 0
        scores = einsum(query, key, "b h t d, b h j d -> b h t j") * d**-0.5
        if bias is not None:
            first = 0 if causal else 1 - window  # the distance of entry 0
            scores = scores + bias.to(scores.dtype)[:, (distance - first).clamp(0, bias.shape[1] - 1)]
        scores = scores.masked_fill(~visible, float("-inf"))
        local, lse_local = scores.softmax(-1) @ value, scores.logsumexp(-1)
    else:
        local = value

    coefficients = einsum(basis, local, "h r d, b h i d -> b h i r")  # compress: H_t = mean over i in C(t) of B e_i
    if causal:
        H = coefficients.cumsum(2) / (t + 1)[:, None]
    else:
        H = coefficients.mean(2, keepdim=True)
    memory = einsum(H, basis, "b h t r, h r d -> b h t r d")  # m_{t,u} = H_{t,u} b_u

    read, lse_memory = _read(query, memory)
    if output == "memory" or not dissect:
        out = read
    elif output == "sum":
        out = local + read
    else:
        share = torch.sigmoid(lse_local - lse_memory)[..., None]
        out = share * local + (1 - share) * read
    return out.to(q.dtype)


def _read(query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Returns g_t = sum over u of softmax_u(q_t . m_{t,u} / sqrt(d)) m_{t,u}, and the log-sum-exp of the scores.

    query: (b, h, n, d).  memory: (b, h, n, r, d), or (b, h, 1, r, d) if all queries share one.
    """
    memory = memory.expand(-1, -1, query.shape[2], -1, -1)
    scores = einsum(query, memory, "b h t d, b h t u d -> b h t u") * query.shape[-1] ** -0.5
    return einsum(scores.softmax(-1), memory, "b h t u, b h t u d -> b h t d"), scores.logsumexp(-1)


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # because sums over many tokens need float32 at least
