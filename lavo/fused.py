"""Backend "triton": LAVO over a whole sequence in fused kernels, forward and backward.

The forward pass computes the sum of the local summaries e over each tile (of up to 64 tokens), then the sums over all tiles
before each tile, then the outputs, for which the windows are computed a second time.  The backward pass computes the memory,
then the sums of its gradients over all tiles after each tile, then the windows.  Only the inputs and one sum of d numbers
for each tile are kept for the backward pass.  docs/decisions/0005 explains why the running sum is a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo import kernels, kernels_backward
from lavo.blocks import Tokens
from lavo.cross import source_mean
from lavo.launch import BLOCK, OUTPUTS, Launch, autotuned, power_of_two
from lavo.one_pass import attend_in_one_pass
from lavo.windows import by_distance

_SHAPE = ["BLOCK", "TILES", "D", "CAUSAL"]
_sums = autotuned(kernels.sums_kernel, _SHAPE)
_output = autotuned(kernels.output_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "WINDOWS"])
_memory_backward = autotuned(kernels_backward.memory_backward_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "CROSS"])
_queries_backward = autotuned(kernels_backward.queries_backward_kernel, _SHAPE)
_keys_backward = autotuned(kernels_backward.keys_backward_kernel, _SHAPE, reset_to_zero=["dpairs_ptr"])


@contextmanager
def first_configurations() -> Iterator[None]:
    """Inside the block, no kernel is tuned: each runs in the first of its configurations.

    All configurations give the same results, and trying them takes time.
    """
    tuned = (_sums, _output, _memory_backward, _queries_backward, _keys_backward)
    before = [kernel.configs for kernel in tuned]
    try:
        for kernel in tuned:
            kernel.configs = kernel.configs[:1]
        yield
    finally:
        for kernel, configs in zip(tuned, before, strict=True):
            kernel.configs = configs


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
    one_pass: bool = False,
) -> Tensor:
    """Computes LAVO over one sequence.  Arguments and result are those of ``chunked.self_attention``.

    one_pass: whether the causal form runs in one pass (one_pass.py).
    """
    if 0 in q.shape:
        return q + k + v
    basis, bias, form = prepare(q, basis, bias, window, causal, output, dissect)
    # Padding is on the right here, so no real token of the causal form sees it, and ``lengths`` is not needed.
    lengths = None if lengths is None or causal else lengths.to(torch.int32)
    return _SelfAttention.apply(q, k, v, basis, bias, lengths, form._replace(one_pass=one_pass))


def cross_attention(q: Tensor, v: Tensor, basis: Tensor | None, mask: Tensor | None) -> Tensor:
    """Computes LAVO over another sequence: the mean of the source, then one pass over the queries.

    q: (b, h, n, d).  v: (b, h, m, d).  basis: (h, r, d) or None.  mask: (b, m), True where padded, or None.
    """
    basis = None if basis is None else basis.float().contiguous()
    return _Read.apply(q, source_mean(v, basis, mask), basis) if q.numel() else q + 0 * v.sum()


class Form(NamedTuple):
    """The options of self-attention, as the kernels take them."""

    window: int  # at most the length of the sequence; the tokens of a tile if there are no windows
    causal: bool
    output: int  # a value of launch.OUTPUTS
    windows: bool  # whether there are windows
    one_pass: bool = False


def prepare(
    q: Tensor, basis: Tensor | None, bias: Tensor | None, window: int, causal: bool, output: str, dissect: bool
) -> tuple[Tensor | None, Tensor | None, Form]:
    """Returns the basis and the bias as the kernels read them (float32, contiguous), and the options."""
    if not dissect:
        window, bias, output = BLOCK, None, "memory"  # the sequence is still cut into tiles, one for each "window"
    basis, bias = (None if x is None else x.float() for x in (basis, bias))
    size = min(window, q.shape[2])
    if bias is not None:
        bias = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
        bias = bias.contiguous()
    return None if basis is None else basis.contiguous(), bias, Form(size, causal, OUTPUTS[output], dissect)


def alike(*tensors: Tensor) -> list[Tensor]:
    """Returns the tensors with the same strides, and stride 1 along the last dimension; copies them only if necessary."""
    first = tensors[0]
    if first.stride(3) == 1 and all(x.stride() == first.stride() for x in tensors):
        return list(tensors)
    return [x.contiguous() for x in tensors]


def with_strides_of(x: Tensor, like: Tensor) -> Tensor:
    """Returns x with the strides of ``like``, copied only if it has others."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def rows_like(q: Tensor) -> Tensor:
    """Returns an uninitialised output of the shape of q, with the strides of q if its last dimension has stride 1."""
    out = torch.empty_like(q)
    return out if out.stride(3) == 1 else torch.empty(q.shape, dtype=q.dtype, device=q.device)


# Forward.


class Memory(NamedTuple):
    """What the forward pass keeps of the memory.  The causal form has ``before``; the noncausal form has the other two."""

    before: Tensor | None  # (b, h, tiles, d), the sum of e over all tiles before each tile
    mean: Tensor | None  # (b, h, d), the mean of e; None in cross-attention, which has only H
    H: Tensor | None  # (b, h, r), B times the mean


