"""Backend "torch": LAVO in chunks that stay in the cache, memory linear in the length, forward and backward.

The loops run over blocks (some rows of the batch, a chunk of tokens, one head), so that everything inside a block is a
matrix of R = rows x tokens rows, or x = R / w windows.  The backward pass is written by hand: it keeps q, k, v, the local
summaries e and their log-sum-exps, and computes the rest again, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS_PER_THREAD = 2048  # of a block: a matrix of 64 columns is then 512 KiB a thread, about one level-2 cache
ROWS_ON_DEVICE = 65536  # where launching a kernel costs more than a pass over the cache
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
    steps = torch.arange(size, device=q.device)
    distance = steps[:, None] - steps[None, :]
    if bias is None:
        matrix = torch.zeros(1, size, size, dtype=accumulation_dtype(q), device=q.device)
    else:
        first = 0 if causal else 1 - window  # the distance of entry 0
        matrix = bias.to(accumulation_dtype(q))[:, (distance - first).clamp_min(0)]
    matrix = matrix.masked_fill(distance < 0, float("-inf")) if causal else matrix
    return matrix.expand(q.shape[1], -1, -1)


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


def accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def carry_dtype(device: torch.device) -> torch.dtype:
    """Of sums that grow with the sequence: a float32 sum of a million equal terms is off by a per cent."""
    return torch.float32 if device.type == "mps" else torch.float64


class Chunk(NamedTuple):
    """Some rows of the batch and a span of tokens; its windows are whole, or it is the last, partial window."""

    rows: slice
    tokens: slice
    window: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.tokens.stop - self.tokens.start

    def blocks(self, num_heads: int) -> Iterator[Block]:
        return (Block(self, head) for head in range(num_heads))


def chunks(q: Tensor, bias: Tensor | None) -> list[Chunk]:
    """Cuts (b, n) into chunks of about as many rows as the cache holds; those of a batch row are in order of time."""
    batch_size, n = q.shape[0], q.shape[2]
    window = min(64, n) if bias is None else bias.shape[1]
    most = ROWS_PER_THREAD * torch.get_num_threads() if q.device.type == "cpu" else ROWS_ON_DEVICE
    together, whole = max(1, most // n), n - n % window
    step = max(window, most // together // window * window)
    cut = []
    for first in range(0, batch_size, together):
        rows = slice(first, min(first + together, batch_size))
        cut += [Chunk(rows, slice(t, min(t + step, whole)), window) for t in range(0, whole, step)]
        if whole < n:
            cut.append(Chunk(rows, slice(whole, n), n - whole))
    return cut


class Block(NamedTuple):
    """One head of a chunk."""

    chunk: Chunk
    head: int

    def of(self, x: Tensor) -> Tensor:
        """(b, h, n, ...) -> (rows, tokens, ...)"""
        return x[self.chunk.rows, self.head, self.chunk.tokens]

    def windows(self, matrix: Tensor) -> Tensor:
        """(R, d) -> (x, w, d)"""
        return matrix.view(-1, self.chunk.window, matrix.shape[-1])

    def tokens(self, matrix: Tensor) -> Tensor:
        """(R, d) -> (rows, tokens, d)"""
        return matrix.view(*self.chunk.shape, matrix.shape[-1])

    def bias(self, bias: Tensor) -> Tensor:
        """(h, w, w) -> that of this head, for the windows of this chunk."""
        return bias[self.head, : self.chunk.window, : self.chunk.window]


def blocks(q: Tensor, bias: Tensor | None) -> Iterator[Block]:
    return (block for chunk in chunks(q, bias) for block in chunk.blocks(q.shape[1]))


class Workspace:
    """Memory that all blocks share: fresh pages for each temporary would cost more than the arithmetic on it."""

    def __init__(self, q: Tensor) -> None:
        self.dtype, self.device = accumulation_dtype(q), q.device
        self.zero = torch.zeros((), dtype=self.dtype, device=self.device)
        self.flat: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, until the name is taken again."""
        numel = 1
        for size in shape:
            numel *= size
        if name not in self.flat or self.flat[name].numel() < numel:
            self.flat[name] = torch.empty(numel, dtype=self.dtype, device=self.device)
        return self.flat[name][:numel].view(shape)

    def read(self, name: str, block: Tensor) -> Tensor:
        """(rows, tokens, d) as a matrix (R, d) of the workspace's dtype; a view where that can be."""
        matrix = self.target(name, block)
        if matrix.data_ptr() != block.data_ptr():
            matrix.view(block.shape).copy_(block)
        return matrix

    def target(self, name: str, block: Tensor) -> Tensor:
        """The matrix (R, d) to write a block's result to: the block itself where it is one.  ``store`` ends the writing."""
        rows, tokens, d = block.shape
        joined = rows == 1 or block.stride(0) == tokens * block.stride(1)
        if joined and block.stride(2) == 1 and block.dtype == self.dtype:
            return block.view(-1, d)
        return self.take(name, rows * tokens, d)


