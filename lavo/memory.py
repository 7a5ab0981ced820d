"""The second half of LAVO, block by block: the orthogonal memory (docs/notation.md, "compress", "read" and "output").

For one head: e_t is the output of the window attention for token t, and l_t the log-sum-exp of its scores (windows.py).
B (r x d) is the basis, C(t) is the set of tokens that t may see, and u counts the r units of the memory.

    compress  H_t = mean_{i∈C(t)} c_i,   c_i = B e_i
    read      g_t = Bᵀ x_t,   x_t = p_t ⊙ H_t,   p_t = softmax_u(a_t ⊙ H_t / √d),   a_t = B q_t
    output    o_t = s_t e_t + g_t

``joint`` appends l_t to the softmax as one more score, and s_t is the weight that this score gets.  ``sum`` has s_t = 1 and
``memory`` has s_t = 0.

Given do, the gradient of o, and with z for the scores of the softmax, the gradients are as follows.  In ``joint`` the softmax
has l_t and s_t among its scores and weights, so dz has dl and dp has ds; the others have a constant s.

    dx_t = B do_t,   dp_t = dx_t ⊙ H_t,   ds_t = do_t·e_t
    dz_t = p_t ⊙ (dp_t − Σ_u p_tu dp_tu)
    dH_t = p_t ⊙ dx_t + dz_t ⊙ a_t / √d,   dq_t = Bᵀ(dz_t ⊙ H_t) / √d
    dc_i = Σ_{t: i∈C(t)} dH_t / |C(t)|,   de_i = s_i do_i + Bᵀ dc_i
    dB = Σ_t x_t do_tᵀ + (dz_t ⊙ H_t) q_tᵀ / √d + dc_t e_tᵀ

Shapes are those of a block (blocks.py): g heads, ``rows`` rows of the batch, and R = rows x tokens rows in each matrix.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo.blocks import Block, Chunk, Workspace, carry_dtype, chunks, softmax_backward_, store
from lavo.windows import Local, LocalGradients, needs_lse

# Extra columns in the matrix of scores: the first holds the window's score, and the other seven are minus infinity and only
# keep the rows aligned in memory.
PACK = 8


def in_basis(x: Tensor, basis: Tensor | None, name: str, work: Workspace) -> Tensor:
    """Returns x Bᵀ, (g, R, d) -> (g, R, r), in the buffer of this name.  Returns x itself if there is no basis."""
    return x if basis is None else torch.bmm(x, basis.mT, out=work.take(name, *x.shape[:2], basis.shape[1]))


@cache
def triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a lower triangle of ones, (size, size), which is made only once."""
    return torch.ones(size, size, dtype=dtype, device=device).tril_()