class Result(NamedTuple):
    """What the forward pass returns."""

    launch: Launch
    out: Tensor  # (b, h, n, d)
    sums: Tensor  # (b, h, tiles, d), the sum of e over each tile
    memory: Memory


def attend(tokens: Tokens, basis: Tensor | None, bias: Tensor | None, lengths: Tensor | None, form: Form) -> Result:
    """Computes the forward pass.

    tokens: (b, h, n, d) each, with the same strides (see ``alike``).  basis, bias and form: from ``prepare``.
    lengths: (b,) int32, the number of real tokens, in the noncausal form; None if all are real or the form is causal.
    """
    q, k, v = tokens
    out = rows_like(q)
    launch = Launch(
        q,
        out,
        form.window,
        q.shape[3] if basis is None else basis.shape[1],
        identity=basis is None,
        output=form.output,
        causal=form.causal,
        windows=form.windows,
        biased=bias is not None,
        ragged=lengths is not None,
    )
    tensors = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "bias_ptr": bias}
    sums = torch.empty(*q.shape[:2], launch.num_tiles, q.shape[3], dtype=torch.float32, device=q.device)
    if form.causal and form.one_pass:
        before = attend_in_one_pass(launch, tensors, basis, sums, out)
        return Result(launch, out, sums, Memory(before, None, None))
    grid = (launch.num_tiles, launch.rows)
    launch.run(_sums, grid, **tensors, lengths_ptr=lengths, sums_ptr=sums)
    if form.causal:
        memory = Memory(scan(launch, sums, reverse=False), None, None)
    else:
        mean = (sums.sum(2, dtype=torch.float64) / num_tokens(q, lengths)).float()
        H = mean if basis is None else torch.einsum("bhd,hrd->bhr", mean, basis).contiguous()
        memory = Memory(None, mean, H)
    places = {"basis_ptr": basis, "before_ptr": memory.before, "H_ptr": memory.H, "out_ptr": out}
    launch.run(_output, grid, **tensors, **places, lengths_ptr=lengths)
    return Result(launch, out, sums, memory)


def scan(launch: Launch, sums: Tensor, *, reverse: bool) -> Tensor:
    """Returns for each tile the sum over all tiles before it, or after it if ``reverse``.  sums: (b, h, tiles, d)."""
    out, head_dim = torch.empty_like(sums), sums.shape[3]
    columns = 16
    launch.run(
        kernels.scan_kernel,
        (launch.rows, triton.cdiv(head_dim, columns)),
        sums_ptr=sums,
        out_ptr=out,
        REVERSE=reverse,
        SPAN=min(128, power_of_two(launch.num_tiles)),
        COLUMNS=columns,
    )
    return out


def num_tokens(q: Tensor, lengths: Tensor | None) -> Tensor | int:
    """Returns the number of tokens by which the mean of the noncausal form divides: n, or (b, 1, 1) with ``lengths``."""
    return q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]


# Backward.


class MemoryGradients(NamedTuple):
    """Gradients from the memory that ``memory_backward`` returns; those of the size of q are written to given tensors."""

    given: Tensor | None  # causal: (b, h, tiles, d), the gradient that a tile gives to each e of the tiles before it
    H: Tensor | None  # noncausal: (b, h, r)
    basis: Tensor | None  # (h, r, d); in the noncausal form without the part that comes through H


def memory_backward(
    launch: Launch, basis: Tensor | None, memory: Memory, grad: Tensor, *, basis_wanted: bool, **tensors: Tensor | None
) -> MemoryGradients:
    """Computes the backward pass of the memory.  grad: (b, h, n, d), the gradient of the output.

    tensors: by the names of the kernel's arguments.  Of these it writes ``dq_ptr`` and, in self-attention, ``de_ptr``,
    ``lse_ptr`` and ``dlse_ptr``.
    """
    q = launch.q
    programs, span = launch.share(launch.num_tiles)
    options: dict[str, Any] = {"dtype": torch.float32, "device": q.device}
    wanted = basis is not None and basis_wanted
    given = torch.empty(*q.shape[:2], launch.num_tiles, q.shape[3], **options) if launch.causal else None
    dH = None if launch.causal else torch.empty(*q.shape[:2], programs, launch.rank, **options)
    dbasis = torch.empty(*q.shape[:2], programs, launch.rank, q.shape[3], **options) if wanted else None
    launch.run(
        _memory_backward,
        (programs, launch.rows),
        **tensors,
        basis_ptr=basis,
        before_ptr=memory.before,
        H_ptr=memory.H,
        grad_ptr=grad,
        given_ptr=given,
        dH_ptr=dH,
        dbasis_ptr=dbasis,
        span=span,
        BASIS_GRADIENT=wanted,
    )
    return MemoryGradients(given, None if dH is None else dH.sum(2), None if dbasis is None else dbasis.sum((0, 2)))


