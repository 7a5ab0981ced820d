"""Backend "torch": LAVO over a whole sequence, block by block.  Its memory is linear in the length, forward and backward.

The causal form computes the windows (windows.py) and then the memory (memory.py) of one block before the next block.  The
noncausal form computes the windows of all blocks first, because every read needs the mean of all local summaries e.

The backward pass is written by hand.  It keeps q, k, v, the local summaries and their log-sum-exps, and computes the rest
again.  For a short sequence it keeps everything that the blocks compute: this takes a bounded amount of memory and saves a
fifth of the time.

Floating-point operations of the forward pass, for one token and head (letters as in docs/notation.md):

    4·w·d     scores and values of a whole window; a causal window computes the future too and hides it afterwards
    2·r·d     for each of three products with the basis: with e, with q, and for the output.  There are none if the basis is
              None, and the product with e is missing in the noncausal form, which takes the mean before it applies B
    2·16·r    the causal running mean
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo.blocks import Chunk, Tokens, Workspace, accumulation_dtype, blocks, carry_dtype, chunks, store
from lavo.memory import CausalMemory, Gradients, Memory, Read, no_sums
from lavo.windows import Local, LocalGradients, Windows, bias_matrix, needs_lse

# On a CPU, up to this number of rows (batch x heads x tokens) nothing is computed twice.  The kept results take some 14 MB in
# float32.
KEPT_ROWS = 16384


def self_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor | None,
    *,
    window: int,
    bias: Tensor | None,
    causal: bool,
    output: str,
    dissect: bool,
    lengths: Tensor | None,
) -> Tensor:
    """Computes LAVO over one sequence.

    q, k, v: (b, h, n, d).  basis: (h, r, d), or None for the head's own axes.
    lengths: (b,), the number of real tokens of each row, which come before all padded ones; None if all are real.
    The other arguments are those of ``lavo.functional.lavo_attention``.
    Returns (b, h, n, d).  Rows beyond ``lengths`` have arbitrary values.
    """
    if 0 in q.shape:
        return q + k + v  # an empty tensor that autograd connects with all three
    basis = None if basis is None else basis.to(accumulation_dtype(q))
    matrix = bias_matrix(bias, min(window, q.shape[2]), window, causal, q) if dissect else None
    output = output if dissect else "memory"
    if causal and not torch.is_grad_enabled():
        inputs = Inputs(Tokens(q, k, v), basis, matrix, output)
        return causal_forward(inputs, no_sums(q, basis), 0, chunks(q, size_of(matrix))).out
    if causal:
        return _Causal.apply(q, k, v, basis, matrix, output)
    return _Noncausal.apply(q, k, v, basis, matrix, output, lengths)


class Inputs(NamedTuple):
    """The inputs of the causal and of the noncausal form."""

    tokens: Tokens  # (b, h, n, d)
    basis: Tensor | None  # (h, r, d); None means the identity
    bias: Tensor | None  # (h, w, w), from bias_matrix; None if there are no windows
    output: str


class Computed(NamedTuple):
    """Intermediate results of one block.  A short sequence keeps them; otherwise the backward pass computes them again."""

    weights: Tensor | None = None  # (x, w, w), the softmax of the windows' scores
    read: Read = Read()


class CausalPass(NamedTuple):
    """What the forward pass of the causal form returns."""

    out: Tensor  # (b, h, n, d)
    before: list[Tensor]  # for each chunk, the sum of B e over the tokens before it, (h, rows, r)
    computed: list[Computed]  # for each block; valid only with ``keeping``


def causal_forward(
    inputs: Inputs,
    sums: Tensor,
    start: int,
    cut: list[Chunk],
    *,
    kept: Local | None = None,
    keeping: bool = False,
) -> CausalPass:
    """Computes the causal form of a sequence that continues after ``start`` tokens.

    sums: (b, h, r), the sum of B e over those tokens; the new tokens are added to it in place.
    cut: the chunks of the sequence.
    kept: if given, the local summaries of the sequence are written to it.
    keeping: whether ``computed`` of the result is needed, so that later blocks must not overwrite it.
    """
    tokens, basis, bias, output = inputs
    work, out = Workspace(tokens.q, keeping), torch.empty_like(tokens.q)
    windows, memory = Windows(bias, work, needs_lse(output)), CausalMemory(Memory(basis, output, work), sums, start)
    before, computed = [], []
    for chunk in cut:
        before.append(memory.enter(chunk))
        for block in chunk.blocks(out.shape[1]):
            own, target = tokens.read(block, work), work.target("out", block.of(out))
            # If the summaries are not kept, e uses the output's memory: the step that writes the output is the last to read e.
            e = target if kept is None else work.target("e", block.of(kept.e))
            local, weights = windows.forward(block, own, e)
            if kept is not None:
                kept.store(block, local)
            computed.append(Computed(weights, memory.forward(block, own.q, local, target)))
            store(block.of(out), target)
    return CausalPass(out, before, computed)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, basis: Tensor | None, bias: Tensor | None, output: str
    ) -> Tensor:
        cut, keeping = chunks(q, size_of(bias)), is_short(ctx, q)
        # The backward pass reads e to compute H again, for the gradient of the basis, and for that of the share in "joint".
        reads_e = not keeping or basis is not None or needs_lse(output)
        kept = Local.like(q, output) if bias is not None and any(ctx.needs_input_grad) and reads_e else None
        inputs = Inputs(Tokens(q, k, v), basis, bias, output)
        out, before, computed = causal_forward(inputs, no_sums(q, basis), 0, cut, kept=kept, keeping=keeping)
        ctx.save_for_backward(
            q, k, v, basis, bias, *(kept or (None, None)), *before, *(flat(computed) if keeping else ())
        )
        # ``chunks`` depends on the number of threads, which may change before the backward pass, so the cut is kept.
        ctx.output, ctx.cut = output, cut
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, *rest = ctx.saved_tensors
        before, kept = rest[: len(ctx.cut)], unflat(rest[len(ctx.cut) :])
        tokens, work = Tokens(q, k, v), Workspace(q)
        dtokens, dbasis, dbias = gradients(ctx, tokens, basis, bias)
        later = torch.zeros(*q.shape[:2], before[0].shape[-1], dtype=before[0].dtype, device=q.device)
        windows, memory = Windows(bias, work, False), CausalMemory(Memory(basis, ctx.output, work), later, 0)
        for chunk, sum_before in zip(reversed(ctx.cut), reversed(before), strict=True):
            memory.enter(chunk, sum_before)
            # ``kept`` has the blocks of all chunks in order of time; those of this chunk are the last that remain.
            cuts = list(chunk.blocks(q.shape[1]))
            kept, computed = kept[: -len(cuts)], kept[-len(cuts) :] or [Computed()] * len(cuts)
            for block, (weights, read) in zip(cuts, computed, strict=True):
                own, into = tokens.read(block, work), dtokens.targets(block, work)
                local = Local(own.v, None) if e is None else Local(e, lse).read(block, work)
                given = Gradients(work.read("grad", block.of(grad)), into.q, block.basis(dbasis))
                dlocal = memory.backward(block, own.q, local, read, given)
                windows.backward(block, own, weights, dlocal, into, dbias)
                dtokens.store(block, into)
        return *dtokens, dbasis, dbias, None


class _Noncausal(torch.autograd.Function):
    """Goes over the blocks twice: once for the windows, and once for the memory."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        basis: Tensor | None,
        bias: Tensor | None,
        output: str,
        lengths: Tensor | None,
    ) -> Tensor:
        cut, keeping, tokens = blocks(q, size_of(bias)), is_short(ctx, q), Tokens(q, k, v)
        work, out, computed = Workspace(q, keeping), torch.empty_like(q), []
        kept = Local(v, None) if bias is None else Local.like(q, output)
        real = None if lengths is None else real_tokens(lengths, q)
        windows = Windows(bias, work, needs_lse(output), real)
        total = torch.zeros(q.shape[0], q.shape[1], q.shape[3], dtype=carry_dtype(q.device), device=q.device)
        for block in cut:
            local, weights = windows.forward(block, tokens.read(block, work), work.target("e", block.of(kept.e)))
            computed.append(Computed(weights))
            if bias is not None:
                kept.store(block, local)
            e = block.tokens(local.e)
            if real is None:
                block.carried(total).add_(e.sum(2))
            else:
                block.carried(total).add_((real[block.chunk.rows, None, block.chunk.tokens] @ e)[:, :, 0])

        total /= q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]
        mean = total.to(work.dtype)
        H = mean if basis is None else torch.einsum("hrd,bhd->bhr", basis, mean)
        memory = Memory(basis, output, work)
        for i, block in enumerate(cut):
            query, target = work.read("q", block.of(q)), work.target("out", block.of(out))
            read = memory.forward(block, query, block.carried(H)[:, :, None], kept.read(block, work), target)
            store(block.of(out), target)
            computed[i] = computed[i]._replace(read=read)
        ctx.save_for_backward(q, k, v, basis, bias, *kept, lengths, mean, H, *(flat(computed) if keeping else ()))
        ctx.output, ctx.cut = output, cut
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, e, lse, lengths, mean, H, *rest = ctx.saved_tensors
        tokens, kept, work, output = Tokens(q, k, v), Local(e, lse), Workspace(q), ctx.output
        computed = unflat(rest) or [Computed()] * len(ctx.cut)
        dtokens, dbasis, dbias = gradients(ctx, tokens, basis, bias)
        dH = torch.zeros(H.shape, dtype=carry_dtype(q.device), device=q.device)
        size = q.shape[:3] if needs_lse(output) else (0,)
        shares, dlses = (torch.empty(size, dtype=work.dtype, device=q.device) for _ in range(2))
        memory = Memory(basis, output, work)
        for block, (_, read) in zip(ctx.cut, computed, strict=True):
            query, local, dq = (
                work.read("q", block.of(q)),
                kept.read(block, work),
                work.target("dq", block.of(dtokens.q)),
            )
            given = Gradients(work.read("grad", block.of(grad)), dq, block.basis(dbasis))
            found = memory.backward(block, query, block.carried(H)[:, :, None], local, read, given)
            store(block.of(dtokens.q), dq)
            block.carried(dH).add_(block.tokens(found.H).sum(2))
            if found.share is not None and found.lse is not None:
                block.of(shares).copy_(found.share.view(block.shape))
                block.of(dlses).copy_(found.lse.view(block.shape))

        dH = dH.to(work.dtype)
        dmean = dH if basis is None else torch.einsum("bhr,hrd->bhd", dH, basis)
        if dbasis is not None:
            dbasis += torch.einsum("bhr,bhd->hrd", dH, mean)
        dmean = dmean / (q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None])
        real = None if lengths is None else real_tokens(lengths, q)
        windows = Windows(bias, work, False, real)
        for block, (weights, _) in zip(ctx.cut, computed, strict=True):
            own, out = tokens.read(block, work), work.read("grad", block.of(grad))
            de, dlse = work.take("de", *out.shape), None
            block.tokens(de).copy_(block.carried(dmean)[:, :, None])
            if real is not None:
                block.tokens(de).mul_(real[block.chunk.rows, block.chunk.tokens, None])
            if output == "sum":
                de.add_(out)
            if output == "joint":
                de.addcmul_(out, block.of(shares).reshape(*out.shape[:2], 1))
                dlse = block.of(dlses).reshape(*out.shape[:2], 1)
            into = dtokens.targets(block, work)._replace(q=work.read("dq", block.of(dtokens.q)))
            windows.backward(block, own, weights, LocalGradients(de, dlse), into, dbias)
            dtokens.store(block, into)
        return *dtokens, dbasis, dbias, None, None