@lru_cache(maxsize=64)
def reciprocals(first: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns 1 / first, 1 / (first + 1), …, (count,).  The last results are kept, because training repeats its lengths."""
    numbers = torch.arange(first, first + count, dtype=carry_dtype(device), device=device)
    return numbers.reciprocal_().to(dtype)


class RunningMean:
    """The mean over all tokens so far, for each token of a chunk; ``backward`` applies the transpose of this linear map.

    The sums are computed in two levels.  Within a short span they are a product with a triangular matrix of ones.  Across
    spans, the totals of the spans are accumulated (in ``carry_dtype``).  A plain torch.cumsum would take as long as a matrix
    product and go through the chunk in memory twice more.
    """

    def __init__(self, chunk: Chunk, start: int, work: Workspace) -> None:
        """start: the number of tokens that were read before the sequence that the chunk is cut from."""
        self.span = next((s for s in range(16, chunk.window) if chunk.window % s == 0), chunk.window)
        first = start + chunk.tokens.start + 1
        self.weight = reciprocals(first, chunk.shape[1], work.dtype, work.device).view(-1, self.span, 1)
        self.ones = triangle(self.span, work.dtype, work.device)

    def forward(self, c: Tensor, before: Tensor, out: Tensor) -> Tensor:
        """Writes the means of c to ``out``, both (g, R, r), and returns the sum of c after the chunk, (g, rows, r).

        before: (g, rows, r), the sum of c over all tokens before the chunk.
        """
        flat, spans = self._spans(c, out, before)
        torch.bmm(self.ones.expand(len(flat), -1, -1), flat, out=spans.view(flat.shape))
        totals = torch.cat([before[:, :, None], spans[:, :, :, -1].to(before.dtype)], 2)
        # The sum before a span is added up from earlier spans only.  Subtracting the span's own total from a later sum would
        # leave a rounding error that depends on future tokens.
        starts = totals.cumsum(2)
        spans.add_(starts[:, :, :-1, None].to(c.dtype)).mul_(self.weight)
        return starts[:, :, -1]

    def backward(self, grad: Tensor, after: Tensor, out: Tensor) -> Tensor:
        """Writes the gradient of c to ``out``.  grad, the gradient of the means, is overwritten.  Both are (g, R, r).

        after: (g, rows, r), the gradient that every c of this chunk gets from the means of later chunks.
        Returns the same for the chunk before this one.
        """
        flat, spans = self._spans(grad, out, after)
        flat.view(spans.shape).mul_(self.weight)  # in place: ``flat`` is a view of grad
        torch.bmm(self.ones.mT.expand(len(flat), -1, -1), flat, out=spans.view(flat.shape))
        # The first token of a span is part of every mean of that span, so its gradient is the total over the span.
        first = spans[:, :, :, 0].to(after.dtype)
        ends = torch.cat([first, after[:, :, None]], 2).flip(2).cumsum(2).flip(2)
        spans.add_(ends[:, :, 1:, None].to(out.dtype))
        return ends[:, :, 0]

    def _spans(self, source: Tensor, target: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Returns views: ``source`` (g, R, r) as (g R / span, span, r), ``target`` as (g, rows, tokens / span, span, r)."""
        rank = source.shape[2]
        return source.view(-1, self.span, rank), target.view(*carried.shape[:2], -1, self.span, rank)


class Read(NamedTuple):
    """Intermediate results of a block's forward pass that are kept for backward.  A field that is None is recomputed there."""

    H: Tensor | None = None  # (g, R, r); always None in the noncausal form, where all tokens share one H
    a: Tensor | None = None  # (g, R, r)
    softmax: Tensor | None = None  # as Memory.softmax returns it


class Gradients(NamedTuple):
    """Gradients of one block: ``out`` is given, ``q`` is written, and ``basis`` is accumulated into."""

    out: Tensor  # (g, R, d)
    q: Tensor  # (g, R, d)
    basis: Tensor | None  # (g, r, d); None if there is no basis or its gradient is not wanted


class ReadGradients(NamedTuple):
    """What ``Memory.backward`` returns for the gradients of e and l.  The two optional fields are set only for ``joint``."""

    H: Tensor  # (g, R, r), the gradient of H by token; the caller adds them up if all tokens share one H
    lse: Tensor | None  # (g, R, 1), the gradient of l
    share: Tensor | None  # (g, R, 1), s itself, not its gradient: the gradient of e contains s do


def combine_units(weights: Tensor, H: Tensor, e: Tensor | None, share: Tensor | None, out: Tensor) -> Tensor:
    """Writes weights ⊙ H + share e to ``out`` and returns it: the output if there is no basis.  out may be the tensor e.

    All are (g, rows, tokens, d), but share (g, rows, tokens, 1) and H, which may be (g, rows, 1, d).  e None means 0, and share
    None means 1.
    """
    if e is None:
        return torch.mul(weights, H, out=out)
    if share is not None:
        e = torch.mul(e, share, out=out)
    return torch.addcmul(e, weights, H, out=out)


def combine(x: Tensor, basis: Tensor | None, e: Tensor | None, share: Tensor | None, out: Tensor) -> Tensor:
    """Writes x B + share e to ``out`` and returns it.  out may be the tensor e.

    x: (g, R, r).  basis: (g, r, d); None means the identity (r = d).  e, out: (g, R, d); e None means 0.
    share: (g, R, 1); None means 1.
    """
    if e is None:
        return out.copy_(x) if basis is None else torch.bmm(x, basis, out=out)
    if basis is None:
        return torch.add(x, e, out=out) if share is None else torch.addcmul(x, e, share, out=out)
    return torch.baddbmm(e, x, basis, out=out) if share is None else torch.mul(e, share, out=out).baddbmm_(x, basis)


def shares(softmax: Tensor, rank: int) -> tuple[Tensor, Tensor | None]:
    """Splits the result of ``Memory.softmax``.

    Returns the weights of the units, (g, rows, tokens, r), and the window's share s, (g, rows, tokens, 1); the share is None
    if there is no column for it.
    """
    return softmax[..., :rank], softmax[..., rank : rank + 1] if softmax.shape[3] > rank else None


def column(x: Tensor | None) -> Tensor | None:
    """Views the share as a column of the block's matrices: (g, rows, tokens, 1) -> (g, R, 1)."""
    return None if x is None else x.view(x.shape[0], -1, 1)


class Memory(NamedTuple):
    """The steps "read" and "output", with what is the same for all blocks of a pass."""

    basis: Tensor | None  # (h, r, d); None means the identity (r = d)
    output: str  # "joint", "sum" or "memory"
    work: Workspace

    def forward(self, block: Block, q: Tensor, H: Tensor, local: Local, out: Tensor) -> Read:
        """Writes the result to ``out``.  q, out: (g, R, d).  H: (g, rows, tokens, r), or (g, rows, 1, r) if all share one."""
        basis = block.basis(self.basis)
        # a is not needed any more when x is written, so both use the buffer "x".  If a must be kept for the backward pass,
        # ``own`` allocates a separate tensor.
        a = q if basis is None else torch.bmm(q, basis.mT, out=self.work.own("x", *q.shape[:2], basis.shape[1]))
        softmax = self.softmax(block.tokens(a), H, local, q.shape[2] ** -0.5)
        weights, share = shares(softmax, a.shape[2])
        e = None if self.output == "memory" else local.e
        if basis is None:
            combine_units(weights, H, None if e is None else block.tokens(e), share, block.tokens(out))
        else:
            x = self.work.take("x", *a.shape)
            torch.mul(weights, H, out=block.tokens(x))
            combine(x, basis, e, column(share), out)
        # If there is no basis, a is q itself.  It is not kept, because q may be a buffer that the next block overwrites.
        return Read(a=None if basis is None else a, softmax=softmax)

    def softmax(self, a: Tensor, H: Tensor, local: Local, scale: float) -> Tensor:
        """Returns the weights of the units, (g, rows, tokens, r).

        For ``joint`` the result is (g, rows, tokens, r + PACK): column r holds the window's share, later columns are zero.
        a: (g, rows, tokens, r).  H: (g, rows, tokens or 1, r).
        """
        rank, lse = a.shape[3], local.lse if needs_lse(self.output) else None
        weights = self.work.own("softmax", *a.shape[:3], rank if lse is None else rank + PACK)
        torch.addcmul(self.work.zero, a, H, value=scale, out=weights[..., :rank])
        if lse is not None:
            weights[..., rank:] = float("-inf")
            weights[..., rank] = lse
        return torch.softmax(weights, -1, out=weights)

    def backward(
        self, block: Block, q: Tensor, H: Tensor, local: Local, read: Read, gradients: Gradients
    ) -> ReadGradients:
        """Writes ``gradients.q`` and adds to ``gradients.basis``.  Shapes as in ``forward``.

        read: what ``forward`` returned, or ``Read()`` to compute everything again.
        """
        work, scale, grad, basis = self.work, q.shape[2] ** -0.5, gradients.out, block.basis(self.basis)
        a = in_basis(q, basis, "a", work) if read.a is None else read.a
        dx = in_basis(grad, basis, "dx", work)
        softmax = read.softmax
        if softmax is None:
            softmax = self.softmax(block.tokens(a), H, local, scale)
        weights, share = shares(softmax, a.shape[2])
        if gradients.basis is not None:
            x = work.take("x", *a.shape)
            torch.mul(weights, H, out=block.tokens(x))
            gradients.basis.baddbmm_(x.mT, grad)
        dshare = None
        if share is not None:
            dshare = torch.mul(grad, local.e, out=work.take("grad_e", *grad.shape)).sum(-1).view(block.shape)
        dsoftmax = work.take("dsoftmax", *softmax.shape)
        dweights, _ = shares(dsoftmax, a.shape[2])
        torch.mul(block.tokens(dx), H, out=dweights)
        if dshare is not None:
            dsoftmax[..., a.shape[2] :] = 0
            dsoftmax[..., a.shape[2]] = dshare
        softmax_backward_(dsoftmax, softmax)
        dscores, dlse = shares(dsoftmax, a.shape[2])
        dlse = None if dlse is None else column(dlse.clone())  # a later temporary uses the buffer

        dH = work.take("dH", *a.shape)
        torch.mul(block.tokens(dx), weights, out=block.tokens(dH)).addcmul_(dscores, block.tokens(a), value=scale)
        if basis is None:
            torch.addcmul(work.zero, dscores, H, value=scale, out=block.tokens(gradients.q))
        else:
            da = work.take("da", *a.shape)
            torch.mul(dscores, H, out=block.tokens(da))
            torch.baddbmm(gradients.q, da, basis, beta=0, alpha=scale, out=gradients.q)
            if gradients.basis is not None:
                gradients.basis.baddbmm_(da.mT, q, alpha=scale)
        return ReadGradients(dH, dlse, column(share))


class CausalMemory:
    """The running mean, then ``Memory``, for the causal form.  Chunks come in order of time, in backward in reverse order.

    memory: the steps "read" and "output".
    carried: (b, h, r), passes from chunk to chunk and is changed in place.  In the forward pass it is the sum of c = B e over
    the tokens so far.  In the backward pass it is the gradient that each c of the next (earlier) chunk gets from all chunks
    that are done.
    start: the number of tokens that were read before this sequence.
    """

    def __init__(self, memory: Memory, carried: Tensor, start: int) -> None:
        self.memory, self.carried, self.start = memory, carried, start
        self.mean: RunningMean
        self.before: Tensor

    def enter(self, chunk: Chunk, before: Tensor | None = None) -> Tensor:
        """Must be called before the blocks of a chunk.  Returns the sum of c before the chunk, (h, rows, r).

        Keep it, and pass it as ``before`` when the backward pass enters the same chunk.
        """
        self.mean = RunningMean(chunk, self.start, self.memory.work)
        self.before = self.carried[chunk.rows].transpose(0, 1).clone() if before is None else before
        return self.before

    def forward(self, block: Block, q: Tensor, local: Local, out: Tensor) -> Read:
        """Writes the result to ``out``.  q, out: (g, R, d)."""
        H, after = self._compress(block, local.e)
        block.carried(self.carried).copy_(after)
        return self.memory.forward(block, q, block.tokens(H), local, out)._replace(H=H)

    def _compress(self, block: Block, e: Tensor) -> tuple[Tensor, Tensor]:
        """Returns H (g, R, r) and the sum of c after the chunk, (g, rows, r).  e: (g, R, d)."""
        work, basis = self.memory.work, block.basis(self.memory.basis)
        c = in_basis(e, basis, "c", work)
        H = work.own("H", *c.shape)
        return H, self.mean.forward(c, self.before[block.heads], H)

    def backward(
        self, block: Block, q: Tensor, local: Local, read: Read, gradients: Gradients, de: Tensor | None = None
    ) -> LocalGradients:
        """Writes ``gradients.q``, adds to ``gradients.basis``, and returns the gradients of e and l.

        de: (g, R, d), the tensor to write the gradient of e to; if None, a buffer of the workspace.
        """
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


def no_sums(q: Tensor, basis: Tensor | None) -> Tensor:
    """Returns the sum of B e before the first token, zeros of (b, h, r)."""
    rank = q.shape[3] if basis is None else basis.shape[1]
    return torch.zeros(*q.shape[:2], rank, dtype=carry_dtype(q.device), device=q.device)


class CausalRead(torch.autograd.Function):
    """Returns the output of the causal form, (b, h, n, d), from the local summaries of a sequence, which are computed elsewhere.

    q, e: (b, h, n, d).  lse: (b, h, n) or None.  before: (b, h, r), the sum of B e over the ``start`` tokens before this
    sequence.  window: chunks are cut at multiples of this number of tokens; None means any.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        e: Tensor,
        lse: Tensor | None,
        before: Tensor,
        basis: Tensor | None,
        output: str,
        start: int,
        window: int | None,
    ) -> Tensor:
        cut = chunks(q, window) if q.shape[2] else []
        work, out, sums, summaries = Workspace(q), torch.empty_like(q), [], Local(e, lse)
        memory = CausalMemory(Memory(basis, output, work), before.clone(), start)
        for chunk in cut:
            sums.append(memory.enter(chunk))
            for block in chunk.blocks(q.shape[1]):
                query, target = work.read("q", block.of(q)), work.target("out", block.of(out))
                memory.forward(block, query, summaries.read(block, work), target)
                store(block.of(out), target)
        ctx.save_for_backward(q, e, lse, before, basis, *sums)
        ctx.cut, ctx.output, ctx.start = cut, output, start
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, e, lse, before, basis, *sums = ctx.saved_tensors
        work, summaries = Workspace(q), Local(e, lse)
        dq, de, later = torch.zeros_like(q), torch.empty_like(e), torch.zeros_like(before)
        dlse = None if lse is None else torch.zeros_like(lse)
        dbasis = torch.zeros_like(basis) if basis is not None and ctx.needs_input_grad[4] else None
        memory = CausalMemory(Memory(basis, ctx.output, work), later, ctx.start)
        for chunk, sum_before in zip(reversed(ctx.cut), reversed(sums), strict=True):
            memory.enter(chunk, sum_before)
            for block in chunk.blocks(q.shape[1]):
                query, local = work.read("q", block.of(q)), summaries.read(block, work)
                dquery, target = work.target("dq", block.of(dq)), work.target("de", block.of(de))
                given = Gradients(work.read("grad", block.of(grad)), dquery, block.basis(dbasis))
                dlocal = memory.backward(block, query, local, Read(), given, target)
                store(block.of(dq), dquery)
                store(block.of(de), target)
                if dlse is not None and dlocal.lse is not None:
                    block.of(dlse).copy_(dlocal.lse.view(block.shape))
        return dq, de, dlse, later, dbasis, None, None, None