def compress_backward(
    launch: Launch, basis: Tensor | None, mean: Tensor | None, found: MemoryGradients, count: Tensor | int
) -> Tensor:
    """Returns the gradient that each e gets through the means of other tiles.

    Causal: (b, h, tiles, d), for each e of a tile, from all later tiles.  Noncausal: (b, h, d), for every e, from all tokens.
    In the noncausal form it also adds the part that comes through H to the gradient of the basis, ``found.basis``.
    count: the number of tokens of the mean (see ``num_tokens``).
    """
    if found.given is not None:
        return scan(launch, found.given, reverse=True)
    assert found.H is not None
    dmean = found.H if basis is None else torch.einsum("bhr,hrd->bhd", found.H, basis)
    if found.basis is not None:
        found.basis.add_(torch.einsum("bhr,bhd->hrd", found.H, mean))
    return (dmean / count).contiguous()


def windows_backward(launch: Launch, *, bias_wanted: bool, **tensors: Tensor | None) -> Tensor | None:
    """Computes the backward pass of the windows; returns the gradient of the bias, or None if it is not wanted.

    tensors: by the names of the kernels' arguments.  Of these it writes ``dq_ptr``, ``dk_ptr`` and ``dv_ptr``.
    """
    q = launch.q
    if launch.tiles > 1:
        own = {name: x for name, x in tensors.items() if name not in ("dk_ptr", "dv_ptr")}
        launch.run(_queries_backward, (launch.num_tiles, launch.rows), **own)
    programs, span = launch.share(launch.num_windows)
    side = launch.tiles * launch.block
    shape = (*q.shape[:2], programs, side, side) if bias_wanted else (1,)
    dpairs = torch.zeros(shape, dtype=torch.float32, device=q.device)
    grid = (programs, launch.tiles, launch.rows)
    launch.run(_keys_backward, grid, **tensors, dpairs_ptr=dpairs, span=span, BIAS_GRADIENT=bias_wanted)
    return by_distance(dpairs.sum((0, 2)), launch.window, launch.causal) if bias_wanted else None


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        basis: Tensor | None,
        bias: Tensor | None,
        lengths: Tensor | None,
        form: Form,
    ) -> Tensor:
        tokens = Tokens(*alike(q, k, v))
        found = attend(tokens, basis, bias, lengths, form)
        ctx.save_for_backward(*tokens, basis, bias, lengths, *found.memory)
        ctx.launch = found.launch
        return found.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, lengths, *kept = ctx.saved_tensors
        launch, memory = ctx.launch, Memory(*kept)
        grad = with_strides_of(grad, launch.like_out)
        dq, dk, dv, memory_dq, de = (torch.empty_like(launch.like_out) for _ in range(5))
        lse, dlse, delta = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(3))
        tensors = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "bias_ptr": bias, "lengths_ptr": lengths}
        tensors |= {"de_ptr": de, "lse_ptr": lse, "dlse_ptr": dlse}
        basis_wanted, bias_wanted = (ctx.needs_input_grad[i] for i in (3, 4))
        found = memory_backward(launch, basis, memory, grad, basis_wanted=basis_wanted, dq_ptr=memory_dq, **tensors)
        later = compress_backward(launch, basis, memory.mean, found, num_tokens(q, lengths))
        if not launch.windows:  # e was v
            if launch.causal:
                later = later.repeat_interleave(launch.block, 2)[:, :, : q.shape[2]]
            else:
                later = later[:, :, None]
            return memory_dq, dk.zero_(), (de + later).to(v.dtype), found.basis, None, None, None
        tensors |= {"later_ptr": later, "memory_dq_ptr": memory_dq, "delta_ptr": delta}
        tensors |= {"dq_ptr": dq, "dk_ptr": dk, "dv_ptr": dv}
        dbias = windows_backward(launch, bias_wanted=bias is not None and bias_wanted, **tensors)
        return dq, dk, dv, found.basis, dbias, None, None


class _Read(torch.autograd.Function):
    """Reads a memory that all queries share.  q: (b, h, n, d).  H: (b, h, r).  Returns (b, h, n, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, H: Tensor, basis: Tensor | None) -> Tensor:
        (q,) = alike(q)
        H, out = H.float().contiguous(), rows_like(q)
        launch = Launch(q, out, BLOCK, H.shape[2], identity=basis is None, output=OUTPUTS["memory"], cross=True)
        nothing = dict.fromkeys(("k_ptr", "v_ptr", "bias_ptr", "lengths_ptr", "before_ptr"))
        grid = (launch.num_tiles, launch.rows)
        launch.run(_output, grid, **nothing, q_ptr=q, basis_ptr=basis, H_ptr=H, out_ptr=out)
        ctx.save_for_backward(q, H, basis)
        ctx.launch = launch
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, H, basis = ctx.saved_tensors
        launch: Launch = ctx.launch
        dq = torch.empty_like(launch.like_out)
        grad = with_strides_of(grad, launch.like_out)
        nothing = dict.fromkeys(("k_ptr", "v_ptr", "bias_ptr", "lengths_ptr", "de_ptr", "lse_ptr", "dlse_ptr"))
        wanted, memory = ctx.needs_input_grad[2], Memory(None, None, H)
        found = memory_backward(launch, basis, memory, grad, basis_wanted=wanted, dq_ptr=dq, q_ptr=q, **nothing)
        return dq, found.H, found.basis
