"""The first half of LAVO, block by block: exact attention inside windows (docs/notation.md, "local").

For one head, with P the bias by distance:

    scores   s_tj = q_t·k_j / √d + P[t−j]                   j in the window of t
    local    e_t = Σ_j p_tj v_j,   p = softmax_j(s)         l_t = log Σ_j exp(s_tj)

Given de and dl, the gradients of e and l, the other gradients are:

    dv_j = Σ_t p_tj de_t
    dp_tj = de_t·v_j
    ds_tj = p_tj (dp_tj − Σ_i p_ti dp_ti + dl_t)
    dq_t = Σ_j ds_tj k_j / √d,   dk_j = Σ_t ds_tj q_t / √d,   dP[i] = Σ_{t−j=i} ds_tj

Shapes are those of a block (blocks.py): matrices (g, R, d), which seen as x windows of w tokens are (x, w, d).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo.blocks import Block, Tokens, Workspace, accumulation_dtype, softmax_backward_, store


def bias_matrix(bias: Tensor | None, size: int, window: int, causal: bool, q: Tensor) -> Tensor:
    """Returns P[t - j] for all pairs of tokens of a window, (h, size, size); minus infinity for j > t if ``causal``.

    bias: (h, window) if ``causal``, else (h, 2 window - 1); None gives zeros in place of P.
    size: the tokens of the longest window, at most ``window``.  q: (b, h, n, d), for the dtype and the device.
    """
    dtype, num_heads = accumulation_dtype(q), q.shape[1]
    if bias is None:
        bias = torch.zeros(1, window if causal else 2 * window - 1, dtype=dtype, device=q.device)
    bias = bias.to(dtype)
    entries = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
    matrix = _BiasMatrix.apply(entries, size, causal) if entries.requires_grad else _all_pairs(entries, size, causal)
    return matrix.expand(num_heads, -1, -1)


def _all_pairs(entries: Tensor, size: int, causal: bool) -> Tensor:
    """Returns P[t - j], (h, size, size), from the entries of P, (h, size) if ``causal``, else (h, 2 size - 1)."""
    # One row holds all distances t - j, the largest first; row t of the matrix is the part that starts at size - 1 - t.
    row = entries.flip(1)
    if causal:
        row = torch.nn.functional.pad(row, (0, size - 1), value=float("-inf"))
    return row.unfold(1, size, 1).flip(1)


class _BiasMatrix(torch.autograd.Function):
    """``_all_pairs`` with a gradient of its own: for 8 heads and 64 entries autograd's takes 0.1 ms, and this one 0.04 ms."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, size: int, causal: bool) -> Tensor:
        ctx.size, ctx.causal = size, causal
        return _all_pairs(entries, size, causal)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return by_distance(grad, ctx.size, ctx.causal), None, None


def by_distance(pairs: Tensor, window: int, causal: bool) -> Tensor:
    """Adds up the pairs of equal distance t - j: (h, side, side) -> (h, window) if ``causal``, else (h, 2 window - 1)."""
    pairs = pairs[:, :window, :window].flip(2)
    # Pairs of one distance are on one diagonal.  Each row is padded to 2 window numbers, and the numbers are then read as rows
    # of 2 window - 1.  So each row moves one place further to the right than the row before, and diagonals become columns.
    flat = torch.nn.functional.pad(pairs, (0, window)).flatten(1)[:, : window * (2 * window - 1)]
    sums = flat.view(-1, window, 2 * window - 1).sum(1)  # entry i for the distance i - (window - 1)
    return sums[:, window - 1 :] if causal else sums


class Local(NamedTuple):
    """The outputs e of the windows ("local summaries") and their log-sum-exps l, of a whole sequence or of one block."""

    e: Tensor  # sequence: (b, h, n, d); block: (g, R, d)
    lse: Tensor | None  # sequence: (b, h, n); block: (g, rows, tokens); None if the output does not need it

    @staticmethod
    def like(q: Tensor, output: str) -> Local:
        """Returns uninitialised tensors for a sequence whose queries are q, (b, h, n, d)."""
        lse = None
        if needs_lse(output):
            lse = torch.empty(q.shape[:3], dtype=accumulation_dtype(q), device=q.device)
        return Local(torch.empty_like(q), lse)

    def read(self, block: Block, work: Workspace) -> Local:
        """Returns the part of a sequence's summaries that belongs to a block."""
        return Local(work.read("e", block.of(self.e)), None if self.lse is None else block.of(self.lse))

    def store(self, block: Block, local: Local) -> None:
        """Writes the summaries of a block, ``local``, to their places in this sequence."""
        store(block.of(self.e), local.e)
        if self.lse is not None and local.lse is not None:
            block.of(self.lse).copy_(local.lse)


