"""The second half of LAVO, block by block: the orthogonal memory (docs/notation.md, "compress", "read" and "output").

    compress  H_t = mean_{i∈C(t)} c_i,   c_i = B e_i
    read      g_t = Bᵀ x_t,   x_t = p_t ⊙ H_t,   p_t = softmax_u(a_t ⊙ H_t / √d),   a_t = B q_t
    output    o_t = s_t e_t + g_t

``joint`` takes l_t, the log-sum-exp of the window's scores, as one score more of that softmax: s_t is what it gets of the
weight.  ``sum`` has s_t = 1 and ``memory`` has s_t = 0.  The gradients, from that of o, with z the scores of the softmax, a ⊙ H / √d:

    dx_t = B do_t,   ds_t = do_t·e_t
    dz_t = p_t ⊙ dx_t ⊙ H_t − p_t ι_t,   ι_t = x_t·dx_t + s_t ds_t (``inner``),   dl_t = s_t (ds_t − ι_t)
    dH_t = p_t ⊙ dx_t + dz_t ⊙ a_t / √d,   dq_t = Bᵀ(dz_t ⊙ H_t) / √d
    dc_i = Σ_{t: i∈C(t)} dH_t / |C(t)|,   de_i = s_i do_i + Bᵀ dc_i
    dB = Σ_t x_t do_tᵀ + (dz_t ⊙ H_t) q_tᵀ / √d + dc_t e_tᵀ
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lavo.blocks import Block, Chunk, Workspace, carry_dtype
from lavo.windows import Local, LocalGradients

PACK = 8  # columns beside the memory's scores: one for the window, the others keep rows aligned


def in_basis(x: Tensor, basis: Tensor | None, name: str, work: Workspace) -> Tensor:
    """x Bᵀ, (g, R, d) -> (g, R, r), in the buffer of this name; x itself without a basis."""
    return x if basis is None else torch.bmm(x, basis.mT, out=work.take(name, *x.shape[:2], basis.shape[1]))


class RunningMean:
    """The causal mean over a chunk, and its transpose.

    Inside short spans the sums so far are a product with a triangular matrix of ones; across spans they are a cumulative
    sum of totals, carried on in float64.  torch.cumsum over the whole chunk would take as long as a matrix product alone, and
    would need two more passes over the chunk.
    """

    def __init__(self, chunk: Chunk, start: int, work: Workspace) -> None:
        """start: tokens before the sequence that the chunk is cut from."""
        self.span = next((s for s in range(16, chunk.window) if chunk.window % s == 0), chunk.window)
        first, tokens = start + chunk.tokens.start + 1, chunk.shape[1]
        count = torch.arange(first, first + tokens, dtype=carry_dtype(work.device), device=work.device)
        self.weight = count.reciprocal_().to(work.dtype).view(-1, self.span, 1)
        self.ones = torch.ones(self.span, self.span, dtype=work.dtype, device=work.device).tril_()

    def forward(self, c: Tensor, before: Tensor, out: Tensor) -> Tensor:
        """The means of c (g, R, r) in out.  before: (g, rows, r), the sum so far; returns the sum after the chunk."""
        flat, spans = self._spans(c, out, before)
        torch.bmm(self.ones.expand(len(flat), -1, -1), flat, out=spans.view(flat.shape))
        totals = torch.cat([before[:, :, None], spans[:, :, :, -1].to(before.dtype)], 2)
        starts = totals.cumsum(2)  # summed from the start: a difference of sums would let rounding leak the future
        spans.add_(starts[:, :, :-1, None].to(c.dtype)).mul_(self.weight)
        return starts[:, :, -1]

    def backward(self, grad: Tensor, after: Tensor, out: Tensor) -> Tensor:
        """The gradient of c in out, from that of the means, which it uses up.

        after: (g, rows, r), what later chunks give each token; returns it for the chunk before.
        """
        flat, spans = self._spans(grad, out, after)
        flat.view(spans.shape).mul_(self.weight)
        torch.bmm(self.ones.mT.expand(len(flat), -1, -1), flat, out=spans.view(flat.shape))
        first = spans[:, :, :, 0].to(after.dtype)  # the first token of a span is in all its means: this is their total
        ends = torch.cat([first, after[:, :, None]], 2).flip(2).cumsum(2).flip(2)
        spans.add_(ends[:, :, 1:, None].to(out.dtype))
        return ends[:, :, 0]

    def _spans(self, source: Tensor, target: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """(g, R, r) as (g R / span, span, r), and as (g, rows, tokens / span, span, r)."""
        rank = source.shape[2]
        return source.view(-1, self.span, rank), target.view(*carried.shape[:2], -1, self.span, rank)


class Read(NamedTuple):
    """What a block computed on its way; a field that is None is computed again in the backward pass."""

    H: Tensor | None = None  # (g, R, r); None also where all tokens share one
    a: Tensor | None = None  # (g, R, r)
    softmax: Tensor | None = None  # see Memory.softmax


class Gradients(NamedTuple):
    """Of a block: of the output, given; of the queries, to be filled; of the basis, to be added to."""

    out: Tensor  # (g, R, d)
    q: Tensor  # (g, R, d)
    basis: Tensor | None  # (g, r, d)


class ReadGradients(NamedTuple):
    """What ``Memory.backward`` gives to the summaries."""

    H: Tensor  # (g, R, r), token by token also where all tokens share one H
    lse: Tensor | None  # (g, R, 1)
    share: Tensor | None  # (g, R, 1), the window's share s; no gradient, but the gradient of e is made with it


def combine(x: Tensor, basis: Tensor | None, e: Tensor | None, share: Tensor | None, out: Tensor) -> Tensor:
    """out = x B + share e, all (g, R, .).  basis None is the identity, share None is 1, e None is 0; out may be e."""
    if e is None:
        return out.copy_(x) if basis is None else torch.bmm(x, basis, out=out)
    if basis is None:
        return torch.add(x, e, out=out) if share is None else torch.addcmul(x, e, share, out=out)
    return torch.baddbmm(e, x, basis, out=out) if share is None else torch.mul(e, share, out=out).baddbmm_(x, basis)


def shares(softmax: Tensor, rank: int) -> tuple[Tensor, Tensor | None]:
    """The memory's weights, (g, rows, tokens, r), and the window's share, (g, rows, tokens, 1) or None."""
    return softmax[..., :rank], softmax[..., rank : rank + 1] if softmax.shape[3] > rank else None


def column(x: Tensor | None) -> Tensor | None:
    """(g, rows, tokens, 1) -> (g, R, 1)"""
    return None if x is None else x.view(x.shape[0], -1, 1)


class Memory(NamedTuple):
    """Reading and output: what all blocks of a pass have in common here."""

    basis: Tensor | None  # (h, r, d); None stands for the head's own axes
    output: str  # "joint", "sum" or "memory"
    work: Workspace

    def forward(self, block: Block, q: Tensor, H: Tensor, local: Local, out: Tensor) -> Read:
        """Fills out.  q, out: (g, R, d); H: (g, rows, tokens or 1, r)."""
        basis = block.basis(self.basis)
        # x is written when a has been read for the last time, unless a is kept; so the two share a buffer.
        a = q if basis is None else torch.bmm(q, basis.mT, out=self.work.own("x", *q.shape[:2], basis.shape[1]))
        softmax = self.softmax(block.tokens(a), H, local, q.shape[2] ** -0.5)
        weights, share = shares(softmax, a.shape[2])
        x = self.work.take("x", *a.shape)
        torch.mul(weights, H, out=block.tokens(x))
        combine(x, basis, None if self.output == "memory" else local.e, column(share), out)
        # Without a basis a is q, which may lie in the workspace, where the next block overwrites it.
        return Read(a=None if basis is None else a, softmax=softmax)

    def softmax(self, a: Tensor, H: Tensor, local: Local, scale: float) -> Tensor:
        """The weights of the units, (g, rows, tokens, r); if joint (…, r + PACK), with the window's share in column r.

        a: (g, rows, tokens, r); H: (g, rows, tokens or 1, r).
        """
        rank, lse = a.shape[3], local.lse if self.output == "joint" else None
        weights = self.work.own("softmax", *a.shape[:3], rank if lse is None else rank + PACK)
        torch.addcmul(self.work.zero, a, H, value=scale, out=weights[..., :rank])
        if lse is not None:
            weights[..., rank:] = float("-inf")
            weights[..., rank] = lse
        return torch.softmax(weights, -1, out=weights)

    def backward(
        self, block: Block, q: Tensor, H: Tensor, local: Local, read: Read, gradients: Gradients
    ) -> ReadGradients:
        """Fills q of ``gradients`` and adds to its basis.  Shapes as in ``forward``."""
        work, scale, grad, basis = self.work, q.shape[2] ** -0.5, gradients.out, block.basis(self.basis)
        a = in_basis(q, basis, "a", work) if read.a is None else read.a
        dx = in_basis(grad, basis, "dx", work)
        softmax = read.softmax
        if softmax is None:
            softmax = self.softmax(block.tokens(a), H, local, scale)
        by_token, share = shares(softmax, a.shape[2])
        weights, share = by_token.view(*a.shape[:2], -1), column(share)
        dshare = None
        if share is not None:
            dshare = torch.mul(grad, local.e, out=work.take("grad_e", *grad.shape)).sum(-1, keepdim=True)
        x = work.take("x", *a.shape)
        torch.mul(by_token, H, out=block.tokens(x))
        if gradients.basis is not None:
            gradients.basis.baddbmm_(x.mT, grad)
        x_dx = torch.mul(x, dx, out=work.take("x_dx", *a.shape))
        inner, dlse = x_dx.sum(-1, keepdim=True), None
        if share is not None and dshare is not None:
            inner.addcmul_(share, dshare)
            dlse = (dshare - inner).mul_(share)
        dscores = x_dx.addcmul_(weights, inner, value=-1)
        dH = torch.mul(dx, weights, out=work.take("dH", *a.shape)).addcmul_(dscores, a, value=scale)
        if basis is None:
            torch.addcmul(work.zero, block.tokens(dscores), H, value=scale, out=block.tokens(gradients.q))
        else:
            da = dscores
            block.tokens(da).mul_(H)
            torch.baddbmm(gradients.q, da, basis, beta=0, alpha=scale, out=gradients.q)
            if gradients.basis is not None:
                gradients.basis.baddbmm_(da.mT, q, alpha=scale)
        return ReadGradients(dH, dlse, share)


class CausalMemory:
    """Running mean, reading and output of the causal form, chunk after chunk; backward from the last chunk to the first.

    carried: (b, h, r), changed in place.  Forward it is the sum of B e over the tokens so far.  Backward, from the last token
    to the first, it is what the tokens so far give to c of every earlier one.
    start: tokens before the sequence.
    """

    def __init__(self, memory: Memory, carried: Tensor, start: int) -> None:
        self.memory, self.carried, self.start = memory, carried, start
        self.mean: RunningMean
        self.before: Tensor

    def enter(self, chunk: Chunk, before: Tensor | None = None) -> Tensor:
        """Must come before the blocks of a chunk.  Returns the sum before the chunk, (h, rows, r).

        before: backward, what this returned forward.
        """
        self.mean = RunningMean(chunk, self.start, self.memory.work)
        self.before = self.carried[chunk.rows].transpose(0, 1).clone() if before is None else before
        return self.before

    def forward(self, block: Block, q: Tensor, local: Local, out: Tensor) -> Read:
        """Fills out.  q, out: (g, R, d)."""
        H, after = self._compress(block, local.e)
        block.carried(self.carried).copy_(after)
        return self.memory.forward(block, q, block.tokens(H), local, out)._replace(H=H)

    def _compress(self, block: Block, e: Tensor) -> tuple[Tensor, Tensor]:
        """H (g, R, r), and the sum after the chunk, (g, rows, r)."""
        work, basis = self.memory.work, block.basis(self.memory.basis)
        c = in_basis(e, basis, "c", work)
        H = work.own("H", *c.shape)
        return H, self.mean.forward(c, self.before[block.heads], H)

    def backward(
        self, block: Block, q: Tensor, local: Local, read: Read, gradients: Gradients, de: Tensor | None = None
    ) -> LocalGradients:
        """Fills q of ``gradients`` and adds to its basis.  de: (g, R, d), where to write the gradient of e."""
        work, basis = self.memory.work, block.basis(self.memory.basis)
        H = self._compress(block, local.e)[0] if read.H is None else read.H
        dH, dlse, share = self.memory.backward(block, q, block.tokens(H), local, read, gradients)
        dc, later = work.take("dc", *H.shape), block.carried(self.carried)
        later.copy_(self.mean.backward(dH, later, dc))
        if gradients.basis is not None:
            gradients.basis.baddbmm_(dc.mT, local.e)
        de = work.take("de", *local.e.shape) if de is None else de
        combine(dc, basis, None if self.memory.output == "memory" else gradients.out, share, de)
        return LocalGradients(de, dlse)
