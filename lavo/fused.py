"""Backend "triton": LAVO over a whole sequence in fused kernels, forward and backward.

Forward, the kernels compute the sum of the summaries e in each tile (of up to 64 tokens), the sums before each tile, and
the outputs, for which they compute the windows a second time.  Backward comes first the memory, then the sums of its
gradients from the end, then the windows.  In between nothing is kept but the inputs and one sum of d numbers a tile.
docs/decisions/0005 has why the running sum takes a pass of its own.
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

_SHAPE = ["BLOCK", "TILES", "D", "CAUSAL"]
_sums = autotuned(kernels.sums_kernel, _SHAPE)
_output = autotuned(kernels.output_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "WINDOWS"])
_memory_backward = autotuned(kernels_backward.memory_backward_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "CROSS"])
_queries_backward = autotuned(kernels_backward.queries_backward_kernel, _SHAPE)
_keys_backward = autotuned(kernels_backward.keys_backward_kernel, _SHAPE, reset_to_zero=["dpairs_ptr"])


@contextmanager
def first_configurations() -> Iterator[None]:
    """Inside, each kernel runs in the first of its configurations.  All give the same results; trying them takes time."""
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
    """LAVO over one sequence, as ``chunked.self_attention``.  one_pass: the causal form in one pass (one_pass.py)."""
    if 0 in q.shape:
        return q + k + v
    basis, bias, form = prepare(q, basis, bias, window, causal, output, dissect)
    lengths = None if lengths is None or causal else lengths.to(torch.int32)  # right padding is in nobody's past
    return _SelfAttention.apply(q, k, v, basis, bias, lengths, form._replace(one_pass=one_pass))


def cross_attention(q: Tensor, v: Tensor, basis: Tensor | None, mask: Tensor | None) -> Tensor:
    """LAVO over another sequence: the mean of the source, then one pass over the queries."""
    basis = None if basis is None else basis.float().contiguous()
    return _Read.apply(q, source_mean(v, basis, mask), basis) if q.numel() else q + 0 * v.sum()


class Form(NamedTuple):
    """Which form of self-attention runs."""

    window: int  # no longer than the sequence
    causal: bool
    output: int  # see launch.OUTPUTS
    windows: bool  # whether there are any
    one_pass: bool = False


def prepare(
    q: Tensor, basis: Tensor | None, bias: Tensor | None, window: int, causal: bool, output: str, dissect: bool
) -> tuple[Tensor | None, Tensor | None, Form]:
    """Basis and bias as the kernels read them, in float32, and the form."""
    if not dissect:
        window, bias, output = BLOCK, None, "memory"  # the window of a tile
    basis, bias = (None if x is None else x.float() for x in (basis, bias))
    size = min(window, q.shape[2])
    if bias is not None:
        bias = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
        bias = bias.contiguous()
    return None if basis is None else basis.contiguous(), bias, Form(size, causal, OUTPUTS[output], dissect)


def alike(*tensors: Tensor) -> list[Tensor]:
    """The tensors with one set of strides, and 1 along the last dimension; copies only where they differ."""
    first = tensors[0]
    if first.stride(3) == 1 and all(x.stride() == first.stride() for x in tensors):
        return list(tensors)
    return [x.contiguous() for x in tensors]


def with_strides_of(x: Tensor, like: Tensor) -> Tensor:
    """x, copied where its strides are not those of ``like``."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def rows_like(q: Tensor) -> Tensor:
    """For an output: the layout of q where it has no gaps."""
    out = torch.empty_like(q)
    return out if out.stride(3) == 1 else torch.empty(q.shape, dtype=q.dtype, device=q.device)


# Forward.


class Memory(NamedTuple):
    """What the forward pass leaves of the memory."""

    before: Tensor | None  # causal: the sums of e before each tile, (b, h, tiles, d)
    mean: Tensor | None  # else: the mean of e, (b, h, d)
    H: Tensor | None  # and in the basis, (b, h, r)


class Result(NamedTuple):
    """What the forward pass leaves."""

    launch: Launch
    out: Tensor
    sums: Tensor  # of e in each tile, (b, h, tiles, d)
    memory: Memory


def attend(tokens: Tokens, basis: Tensor | None, bias: Tensor | None, lengths: Tensor | None, form: Form) -> Result:
    """tokens: of one set of strides.  lengths: int32, where not causal."""
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
    """The sums before (reverse: after) each tile.  (b, h, tiles, d)"""
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
    """What a noncausal mean divides by."""
    return q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]


# Backward.


class MemoryGradients(NamedTuple):
    """What the memory gives, besides what it writes to tensors of the size of q."""

    given: Tensor | None  # causal: to each e before a tile, by that tile, (b, h, tiles, d)
    H: Tensor | None  # else: (b, h, r)
    basis: Tensor | None  # (h, r, d); where not causal without the part that comes through H


def memory_backward(
    launch: Launch, basis: Tensor | None, memory: Memory, grad: Tensor, *, basis_wanted: bool, **tensors: Tensor | None
) -> MemoryGradients:
    """Fills ``dq_ptr`` and, in self-attention, ``de_ptr``, ``lse_ptr`` and ``dlse_ptr`` of ``tensors``."""
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
    """What the means give to each e: causal (b, h, tiles, d), by the tiles after its own; else (b, h, d), by all.

    Adds to the basis's gradient what comes through H.
    """
    if found.given is not None:
        return scan(launch, found.given, reverse=True)
    assert found.H is not None
    dmean = found.H if basis is None else torch.einsum("bhr,hrd->bhd", found.H, basis)
    if found.basis is not None:
        found.basis.add_(torch.einsum("bhr,bhd->hrd", found.H, mean))
    return (dmean / count).contiguous()


def windows_backward(launch: Launch, *, bias_wanted: bool, **tensors: Tensor | None) -> Tensor | None:
    """Fills ``dq_ptr``, ``dk_ptr`` and ``dv_ptr`` of ``tensors``; returns the gradient of the bias, where wanted."""
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


def by_distance(pairs: Tensor, window: int, causal: bool) -> Tensor:
    """Sums over pairs of one distance t - j: (h, side, side) -> (h, window), or (h, 2 window - 1) where not causal."""
    pairs = pairs[:, :window, :window].flip(2)
    # Rows one longer than a row of the result, read again at its length: each then stands one further to the right.
    flat = torch.nn.functional.pad(pairs, (0, window)).flatten(1)[:, : window * (2 * window - 1)]
    sums = flat.view(-1, window, 2 * window - 1).sum(1)  # entry i for the distance i - (window - 1)
    return sums[:, window - 1 :] if causal else sums


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
    """The memory's answer to queries that all see one.  q: (b, h, n, d), H: (b, h, r)."""

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