def needs_lse(output: str) -> bool:
    """Returns whether this form of output reads the log-sum-exps of the windows."""
    return output == "joint"


class LocalGradients(NamedTuple):
    """Gradients of the two fields of a block's ``Local``."""

    e: Tensor  # (g, R, d)
    lse: Tensor | None  # (g, R, 1); None if l has no part in the output


class Windows(NamedTuple):
    """Exact attention in windows, with what is the same for all blocks of a pass."""

    bias: Tensor | None  # (h, w, w), from bias_matrix; None if there are no windows
    work: Workspace
    lse: bool  # whether ``forward`` computes the log-sum-exps
    real: Tensor | None = None  # (b, n), 1 for a real token and 0 for a padded one; None if all are real

    def forward(self, block: Block, tokens: Tokens, e: Tensor) -> tuple[Local, Tensor | None]:
        """Writes the summaries to ``e`` (g, R, d); returns them as ``Local``, and the softmax of the scores, (x, w, w).

        If there are no windows, the values are the summaries, and nothing is written to ``e``.
        """
        if self.bias is None:
            return Local(tokens.v, None), None
        windows = tokens.windows(block)
        weights = self.scores(block, windows, self.bias)
        lse = weights.amax(-1) if self.lse else None
        torch.bmm(torch.softmax(weights, -1, out=weights), windows.v, out=block.windows(e))
        if lse is not None:
            # The largest score has the weight exp(peak - lse), so lse = peak - log(weight).  That weight is at least 1 / w,
            # so its logarithm is safe.
            lse = lse.sub_(weights.amax(-1).log_()).view(block.shape)
        return Local(e, lse), weights

    def scores(self, block: Block, windows: Tokens, bias: Tensor) -> Tensor:
        """Returns the scores, (x, w, w).  windows: (x, w, d) each.  bias: (h, w, w)."""
        q, k, _ = windows
        bias = block.bias(bias)
        scores = self.work.own("scores", q.shape[0], q.shape[1], q.shape[1])
        scores.view(bias.shape[0], -1, *bias.shape[1:]).copy_(bias[:, None])
        scores.baddbmm_(q, k.mT, alpha=q.shape[2] ** -0.5)
        if self.real is not None:
            padded = self.real[block.chunk.rows, block.chunk.tokens] == 0
            keys = padded.expand(*block.shape).reshape(-1, 1, block.chunk.window)  # (x, 1, w)
            # Not minus infinity, because the softmax of a window of padding alone would then be nan.
            scores.masked_fill_(keys, torch.finfo(scores.dtype).min)
        return scores

    def backward(
        self,
        block: Block,
        tokens: Tokens,
        weights: Tensor | None,
        given: LocalGradients,
        into: Tokens,
        dbias: Tensor | None,
    ) -> None:
        """Adds to ``into.q``, which holds the gradient from the memory or zeros; writes ``into.k`` and ``into.v``; adds to dbias.

        The tensors of ``tokens`` and ``into``: (g, R, d).  dbias: (h, w, w), or None if it is not wanted.
        weights: the softmax of the scores, as ``forward`` returned it, or None to compute it again.
        given: the gradients of e and l.
        """
        if self.bias is None:
            into.k.zero_()
            into.v.copy_(given.e)
            return
        (q, k, v), (dq, dk, dv) = tokens.windows(block), into.windows(block)
        de, scale = block.windows(given.e), q.shape[2] ** -0.5
        if weights is None:
            weights = self.scores(block, Tokens(q, k, v), self.bias)
            torch.softmax(weights, -1, out=weights)
        torch.bmm(weights.mT, de, out=dv)
        dscores = torch.bmm(de, v.mT, out=self.work.take("dscores", *weights.shape))
        softmax_backward_(dscores, weights)
        if given.lse is not None:
            dscores.addcmul_(weights, given.lse.reshape(-1, block.chunk.window, 1))
        torch.baddbmm(dq, dscores, k, alpha=scale, out=dq)
        torch.baddbmm(dk, dscores.mT, q, beta=0, alpha=scale, out=dk)
        if dbias is not None:
            block.bias(dbias).add_(dscores.view(block.shape[0], -1, *dscores.shape[1:]).sum(1))
