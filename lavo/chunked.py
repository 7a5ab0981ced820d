"""Backend "torch": LAVO in chunks, memory linear in the length, forward and backward.

Shapes inside a block are those of blocks.py.  The backward pass is written by hand: it keeps q, k, v, the local
summaries e and their log-sum-exps, and computes the rest again, block by block.  What a short sequence computes is kept
whole: its size has a bound, and a fifth of the time is saved.

Operations of a token and head, forward: scores and values of a whole window, 4·w·d (half of a causal window's are computed to
be hidden); products with the basis for e, q and the output, 2·r·d each, none where the basis is the head's own axes and none
for e where not causal, whose mean comes first; the causal running mean, 2·16·r.  The causal state is r numbers and a window's
keys and values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo.blocks import Block, Chunk, Workspace, accumulation_dtype, carry_dtype, chunks, store

KEPT_ROWS = 16384  # tokens times heads up to which, on a CPU, nothing is computed twice: some 14 MB in float32
PACK = 8  # columns beside the memory's scores: one for the window, the others keep rows aligned


def self_attention(q, k, v, basis, *, window, bias, causal, output, dissect, lengths) -> Tensor:
    """LAVO over one sequence.  q, k, v: (b, h, n, d).  lengths: (b,) real tokens, which come first, or None for all.

    Returns (b, h, n, d); what stands beyond ``lengths`` has no meaning.
    """
    if 0 in q.shape:
        return q + k + v  # empty, and part of the graph
    basis = None if basis is None else basis.to(accumulation_dtype(q))
    matrix = bias_matrix(bias, min(window, q.shape[2]), window, causal, q) if dissect else None
    output = output if dissect else "memory"
    if causal:
        return _Causal.apply(q, k, v, basis, matrix, output)
    return _Noncausal.apply(q, k, v, basis, matrix, output, lengths)


def bias_matrix(bias: Tensor | None, size: int, window: int, causal: bool, q: Tensor) -> Tensor:
    """P[t - j] for all pairs of a window, minus infinity in the future where causal.  (h, size, size)"""
    dtype, num_heads = accumulation_dtype(q), q.shape[1]
    if bias is None:
        bias = torch.zeros(1, window if causal else 2 * window - 1, dtype=dtype, device=q.device)
    # One row for all pairs, from the largest distance t - j to the smallest; row t of the matrix starts at t = size - 1 - t.
    bias = bias.to(dtype)
    by_distance = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
    row = by_distance.flip(1)
    if causal:
        row = torch.nn.functional.pad(row, (0, size - 1), value=float("-inf"))
    return row.unfold(1, size, 1).flip(1).expand(num_heads, -1, -1)


def source_mean(v: Tensor, basis: Tensor | None, mask: Tensor | None) -> Tensor:
    """H = mean over the real tokens of B v, in float32 at least.  (b, h, r), zeros for an empty source."""
    dtype = accumulation_dtype(v)
    if mask is None:
        mean = v.sum(2, dtype=dtype) / max(v.shape[2], 1)
    else:
        mean = v.masked_fill(mask[:, None, :, None], 0).sum(2, dtype=dtype)
        mean = mean / (~mask).sum(1).clamp_min(1)[:, None, None]
    return mean if basis is None else torch.einsum("hrd,bhd->bhr", basis.to(dtype), mean)


def read_memory(q: Tensor, mean: Tensor, basis: Tensor | None) -> Tensor:
    """g for queries that all see one memory: exact attention over its r units.  q: (b, h, n, d), mean: (b, h, r)."""
    memory = torch.diag_embed(mean) if basis is None else mean[..., None] * basis.to(mean.dtype)
    memory = memory.to(q.dtype)
    return torch.nn.functional.scaled_dot_product_attention(q, memory, memory)


# Windows: exact attention.  q, k, v, e: (x, w, d); bias: (g, w, w); hidden: (x, 1, w), padded keys, or None.


def local_forward(q, k, v, bias, hidden, e, work: Workspace) -> tuple[Tensor, Tensor]:
    """Fills e; returns the log-sum-exp of the scores, (x, w), and their softmax, (x, w, w)."""
    weights = local_scores(q, k, bias, hidden, work)
    peak = weights.amax(-1)
    torch.bmm(torch.softmax(weights, -1, out=weights), v, out=e)
    return peak.sub_(weights.amax(-1).log_()), weights  # the peak's weight is exp(peak - lse), and never below 1 / w


def local_scores(q, k, bias, hidden, work: Workspace) -> Tensor:
    """(x, w, w)"""
    scores = work.own("scratch", q.shape[0], q.shape[1], q.shape[1])
    scores.view(bias.shape[0], -1, *bias.shape[1:]).copy_(bias[:, None])
    scores.baddbmm_(q, k.mT, alpha=q.shape[2] ** -0.5)
    if hidden is not None:  # finite, so that a window without a real token gives its zeros and no nan
        scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
    return scores


def local_backward(q, k, v, bias, hidden, weights, de, inner, dq, dk, dv, work: Workspace) -> Tensor:
    """Adds to dq, fills dk and dv, returns the gradient of the scores.  inner: (x, w, 1), de . e - dlse."""
    scale = q.shape[2] ** -0.5
    if weights is None:
        weights = local_scores(q, k, bias, hidden, work)
        torch.softmax(weights, -1, out=weights)
    torch.bmm(weights.mT, de, out=dv)
    dscores = work.take("H", *weights.shape)
    torch.baddbmm(inner, de, v.mT, beta=-1, out=dscores)
    dscores.mul_(weights)
    torch.baddbmm(dq, dscores, k, alpha=scale, out=dq)
    torch.baddbmm(dk, dscores.mT, q, beta=0, alpha=scale, out=dk)
    return dscores


# Memory.  a: (g, rows, tokens, r), queries in the basis; H: (g, rows, tokens or 1, r); share: (g, rows, tokens, 1).


def memory_softmax(a, H, lse, scale: float, work: Workspace) -> Tensor:
    """The softmax over the memory, (g, rows, tokens, r).

    Where the window's lse (g, rows, tokens) is given it stands for all scores of the window, as column r of r + PACK.
    """
    rank = a.shape[3]
    weights = work.own("memory", *a.shape[:3], rank if lse is None else rank + PACK)
    torch.addcmul(work.zero, a, H, value=scale, out=weights[..., :rank])
    if lse is not None:
        weights[..., rank:] = float("-inf")
        weights[..., rank] = lse
    return torch.softmax(weights, -1, out=weights)


def shares(softmax: Tensor, rank: int) -> tuple[Tensor, Tensor | None]:
    """The memory's weights, (g, rows, tokens, r), and the window's share, (g, rows, tokens, 1) or None."""
    return softmax[..., :rank], softmax[..., rank : rank + 1] if softmax.shape[3] > rank else None


def combine(x, basis, e, share, out) -> Tensor:
    """out = x B + share e, all (g, R, .); basis None is the identity, share None is 1, e None is 0."""
    if e is None:
        return out.copy_(x) if basis is None else torch.bmm(x, basis, out=out)
    if basis is None:
        return torch.add(x, e, out=out) if share is None else torch.addcmul(x, e, share, out=out)
    return torch.baddbmm(e, x, basis, out=out) if share is None else torch.mul(e, share, out=out).baddbmm_(x, basis)


def in_basis(name: str, x: Tensor, basis: Tensor | None, work: Workspace) -> Tensor:
    """x Bᵀ: (g, R, d) -> (g, R, r)"""
    return x if basis is None else torch.bmm(x, basis.mT, out=work.own(name, *x.shape[:2], basis.shape[1]))


class RunningMean:
    """The causal mean over a chunk, and its transpose.

    Inside short spans the sums so far are a product with a triangular matrix of ones; across spans they are a cumulative
    sum of totals, carried on in float64.  torch.cumsum alone takes as long as a matrix product here, and passes the
    chunk twice more.
    """

    def __init__(self, chunk: Chunk, start: int, work: Workspace) -> None:
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
        starts = totals.cumsum(2)  # no difference of sums: what rounds with the future depends on it
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


# Blocks: the parts above, one after the other.


class Kept(NamedTuple):
    """The local summaries and their log-sum-exps, kept for the backward pass; None where there are none."""

    e: Tensor | None  # (b, h, n, d)
    lse: Tensor | None  # (b, h, n)

    @staticmethod
    def like(q: Tensor) -> Kept:
        return Kept(torch.empty_like(q), torch.empty(q.shape[:3], dtype=accumulation_dtype(q), device=q.device))


class Computed(NamedTuple):
    """What a block computed on its way.  Kept where the whole is small; else the backward pass computes it again."""

    weights: Tensor | None = None  # of the windows, (x, w, w)
    a: Tensor | None = None  # the queries in the basis, (g, R, r)
    H: Tensor | None = None  # (g, R, r), where causal
    memory: Tensor | None = None  # the softmax over it, (g, rows, tokens, r or r + PACK)


def local_block(
    block: Block, q, k, v, bias, hidden, kept: Kept, out, work: Workspace
) -> tuple[Tensor, Tensor | None, Computed]:
    """e (g, R, d) and its log-sum-exps (g, rows, tokens), also written to ``kept``.  q, k, v: (g, R, d).

    Where nothing is kept, e lies where the output will: the output is the last to need it.
    """
    if bias is None:
        return v, None, Computed()
    e = work.target("out", block.of(out)) if kept.e is None else work.target("e", block.of(kept.e))
    query, key, value, target = map(block.windows, (q, k, v, e))
    lse, weights = local_forward(query, key, value, block.bias(bias), hidden, target, work)
    lse = lse.view(block.shape)
    if kept.e is not None and kept.lse is not None:
        store(block.of(kept.e), e)
        block.of(kept.lse).copy_(lse)
    return e, lse, Computed(weights)


def read_block(block: Block, q, H, basis, e, lse, output: str, out, work: Workspace, computed: Computed) -> Computed:
    """The output of a block.  q, e: (g, R, d); H: (g, rows, tokens or 1, r); out: (b, h, n, d)."""
    a = in_basis("scratch", q, basis, work)
    memory = memory_softmax(block.tokens(a), H, lse if output == "joint" else None, q.shape[2] ** -0.5, work)
    weights, share = shares(memory, a.shape[2])
    x = work.take("scratch", *a.shape)
    torch.mul(weights, H, out=block.tokens(x))
    target = work.target("out", block.of(out))
    combine(x, basis, None if output == "memory" else e, matrix(share), target)
    store(block.of(out), target)
    # Without a basis a is q, which may lie in the workspace: the next block would write over what was kept.
    return computed._replace(a=None if basis is None else a, memory=memory)


def matrix(column: Tensor | None) -> Tensor | None:
    """(g, rows, tokens, 1) -> (g, R, 1)"""
    return None if column is None else column.view(column.shape[0], -1, 1)


class ReadGradients(NamedTuple):
    H: Tensor  # (g, R, r), token by token also where one H serves all
    lse: Tensor | None  # (g, R, 1)
    share: Tensor | None  # (g, R, 1); not a gradient: what the output took of e


def read_block_backward(
    block: Block, q, H, basis, e, lse, output: str, grad, dq, dbasis, work: Workspace, computed: Computed
) -> ReadGradients:
    """Fills dq and adds to dbasis.  q, e, grad, dq: (g, R, d); dbasis: (g, r, d) or None."""
    scale = q.shape[2] ** -0.5
    a = in_basis("a", q, basis, work) if computed.a is None else computed.a
    dx = in_basis("dx", grad, basis, work)
    memory = computed.memory
    if memory is None:
        memory = memory_softmax(block.tokens(a), H, lse if output == "joint" else None, scale, work)
    by_token, share = shares(memory, a.shape[2])
    weights, share = by_token.view(*a.shape[:2], -1), matrix(share)
    dshare = None
    if share is not None:
        dshare = torch.mul(grad, e, out=work.take("product", *grad.shape)).sum(-1, keepdim=True)
    x = work.take("scratch", *a.shape)
    torch.mul(by_token, H, out=block.tokens(x))
    if dbasis is not None:
        dbasis.baddbmm_(x.mT, grad)
    product = torch.mul(x, dx, out=work.take("product", *a.shape))
    inner, dlse = product.sum(-1, keepdim=True), None
    if share is not None and dshare is not None:
        inner.addcmul_(share, dshare)
        dlse = (dshare - inner).mul_(share)
    dscores = product.addcmul_(weights, inner, value=-1)
    dH = torch.mul(dx, weights, out=work.take("scratch", *a.shape)).addcmul_(dscores, a, value=scale)
    if basis is None:
        torch.addcmul(work.zero, block.tokens(dscores), H, value=scale, out=block.tokens(dq))
    else:
        block.tokens(dscores).mul_(H)  # now the gradient of a
        torch.baddbmm(dq, dscores, basis, beta=0, alpha=scale, out=dq)
        if dbasis is not None:
            dbasis.baddbmm_(dscores.mT, q, alpha=scale)
    return ReadGradients(dH, dlse, share)


def local_block_backward(
    block: Block, q, k, v, bias, hidden, weights, e, de, dlse, dq, dk, dv, dbias, work: Workspace
) -> None:
    """Adds to dq, fills dk and dv, adds to dbias.  q, k, v, e, de, dq: (g, R, d); dk, dv: (b, h, n, d)."""
    key_target, value_target = work.target("dk", block.of(dk)), work.target("dv", block.of(dv))
    if bias is None:
        key_target.zero_()
        value_target.copy_(de)
    else:
        inner = torch.mul(de, e, out=work.take("product", *e.shape)).sum(-1, keepdim=True)
        if dlse is not None:
            inner -= dlse
        q, k, v, de, inner, dq, dk_windows, dv_windows = map(
            block.windows, (q, k, v, de, inner, dq, key_target, value_target)
        )
        dscores = local_backward(
            q, k, v, block.bias(bias), hidden, weights, de, inner, dq, dk_windows, dv_windows, work
        )
        if dbias is not None:
            block.bias(dbias).add_(dscores.view(block.shape[0], -1, *dscores.shape[1:]).sum(1))
    store(block.of(dk), key_target)
    store(block.of(dv), value_target)


# The two forms over a whole sequence.


def causal_forward(q, k, v, basis, bias, output, sums, start: int, kept: Kept, cut: list[Chunk], keeping: bool = False):
    """The causal form from a state on: ``sums`` (b, h, r) over the ``start`` tokens already read, brought up to date.

    Returns the output, the sums as they were before each chunk, and what each block computed.
    """
    work, out, before, computed = Workspace(q, keeping), torch.empty_like(q), [], []
    for chunk in cut:
        mean = RunningMean(chunk, start, work)
        before.append(sums[chunk.rows].transpose(0, 1).clone())
        for block in chunk.blocks(q.shape[1]):
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            B = None if basis is None else basis[block.heads]
            e, lse, done = local_block(block, query, key, value, bias, None, kept, out, work)
            c = e if B is None else torch.bmm(e, B.mT, out=work.take("scratch", *e.shape[:2], B.shape[1]))
            H = work.own("H", *c.shape)
            so_far = block.carried(sums)
            so_far.copy_(mean.forward(c, so_far, H))
            done = done._replace(H=H)
            computed.append(read_block(block, query, block.tokens(H), B, e, lse, output, out, work, done))
    return out, before, computed


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, k, v, basis, bias, output) -> Tensor:
        rank = q.shape[3] if basis is None else basis.shape[1]
        sums = torch.zeros(*q.shape[:2], rank, dtype=carry_dtype(q.device), device=q.device)
        kept = Kept.like(q) if bias is not None and any(ctx.needs_input_grad) else Kept(None, None)
        cut, keeping = chunks(q, bias), is_small(ctx, q)
        out, before, computed = causal_forward(q, k, v, basis, bias, output, sums, 0, kept, cut, keeping)
        ctx.save_for_backward(q, k, v, basis, bias, *kept, *before, *(flat(computed) if keeping else ()))
        ctx.output, ctx.cut = output, cut  # kept, for the number of threads may change before the backward pass
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, *rest = ctx.saved_tensors
        before, kept = rest[: len(ctx.cut)], blockwise(rest[len(ctx.cut) :])
        work, output = Workspace(q), ctx.output
        dq, dk, dv, dbasis, dbias = gradients(ctx, q, k, v, basis, bias)
        later = torch.zeros(*q.shape[:2], before[0].shape[-1], dtype=before[0].dtype, device=q.device)
        for chunk, so_far in zip(reversed(ctx.cut), reversed(before), strict=True):
            mean, cuts = RunningMean(chunk, 0, work), list(chunk.blocks(q.shape[1]))
            kept, computed = kept[: -len(cuts)], kept[-len(cuts) :] or [Computed()] * len(cuts)
            for block, done in zip(cuts, computed, strict=True):
                query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
                given, dquery = work.read("grad", block.of(grad)), work.target("dq", block.of(dq))
                B, dB = (None if x is None else x[block.heads] for x in (basis, dbasis))
                local = value if e is None else work.read("e", block.of(e))
                sizes = None if lse is None else block.of(lse)

                H = done.H
                if H is None:
                    c = in_basis("scratch", local, B, work)
                    H = work.take("H", *c.shape)
                    mean.forward(c, so_far[block.heads], H)
                dH, dlse, share = read_block_backward(
                    block, query, block.tokens(H), B, local, sizes, output, given, dquery, dB, work, done
                )

                dc, after = work.take("product", *H.shape), block.carried(later)
                after.copy_(mean.backward(dH, after, dc))
                if dB is not None:
                    dB.baddbmm_(dc.mT, local)
                de = combine(dc, B, None if output == "memory" else given, share, work.take("dx", *local.shape))
                local_block_backward(
                    block, query, key, value, bias, None, done.weights, local, de, dlse, dquery, dk, dv, dbias, work
                )
                store(block.of(dq), dquery)
        return dq, dk, dv, dbasis, dbias, None


class _Noncausal(torch.autograd.Function):
    """Two passes over the blocks, because every read needs the mean of all: first the windows, then the memory."""

    @staticmethod
    def forward(ctx: Any, q, k, v, basis, bias, output, lengths) -> Tensor:
        cut, keeping = blocks(q, bias), is_small(ctx, q)
        work, out, windows, reads = Workspace(q, keeping), torch.empty_like(q), [], []
        kept = Kept(v, None) if bias is None else Kept.like(q)
        assert kept.e is not None
        real = None if lengths is None else real_tokens(lengths, q)
        mean = torch.zeros(q.shape[0], q.shape[1], q.shape[3], dtype=carry_dtype(q.device), device=q.device)
        for block in cut:
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            e, _, done = local_block(block, query, key, value, bias, hidden_keys(block, real), kept, out, work)
            windows.append(done)
            e = block.tokens(e)
            if real is None:
                block.carried(mean).add_(e.sum(2))
            else:
                block.carried(mean).add_((real[block.chunk.rows, None, block.chunk.tokens] @ e)[:, :, 0])
        mean /= q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]
        mean = mean.to(work.dtype)
        H = mean if basis is None else torch.einsum("hrd,bhd->bhr", basis, mean)
        for block, done in zip(cut, windows, strict=True):
            query, e = work.read("q", block.of(q)), work.read("e", block.of(kept.e))
            lse = None if kept.lse is None else block.of(kept.lse)
            B = None if basis is None else basis[block.heads]
            reads.append(read_block(block, query, block.carried(H)[:, :, None], B, e, lse, output, out, work, done))
        ctx.save_for_backward(q, k, v, basis, bias, *kept, lengths, mean, H, *(flat(reads) if keeping else ()))
        ctx.output, ctx.cut = output, cut
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, lengths, mean, H, *rest = ctx.saved_tensors
        work, output = Workspace(q), ctx.output
        dq, dk, dv, dbasis, dbias = gradients(ctx, q, k, v, basis, bias)
        dH = torch.zeros(H.shape, dtype=carry_dtype(q.device), device=q.device)
        size = q.shape[:3] if output == "joint" else (0,)
        shares, dlses = (torch.empty(size, dtype=work.dtype, device=q.device) for _ in range(2))
        computed = blockwise(rest) or [Computed()] * len(ctx.cut)
        for block, done in zip(ctx.cut, computed, strict=True):
            query, local, given = (work.read(name, block.of(x)) for name, x in (("q", q), ("e", e), ("grad", grad)))
            B, dB = (None if x is None else x[block.heads] for x in (basis, dbasis))
            at = block.carried(H)[:, :, None]
            sizes, target = None if lse is None else block.of(lse), work.target("dq", block.of(dq))
            gradient, dlse, share = read_block_backward(
                block, query, at, B, local, sizes, output, given, target, dB, work, done
            )
            store(block.of(dq), target)
            block.carried(dH).add_(block.tokens(gradient).sum(2))
            if share is not None and dlse is not None:
                block.of(shares).copy_(share.view(block.shape))
                block.of(dlses).copy_(dlse.view(block.shape))

        dH = dH.to(work.dtype)
        dmean = dH if basis is None else torch.einsum("bhr,hrd->bhd", dH, basis)
        if dbasis is not None:
            dbasis += torch.einsum("bhr,bhd->hrd", dH, mean)
        dmean = dmean / (q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None])
        real = None if lengths is None else real_tokens(lengths, q)
        for block, done in zip(ctx.cut, computed, strict=True):
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            local, given, dquery = (work.read(name, block.of(x)) for name, x in (("e", e), ("grad", grad), ("dq", dq)))
            de = work.take("dx", *local.shape)
            block.tokens(de).copy_(block.carried(dmean)[:, :, None])
            if real is not None:
                block.tokens(de).mul_(real[block.chunk.rows, block.chunk.tokens, None])
            if output == "sum":
                de.add_(given)
            if output == "joint":
                de.addcmul_(given, block.of(shares).reshape(*given.shape[:2], 1))
            dlse = None if output != "joint" else block.of(dlses).reshape(*given.shape[:2], 1)
            hidden = hidden_keys(block, real)
            local_block_backward(
                block, query, key, value, bias, hidden, done.weights, local, de, dlse, dquery, dk, dv, dbias, work
            )
            store(block.of(dq), dquery)
        return dq, dk, dv, dbasis, dbias, None, None


def is_small(ctx: Any, q: Tensor) -> bool:
    """Whether there is a backward pass to come for which the blocks keep what they compute."""
    return q.device.type == "cpu" and q.shape[:3].numel() <= KEPT_ROWS and any(ctx.needs_input_grad)


def flat(computed: list[Computed]) -> list[Tensor | None]:
    return [x for done in computed for x in done]


def blockwise(tensors: list[Tensor | None]) -> list[Computed]:
    """The inverse of ``flat``."""
    size = len(Computed._fields)
    return [Computed(*tensors[first : first + size]) for first in range(0, len(tensors), size)]


def blocks(q: Tensor, bias: Tensor | None) -> list[Block]:
    return [block for chunk in chunks(q, bias) for block in chunk.blocks(q.shape[1])]


def gradients(ctx: Any, q, k, v, basis, bias) -> tuple:
    """Where the gradients go: uninitialised for q, k, v, zeros for what all blocks add to, None for what isn't asked."""
    sums = (torch.zeros_like(x) if ctx.needs_input_grad[i] else None for i, x in ((3, basis), (4, bias)))
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), *sums


def real_tokens(lengths: Tensor, q: Tensor) -> Tensor:
    """1 for a real token, 0 for a padded one.  (b, n)"""
    return (torch.arange(q.shape[2], device=q.device) < lengths[:, None]).to(accumulation_dtype(q))


def hidden_keys(block: Block, real: Tensor | None) -> Tensor | None:
    """The padded keys of each window, (x, 1, w)."""
    if real is None:
        return None
    padded = real[block.chunk.rows, block.chunk.tokens] == 0
    return padded.expand(*block.shape).reshape(-1, 1, block.chunk.window)
