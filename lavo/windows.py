"""The first half of LAVO, block by block: exact attention inside windows (docs/notation.md, "local").

    scores   s_tj = q_t·k_j / √d + P[t−j]                   j in the window of t
    local    e_t = Σ_j p_tj v_j,   p = softmax_j(s)         l_t = log Σ_j exp(s_tj)

and its gradients, from those of e and l:

    dv_j = Σ_t p_tj de_t
    ds_tj = p_tj (de_t·v_j − δ_t),   δ_t = de_t·e_t − dl_t
    dq_t = Σ_j ds_tj k_j / √d,   dk_j = Σ_t ds_tj q_t / √d,   dP[i] = Σ_{t−j=i} ds_tj
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavo.blocks import Block, Tokens, Workspace, accumulation_dtype, store


def bias_matrix(bias: Tensor | None, size: int, window: int, causal: bool, q: Tensor) -> Tensor:
    """P[t - j] for all pairs of a window, minus infinity in the future where causal.  (h, size, size)"""
    dtype, num_heads = accumulation_dtype(q), q.shape[1]
    if bias is None:
        bias = torch.zeros(1, window if causal else 2 * window - 1, dtype=dtype, device=q.device)
    bias = bias.to(dtype)
    by_distance = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
    # One row holds all distances t - j, the largest first; row t of the matrix is the part that starts at size - 1 - t.
    row = by_distance.flip(1)
    if causal:
        row = torch.nn.functional.pad(row, (0, size - 1), value=float("-inf"))
    return row.unfold(1, size, 1).flip(1).expand(num_heads, -1, -1)


class Local(NamedTuple):
    """The local summaries and their log-sum-exps: of a sequence, (b, h, n, d) and (b, h, n), or of a block as below."""

    e: Tensor  # (g, R, d)
    lse: Tensor | None  # (g, rows, tokens); None without windows, where e is v

    @staticmethod
    def like(q: Tensor) -> Local:
        """Uninitialised, for the sequence of q (b, h, n, d)."""
        return Local(torch.empty_like(q), torch.empty(q.shape[:3], dtype=accumulation_dtype(q), device=q.device))

    def read(self, block: Block, work: Workspace) -> Local:
        """Those of a block, from those of a sequence."""
        return Local(work.read("e", block.of(self.e)), None if self.lse is None else block.of(self.lse))

    def store(self, block: Block, local: Local) -> None:
        """Writes those of a block into those of the sequence."""
        store(block.of(self.e), local.e)
        if self.lse is not None and local.lse is not None:
            block.of(self.lse).copy_(local.lse)


class LocalGradients(NamedTuple):
    """Of a block's ``Local``."""

    e: Tensor  # (g, R, d)
    lse: Tensor | None  # (g, R, 1)


class Windows(NamedTuple):
    """What all blocks of a pass have in common here."""

    bias: Tensor | None  # (h, w, w), see bias_matrix; None without windows
    work: Workspace
    real: Tensor | None = None  # (b, n), 1 for a real token and 0 for a padded one; None if all are real

    def forward(self, block: Block, tokens: Tokens, e: Tensor) -> tuple[Local, Tensor | None]:
        """The local summaries, in e (g, R, d), and the softmax of the scores, (x, w, w).

        Without windows the summaries are the values, and e stays as it is.
        """
        if self.bias is None:
            return Local(tokens.v, None), None
        windows = tokens.windows(block)
        weights = self.scores(block, windows, self.bias)
        peak = weights.amax(-1)
        torch.bmm(torch.softmax(weights, -1, out=weights), windows.v, out=block.windows(e))
        lse = peak.sub_(weights.amax(-1).log_())  # the peak's weight is exp(peak - lse), and never below 1 / w
        return Local(e, lse.view(block.shape)), weights

    def scores(self, block: Block, windows: Tokens, bias: Tensor) -> Tensor:
        """(x, w, w)"""
        q, k, _ = windows
        bias = block.bias(bias)
        scores = self.work.own("scores", q.shape[0], q.shape[1], q.shape[1])
        scores.view(bias.shape[0], -1, *bias.shape[1:]).copy_(bias[:, None])
        scores.baddbmm_(q, k.mT, alpha=q.shape[2] ** -0.5)
        if self.real is not None:
            padded = self.real[block.chunk.rows, block.chunk.tokens] == 0
            keys = padded.expand(*block.shape).reshape(-1, 1, block.chunk.window)  # (x, 1, w)
            scores.masked_fill_(keys, torch.finfo(scores.dtype).min)  # minus infinity would make nan of an empty window
        return scores

    def backward(
        self,
        block: Block,
        tokens: Tokens,
        e: Tensor,
        weights: Tensor | None,
        given: LocalGradients,
        into: Tokens,
        dbias: Tensor | None,
    ) -> None:
        """Adds to q of ``into``, fills its k and v, all (g, R, d), and adds to dbias (h, w, w).

        e: (g, R, d).  weights: the softmax of the scores, None to compute it again.
        """
        if self.bias is None:
            into.k.zero_()
            into.v.copy_(given.e)
            return
        delta = torch.mul(given.e, e, out=self.work.take("de_e", *e.shape)).sum(-1, keepdim=True)
        if given.lse is not None:
            delta -= given.lse
        (q, k, v), (dq, dk, dv) = tokens.windows(block), into.windows(block)
        de, delta, scale = block.windows(given.e), block.windows(delta), q.shape[2] ** -0.5
        if weights is None:
            weights = self.scores(block, Tokens(q, k, v), self.bias)
            torch.softmax(weights, -1, out=weights)
        torch.bmm(weights.mT, de, out=dv)
        dscores = self.work.take("dscores", *weights.shape)
        torch.baddbmm(delta, de, v.mT, beta=-1, out=dscores)
        dscores.mul_(weights)
        torch.baddbmm(dq, dscores, k, alpha=scale, out=dq)
        torch.baddbmm(dk, dscores.mT, q, beta=0, alpha=scale, out=dk)
        if dbias is not None:
            block.bias(dbias).add_(dscores.view(block.shape[0], -1, *dscores.shape[1:]).sum(1))