def store(block: Tensor, matrix: Tensor) -> None:
    if matrix.data_ptr() != block.data_ptr():
        block.copy_(matrix.view(block.shape))


# Windows: exact attention.  q, k, v, e: (x, w, d); bias: (w, w); hidden: (x, 1, w), padded keys, or None.


def local_forward(q, k, v, bias, hidden, e, work: Workspace) -> Tensor:
    """Fills e and returns the log-sum-exp of the scores, (x, w)."""
    weights, peak = local_weights(q, k, bias, hidden, work)
    torch.bmm(weights, v, out=e)
    return peak.sub_(weights.amax(-1).log_())  # the peak's weight is exp(peak - lse), and never below 1 / w


def local_weights(q, k, bias, hidden, work: Workspace) -> tuple[Tensor, Tensor]:
    """The softmax, (x, w, w), and the largest score before it, (x, w)."""
    weights = work.take("weights", q.shape[0], q.shape[1], q.shape[1])
    torch.baddbmm(bias, q, k.mT, alpha=q.shape[2] ** -0.5, out=weights)
    if hidden is not None:  # finite, so that a window without a real token gives its zeros and no nan
        weights.masked_fill_(hidden, torch.finfo(weights.dtype).min)
    peak = weights.amax(-1)
    return torch.softmax(weights, -1, out=weights), peak


def local_backward(q, k, v, bias, hidden, de, inner, dq, dk, dv, work: Workspace) -> Tensor:
    """Adds to dq, fills dk and dv, returns the gradient of the scores.  inner: (x, w, 1), de . e - dlse."""
    scale = q.shape[2] ** -0.5
    weights, _ = local_weights(q, k, bias, hidden, work)
    torch.bmm(weights.mT, de, out=dv)
    dscores = work.take("dscores", *weights.shape)
    torch.baddbmm(inner, de, v.mT, beta=-1, out=dscores)
    dscores.mul_(weights)
    torch.baddbmm(dq, dscores, k, alpha=scale, out=dq)
    torch.baddbmm(dk, dscores.mT, q, beta=0, alpha=scale, out=dk)
    return dscores


# Memory.  a: (rows, tokens, r), queries in the basis; H: (rows, tokens or 1, r); share: (rows, tokens, 1).


def memory_weights(a, H, lse, scale: float, work: Workspace) -> tuple[Tensor, Tensor | None]:
    """The softmax over the memory, (rows, tokens, r), and the window's share in it where lse (rows, tokens) is given.

    The window enters as one more column: its log-sum-exp stands for all its scores.
    """
    rank = a.shape[2]
    weights = work.take("memory", *a.shape[:2], rank if lse is None else rank + PACK)
    torch.addcmul(work.zero, a, H, value=scale, out=weights[:, :, :rank])
    if lse is not None:
        weights[:, :, rank:] = float("-inf")
        weights[:, :, rank] = lse
    torch.softmax(weights, -1, out=weights)
    return weights[:, :, :rank], None if lse is None else weights[:, :, rank : rank + 1]