def size_of(bias: Tensor | None) -> int | None:
    """Returns the number of tokens of a window, from the matrix of its bias; None if there are no windows."""
    return None if bias is None else bias.shape[1]


def is_short(ctx: Any, q: Tensor) -> bool:
    """Returns whether blocks keep their intermediate results: a short sequence on a CPU, with a backward pass to come."""
    return q.device.type == "cpu" and q.shape[:3].numel() <= KEPT_ROWS and any(ctx.needs_input_grad)


def flat(computed: list[Computed]) -> list[Tensor | None]:
    """Returns the tensors of all blocks in one list, which is what ``save_for_backward`` takes."""
    return [x for weights, read in computed for x in (weights, *read)]


def unflat(tensors: list[Tensor | None]) -> list[Computed]:
    """Returns the results of the blocks from the list that ``flat`` made."""
    size = 1 + len(Read._fields)
    groups = [tensors[first : first + size] for first in range(0, len(tensors), size)]
    return [Computed(weights, Read(*read)) for weights, *read in groups]


def gradients(
    ctx: Any, tokens: Tokens, basis: Tensor | None, bias: Tensor | None
) -> tuple[Tokens, Tensor | None, Tensor | None]:
    """Returns tensors for the gradients of tokens, basis and bias.

    Those of the tokens are uninitialised.  Those of basis and bias are zeros, because every block adds to them, or None if
    they are not wanted.
    """
    dbasis, dbias = (
        None if x is None or not ctx.needs_input_grad[i] else torch.zeros_like(x) for i, x in ((3, basis), (4, bias))
    )
    return Tokens(*map(torch.empty_like, tokens)), dbasis, dbias


def real_tokens(lengths: Tensor, q: Tensor) -> Tensor:
    """Returns (b, n) with 1 for a real token and 0 for a padded one.  lengths: (b,).  q: (b, h, n, d)."""
    return (torch.arange(q.shape[2], device=q.device) < lengths[:, None]).to(accumulation_dtype(q))