def combine(x, basis, e, share, out) -> Tensor:
    """out = x B + share e, all (R, .); basis None is the identity, share None is 1, e None is 0."""
    if e is None:
        return out.copy_(x) if basis is None else torch.mm(x, basis, out=out)
    if basis is None:
        return torch.add(x, e, out=out) if share is None else torch.addcmul(x, e, share, out=out)
    return torch.addmm(e, x, basis, out=out) if share is None else torch.mul(e, share, out=out).addmm_(x, basis)


def in_basis(name: str, x: Tensor, basis: Tensor | None, work: Workspace) -> Tensor:
    """x Bᵀ: (R, d) -> (R, r)"""
    return x if basis is None else torch.mm(x, basis.mT, out=work.take(name, x.shape[0], basis.shape[0]))


class RunningMean:
    """The causal mean over a chunk, and its transpose.

    Inside short spans it is a product with a triangular matrix that holds 1 / (number of tokens so far); across spans a
    cumulative sum of their totals, carried on in float64.  torch.cumsum alone takes as long as a matrix product here,
    and passes the chunk twice more.
    """

    def __init__(self, chunk: Chunk, start: int, work: Workspace) -> None:
        rows, tokens = chunk.shape
        self.span = next((s for s in range(16, chunk.window) if chunk.window % s == 0), chunk.window)
        self.spans = (rows, tokens // self.span, self.span)
        first = start + chunk.tokens.start + 1
        count = torch.arange(first, first + tokens, dtype=carry_dtype(work.device), device=work.device)
        self.weight = count.reciprocal().to(work.dtype).view(*self.spans[1:], 1)
        triangle = self.weight.expand(-1, -1, self.span).tril()
        self.triangle = triangle.expand(rows, -1, -1, -1).reshape(-1, self.span, self.span)

    def forward(self, c: Tensor, before: Tensor, out: Tensor) -> Tensor:
        """The means of c (R, r) in out.  before: (rows, r), the sum so far; returns the sum after the chunk."""
        spans = c.view(*self.spans, -1)
        totals = torch.cat([before[:, None], spans.sum(2).to(before.dtype)], 1)
        starts = totals.cumsum(1)  # no difference of sums: what rounds with the future depends on it
        torch.mul(starts[:, :-1, None].to(c.dtype), self.weight, out=out.view(spans.shape))
        out.view(-1, self.span, c.shape[1]).baddbmm_(self.triangle, spans.flatten(0, 1))
        return starts[:, -1]

    def backward(self, grad: Tensor, after: Tensor, out: Tensor) -> Tensor:
        """The gradient of c in out, from that of the means.  after: (rows, r), what later chunks give each token."""
        torch.bmm(self.triangle.mT, grad.view(-1, self.span, grad.shape[1]), out=out.view(-1, self.span, grad.shape[1]))
        spans = out.view(*self.spans, -1)
        totals = torch.cat(
            [spans[:, :, 0].to(after.dtype), after[:, None]], 1
        )  # a span's first token is in all its means
        ends = totals.flip(1).cumsum(1).flip(1)
        spans.add_(ends[:, 1:, None].to(out.dtype))
        return ends[:, 0]


# Blocks: the parts above, for one head of one chunk.


class Kept(NamedTuple):
    """The local summaries and their log-sum-exps, kept for the backward pass; None where there are none."""

    e: Tensor | None  # (b, h, n, d)
    lse: Tensor | None  # (b, h, n)

    @staticmethod
    def like(q: Tensor) -> Kept:
        return Kept(torch.empty_like(q), torch.empty(q.shape[:3], dtype=accumulation_dtype(q), device=q.device))


def local_block(block: Block, q, k, v, bias, hidden, kept: Kept, work: Workspace) -> tuple[Tensor, Tensor | None]:
    """e (R, d) and its log-sum-exps (rows, tokens), also written to ``kept``.  q, k, v: (R, d)."""
    if bias is None:
        return v, None
    e = work.take("e", *v.shape) if kept.e is None else work.target("e", block.of(kept.e))
    query, key, value, target = map(block.windows, (q, k, v, e))
    lse = local_forward(query, key, value, block.bias(bias), hidden, target, work)
    lse = lse.view(block.chunk.shape)
    if kept.e is not None and kept.lse is not None:
        store(block.of(kept.e), e)
        block.of(kept.lse).copy_(lse)
    return e, lse


def read_block(block: Block, q, H, basis, e, lse, output: str, out, work: Workspace) -> None:
    """The output of a block.  q, e: (R, d); H: (rows, tokens or 1, r); out: (b, h, n, d)."""
    a = block.tokens(in_basis("a", q, basis, work))
    weights, share = memory_weights(a, H, lse if output == "joint" else None, q.shape[1] ** -0.5, work)
    x = torch.mul(weights, H, out=work.take("x", *a.shape)).view(-1, a.shape[2])
    target = work.target("out", block.of(out))
    combine(x, basis, None if output == "memory" else e, None if share is None else share.view(-1, 1), target)
    store(block.of(out), target)


class ReadGradients(NamedTuple):
    H: Tensor  # (rows, tokens, r), token by token also where one H serves all
    lse: Tensor | None  # (rows, tokens, 1)
    share: Tensor | None  # (rows, tokens, 1); not a gradient: what the output took of e


def read_block_backward(
    block: Block, q, H, basis, e, lse, output: str, grad, dq, dbasis, work: Workspace
) -> ReadGradients:
    """Fills dq and adds to dbasis.  q, e, grad, dq: (R, d); dbasis: (r, d) or None."""
    scale = q.shape[1] ** -0.5
    a = block.tokens(in_basis("a", q, basis, work))
    weights, share = memory_weights(a, H, lse if output == "joint" else None, scale, work)
    dx = block.tokens(in_basis("dx", grad, basis, work))
    x = torch.mul(weights, H, out=work.take("x", *a.shape))
    product = work.take("product", *a.shape)
    inner = torch.mul(x, dx, out=product).sum(-1, keepdim=True)
    dlse = None
    if share is not None:
        dshare = block.tokens(torch.mul(grad, e, out=work.take("product", *grad.shape))).sum(-1, keepdim=True)
        inner = torch.addcmul(inner, share, dshare)
        dlse = (dshare - inner) * share
    if dbasis is not None:
        dbasis.addmm_(x.view(-1, a.shape[2]).mT, grad)
    dscores = torch.mul(dx, H, out=x).sub_(inner).mul_(weights)
    dH = torch.mul(dx, weights, out=dx if basis is not None else work.take("dH", *a.shape))
    dH.addcmul_(dscores, a, value=scale)
    da = dscores.mul_(H).view(-1, a.shape[2])
    if basis is None:
        torch.mul(da, scale, out=dq)
    else:
        torch.addmm(dq, da, basis, beta=0, alpha=scale, out=dq)
    if dbasis is not None:
        dbasis.addmm_(da.mT, q, alpha=scale)
    return ReadGradients(dH, dlse, share)


def local_block_backward(block: Block, q, k, v, bias, hidden, e, de, dlse, dq, dk, dv, dbias, work: Workspace) -> None:
    """Adds to dq, fills dk and dv, adds to dbias (h, w, w).  q, k, v, e, de, dq: (R, d); dk, dv: (b, h, n, d)."""
    key_target, value_target = work.target("dk", block.of(dk)), work.target("dv", block.of(dv))
    if bias is None:
        key_target.zero_()
        value_target.copy_(de)
    else:
        inner = torch.mul(de, e, out=work.take("product", *e.shape)).sum(-1, keepdim=True)
        if dlse is not None:
            inner -= dlse.reshape(-1, 1)
        q, k, v, de, inner, dq, dk_windows, dv_windows = map(
            block.windows, (q, k, v, de, inner, dq, key_target, value_target)
        )
        dscores = local_backward(q, k, v, block.bias(bias), hidden, de, inner, dq, dk_windows, dv_windows, work)
        if dbias is not None:
            block.bias(dbias).add_(dscores.sum(0))
    store(block.of(dk), key_target)
    store(block.of(dv), value_target)


# The two forms over a whole sequence.


def causal_forward(q, k, v, basis, bias, output, sums, start: int, kept: Kept, cut: list[Chunk]):
    """The causal form from a state on: ``sums`` (b, h, r) over the ``start`` tokens already read, brought up to date.

    Returns the output, and the sums as they were before each chunk.
    """
    work, out, before = Workspace(q), torch.empty_like(q), []
    for chunk in cut:
        mean = RunningMean(chunk, start, work)
        before.append(sums[chunk.rows].clone())
        for block in chunk.blocks(q.shape[1]):
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            B = None if basis is None else basis[block.head]
            e, lse = local_block(block, query, key, value, bias, None, kept, work)
            c = in_basis("c", e, B, work)
            H = work.take("H", *c.shape)
            so_far = sums[chunk.rows, block.head]
            so_far.copy_(mean.forward(c, so_far, H))
            read_block(block, query, block.tokens(H), B, e, lse, output, out, work)
    return out, before


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, k, v, basis, bias, output) -> Tensor:
        rank = q.shape[3] if basis is None else basis.shape[1]
        sums = torch.zeros(*q.shape[:2], rank, dtype=carry_dtype(q.device), device=q.device)
        kept = Kept.like(q) if bias is not None and any(ctx.needs_input_grad) else Kept(None, None)
        cut = chunks(q, bias)
        out, before = causal_forward(q, k, v, basis, bias, output, sums, 0, kept, cut)
        ctx.save_for_backward(q, k, v, basis, bias, *kept, *before)
        ctx.output, ctx.cut = output, cut  # kept, for the number of threads may change before the backward pass
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, *before = ctx.saved_tensors
        work, output = Workspace(q), ctx.output
        dq, dk, dv, dbasis, dbias = gradients(ctx, q, k, v, basis, bias)
        later = torch.zeros(*q.shape[:2], before[0].shape[2], dtype=before[0].dtype, device=q.device)
        for chunk, so_far in zip(reversed(ctx.cut), reversed(before), strict=True):
            mean = RunningMean(chunk, 0, work)
            for block in chunk.blocks(q.shape[1]):
                query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
                given, dquery = work.read("grad", block.of(grad)), work.target("dq", block.of(dq))
                B, dB = (None if x is None else x[block.head] for x in (basis, dbasis))
                local = value if e is None else work.read("e", block.of(e))
                sizes = None if lse is None else block.of(lse)

                c = in_basis("c", local, B, work)
                H = work.take("H", *c.shape)
                mean.forward(c, so_far[:, block.head], H)
                H = block.tokens(H)
                dH, dlse, share = read_block_backward(block, query, H, B, local, sizes, output, given, dquery, dB, work)

                dc, after = work.take("c", *c.shape), later[chunk.rows, block.head]
                after.copy_(mean.backward(dH.view(c.shape), after, dc))
                if dB is not None:
                    dB.addmm_(dc.mT, local)
                de = combine(
                    dc, B, None if output == "memory" else given, share_rows(share), work.take("de", *local.shape)
                )
                local_block_backward(block, query, key, value, bias, None, local, de, dlse, dquery, dk, dv, dbias, work)
                store(block.of(dq), dquery)
        return dq, dk, dv, dbasis, dbias, None


class _Noncausal(torch.autograd.Function):
    """Two passes over the blocks, because every read needs the mean of all: first the windows, then the memory."""

    @staticmethod
    def forward(ctx: Any, q, k, v, basis, bias, output, lengths) -> Tensor:
        work, out = Workspace(q), torch.empty_like(q)
        kept = Kept(v, None) if bias is None else Kept.like(q)
        assert kept.e is not None
        real = None if lengths is None else real_tokens(lengths, q)
        mean = torch.zeros(q.shape[0], q.shape[1], q.shape[3], dtype=carry_dtype(q.device), device=q.device)
        for block in blocks(q, bias):
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            e, _ = local_block(block, query, key, value, bias, hidden_keys(block, real), kept, work)
            e = block.tokens(e)
            if real is None:
                mean[block.chunk.rows, block.head] += e.sum(1)
            else:
                mean[block.chunk.rows, block.head] += (real[block.chunk.rows, None, block.chunk.tokens] @ e)[:, 0]
        mean /= q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]
        mean = mean.to(work.dtype)
        H = mean if basis is None else torch.einsum("hrd,bhd->bhr", basis, mean)
        for block in blocks(q, bias):
            query, e = work.read("q", block.of(q)), work.read("e", block.of(kept.e))
            lse = None if kept.lse is None else block.of(kept.lse)
            B = None if basis is None else basis[block.head]
            read_block(block, query, H[block.chunk.rows, block.head, None], B, e, lse, output, out, work)
        ctx.save_for_backward(q, k, v, basis, bias, *kept, lengths, mean, H)
        ctx.output = output
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, lengths, mean, H = ctx.saved_tensors
        work, output = Workspace(q), ctx.output
        dq, dk, dv, dbasis, dbias = gradients(ctx, q, k, v, basis, bias)
        dH = torch.zeros(H.shape, dtype=carry_dtype(q.device), device=q.device)
        size = q.shape[:3] if output == "joint" else (0,)
        shares, dlses = (torch.empty(size, dtype=work.dtype, device=q.device) for _ in range(2))
        for block in blocks(q, bias):
            query, local, given = (work.read(name, block.of(x)) for name, x in (("q", q), ("e", e), ("grad", grad)))
            B, dB = (None if x is None else x[block.head] for x in (basis, dbasis))
            at = H[block.chunk.rows, block.head, None]
            sizes, target = None if lse is None else block.of(lse), work.target("dq", block.of(dq))
            gradient, dlse, share = read_block_backward(
                block, query, at, B, local, sizes, output, given, target, dB, work
            )
            store(block.of(dq), target)
            dH[block.chunk.rows, block.head] += gradient.sum(1)
            if share is not None and dlse is not None:
                block.of(shares).copy_(share[:, :, 0])
                block.of(dlses).copy_(dlse[:, :, 0])

        dH = dH.to(work.dtype)
        dmean = dH if basis is None else torch.einsum("bhr,hrd->bhd", dH, basis)
        if dbasis is not None:
            dbasis += torch.einsum("bhr,bhd->hrd", dH, mean)
        dmean = dmean / (q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None])
        real = None if lengths is None else real_tokens(lengths, q)
        for block in blocks(q, bias):
            query, key, value = (work.read(name, block.of(x)) for name, x in (("q", q), ("k", k), ("v", v)))
            local, given, dquery = (work.read(name, block.of(x)) for name, x in (("e", e), ("grad", grad), ("dq", dq)))
            de = work.take("de", *local.shape)
            block.tokens(de).copy_(dmean[block.chunk.rows, block.head, None])
            if real is not None:
                de.mul_(block.of(real[:, None].expand(-1, q.shape[1], -1)).reshape(-1, 1))
            if output == "sum":
                de.add_(given)
            if output == "joint":
                de.addcmul_(given, block.of(shares).reshape(-1, 1))
            dlse = None if output != "joint" else block.of(dlses).unsqueeze(2)
            hidden = hidden_keys(block, real)
            local_block_backward(block, query, key, value, bias, hidden, local, de, dlse, dquery, dk, dv, dbias, work)
            store(block.of(dq), dquery)
        return dq, dk, dv, dbasis, dbias, None, None


def gradients(ctx: Any, q, k, v, basis, bias) -> tuple:
    """Where the gradients go: uninitialised for q, k, v, zeros for what all blocks add to, None for what isn't asked."""
    sums = (torch.zeros_like(x) if ctx.needs_input_grad[i] else None for i, x in ((3, basis), (4, bias)))
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), *sums


def share_rows(share: Tensor | None) -> Tensor | None:
    """(rows, tokens, 1) -> (R, 1)"""
    return None if share is None else share.reshape(-1, 1)


def real_tokens(lengths: Tensor, q: Tensor) -> Tensor:
    """1 for a real token, 0 for a padded one.  (b, n)"""
    return (torch.arange(q.shape[2], device=q.device) < lengths[:, None]).to(accumulation_dtype(q))


def hidden_keys(block: Block, real: Tensor | None) -> Tensor | None:
    """The padded keys of each window, (x, 1, w)."""
    if real is None:
        return None
    return (real[block.chunk.rows, block.chunk.tokens] == 0).reshape(-1, 1, block.chunk.window)
