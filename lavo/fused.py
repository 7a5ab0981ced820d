"""Backend "triton": LAVO in fused kernels.

Between the forward and the backward pass nothing is kept but the inputs and one sum a tile (a tile has up to 64 tokens,
the sum d numbers).  Which products run where is told by kernels.py; docs/decisions has why the scan is made in a pass of
its own.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from lavo import kernels, kernels_backward
from lavo.chunked import source_mean

INTERPRETED = triton.knobs.runtime.interpret
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM, MAX_WINDOW = 128, 256
BLOCK = 64  # tokens of a tile at most
TILE_BYTES = 8192  # of a tile of q at most: some five such matrices must stay in registers as float32
PROGRAMS = 1024  # that share the work of a kernel whose programs add gradients up, at least where there is as much work
GROUP = 32  # tiles whose sums a program of the one-pass form adds up at once
LOOK_BACK = False  # docs/decisions/0005: the one-pass form waits for a GPU to be measured on
OUTPUTS = {"joint": 0, "sum": 1, "memory": 2}


def why_not(q: Tensor, window: int, rank: int) -> str | None:
    """The reason why these inputs go to another backend, or None.  rank: of a basis that is a matrix, else 0."""
    if q.dtype not in DTYPES:
        return f"inputs of {q.dtype}"
    if q.device.type != ("cpu" if INTERPRETED else "cuda"):
        return f"inputs on {q.device.type}"
    if q.shape[3] > MAX_HEAD_DIM:
        return f"head_dim {q.shape[3]}, more than {MAX_HEAD_DIM}"
    if window > MAX_WINDOW:
        return f"window {window}, more than {MAX_WINDOW}"
    if q.dtype == torch.float32 and q.shape[3] > 64 and rank > 64:
        return "float32 with head_dim and rank above 64"  # the basis's gradient leaves no room in shared memory
    if q.shape[0] * q.shape[1] > 65535:
        return "more than 65535 sequences times heads"  # the limit of a grid's second dimension
    return None


AUTOTUNED: list[Any] = []  # the kernels below


def _autotuned(kernel: Any, key: list[str], **options: Any) -> Any:
    """Tries numbers of warps and stages once for each value of the key; the interpreter has neither."""
    configs = [triton.Config({}, num_warps=4)]
    if not INTERPRETED:
        configs = [triton.Config({}, num_warps=w, num_stages=s) for w in (4, 8) for s in (2, 1)]
    AUTOTUNED.append(triton.autotune(configs=configs, key=key, **options)(kernel))
    return AUTOTUNED[-1]


_SHAPE = ["BLOCK", "TILES", "D", "CAUSAL"]
_sums = _autotuned(kernels.sums_kernel, _SHAPE)
_output = _autotuned(kernels.output_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "WINDOWS"])
_one_pass = _autotuned(kernels.one_pass_kernel, ["BLOCK", "TILES", "D", "R", "IDENTITY"], reset_to_zero=["flags_ptr"])
_memory_backward = _autotuned(kernels_backward.memory_backward_kernel, [*_SHAPE, "R", "IDENTITY", "OUTPUT", "CROSS"])
_queries_backward = _autotuned(kernels_backward.queries_backward_kernel, _SHAPE)
_keys_backward = _autotuned(kernels_backward.keys_backward_kernel, _SHAPE, reset_to_zero=["dpairs_ptr"])


@dataclass(frozen=True)
class Launch:
    """Sizes and constants of one call; each kernel takes those that it knows."""

    q: Tensor
    like_out: Tensor  # has the strides of the outputs
    window: int
    rank: int
    causal: bool
    windows: bool  # whether there are any: not in cross-attention, nor without dissection
    cross: bool
    biased: bool
    ragged: bool
    identity: bool
    output: int

    @property
    def block(self) -> int:
        most = TILE_BYTES // (power_of_two(self.q.shape[3]) * self.q.element_size())
        return min(BLOCK, most, power_of_two(self.window))

    @property
    def tiles(self) -> int:
        """Of a window."""
        return triton.cdiv(self.window, self.block)

    @property
    def num_windows(self) -> int:
        return triton.cdiv(self.q.shape[2], self.window)

    @property
    def num_tiles(self) -> int:
        return self.num_windows * self.tiles

    @property
    def rows(self) -> int:
        """Sequences: batch times heads."""
        return self.q.shape[0] * self.q.shape[1]

    def share(self, pieces: int) -> tuple[int, int]:
        """How many programs a sequence gets for so many pieces of work, and how many pieces each takes."""
        span = triton.cdiv(pieces, max(1, min(pieces, PROGRAMS // self.rows)))
        return triton.cdiv(pieces, span), span

    def run(self, kernel: Any, grid: tuple[int, ...], **own: Any) -> None:
        q, out = self.q, self.like_out
        head_dim = q.shape[3]
        known: dict[str, Any] = dict(zip(("x_batch", "x_head", "x_token"), q.stride(), strict=False))
        known |= dict(zip(("y_batch", "y_head", "y_token"), out.stride(), strict=False))
        known |= {"n": q.shape[2], "window": self.window, "num_heads": q.shape[1], "d": head_dim, "r": self.rank}
        known |= {"entries": self.window if self.causal else 2 * self.window - 1, "scale": head_dim**-0.5}
        known |= {"num_tiles": self.num_tiles, "num_windows": self.num_windows, "num_rows": self.rows}
        known |= {"BLOCK": self.block, "TILES": self.tiles, "D": power_of_two(head_dim), "R": power_of_two(self.rank)}
        known |= {"CAUSAL": self.causal, "WINDOWS": self.windows, "CROSS": self.cross, "BIASED": self.biased}
        known |= {"RAGGED": self.ragged, "IDENTITY": self.identity, "OUTPUT": self.output, "DOT": precision()}
        wanted = kernel.arg_names
        own = {name: q if x is None else x for name, x in own.items()}  # a place that is never read
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            kernel[grid](**own, **{name: value for name, value in known.items() if name in wanted and name not in own})


def power_of_two(size: int) -> int:
    return max(16, triton.next_power_of_2(size))  # 16: the least that a matrix product takes


def precision() -> str:
    """How products of float32 are taken: as three of tf32, which together are about exact, or one where torch is told so."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def self_attention(
    q, k, v, basis, *, window, bias, causal, output, dissect, lengths, look_back: bool | None = None
) -> Tensor:
    """LAVO over one sequence, as ``chunked.self_attention``.  look_back: the causal form in one pass."""
    if 0 in q.shape:
        return q + k + v
    basis, bias, window, output = prepare(q, basis, bias, window, causal, output, dissect)
    look_back = LOOK_BACK if look_back is None else look_back
    return _SelfAttention.apply(q, k, v, basis, bias, window, causal, output, dissect, lengths, look_back)


def prepare(q, basis, bias, window: int, causal: bool, output: str, dissect: bool) -> tuple:
    """Basis and bias in float32, a window that reaches no further than the sequence, and the output's number."""
    if not dissect:
        window, bias, output = BLOCK, None, "memory"  # the window of a tile
    basis, bias = (None if x is None else x.float() for x in (basis, bias))
    size = min(window, q.shape[2])
    if bias is not None:
        bias = bias[:, :size] if causal else bias[:, window - size : window + size - 1]
        bias = bias.contiguous()
    return None if basis is None else basis.contiguous(), bias, size, OUTPUTS[output]


def cross_attention(q, v, basis, mask) -> Tensor:
    """LAVO over another sequence: the mean of the source, then one pass over the queries."""
    basis = None if basis is None else basis.float().contiguous()
    return _Read.apply(q, source_mean(v, basis, mask), basis) if q.numel() else q + 0 * v.sum()


def alike(*tensors: Tensor) -> list[Tensor]:
    """The tensors with one set of strides, and 1 along the last dimension; copies only where they differ."""
    first = tensors[0]
    if first.stride(3) == 1 and all(x.stride() == first.stride() for x in tensors):
        return list(tensors)
    return [x.contiguous() for x in tensors]


def with_strides_of(x: Tensor, like: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def rows_like(q: Tensor) -> Tensor:
    """For an output: the layout of q where it has no gaps."""
    out = torch.empty_like(q)
    return out if out.stride(3) == 1 else torch.empty(q.shape, dtype=q.dtype, device=q.device)


def scan(launch: Launch, sums: Tensor | None, *, reverse: bool) -> Tensor:
    """The sums before (reverse: after) each tile.  (b, h, tiles, d)"""
    assert sums is not None
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


def on_bases(mean: Tensor, basis: Tensor | None) -> Tensor:
    """(b, h, d) -> (b, h, r)"""
    return mean if basis is None else torch.einsum("bhd,hrd->bhr", mean, basis).contiguous()


class Result(NamedTuple):
    """What the forward pass leaves."""

    launch: Launch
    out: Tensor
    sums: Tensor  # of e in each tile, (b, h, tiles, d)
    before: Tensor | None  # causal: of e before each tile, (b, h, tiles, d)
    mean: Tensor | None  # else: of e, (b, h, d)
    H: Tensor | None  # and in the basis, (b, h, r)


def attend(q, k, v, basis, bias, window, causal, output, windows, lengths, look_back) -> Result:
    """q, k, v: of one set of strides.  lengths: int32, where not causal."""
    out = rows_like(q)
    launch = Launch(
        q,
        out,
        window,
        q.shape[3] if basis is None else basis.shape[1],
        causal,
        windows=windows,
        cross=False,
        biased=bias is not None,
        ragged=lengths is not None,
        identity=basis is None,
        output=output,
    )
    tensors = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "bias_ptr": bias}
    sums = torch.empty(*q.shape[:2], launch.num_tiles, q.shape[3], dtype=torch.float32, device=q.device)
    before = mean = H = None
    if causal and look_back:
        num_groups = triton.cdiv(launch.num_tiles, GROUP)
        groups = torch.empty(*q.shape[:2], num_groups, q.shape[3], dtype=torch.float32, device=q.device)
        flags = torch.zeros(1 + launch.rows * (launch.num_tiles + num_groups), dtype=torch.int32, device=q.device)
        before = torch.empty_like(sums)
        places: dict[str, Tensor | None] = {
            "sums_ptr": sums,
            "before_ptr": before,
            "groups_ptr": groups,
            "flags_ptr": flags,
            "out_ptr": out,
        }
        launch.run(_one_pass, (launch.num_tiles * launch.rows,), **tensors, **places, basis_ptr=basis, GROUP=GROUP)
        return Result(launch, out, sums, before, mean, H)
    grid = (launch.num_tiles, launch.rows)
    launch.run(_sums, grid, **tensors, lengths_ptr=lengths, sums_ptr=sums)
    if causal:
        before = scan(launch, sums, reverse=False)
    else:
        count = q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]
        mean = (sums.sum(2, dtype=torch.float64) / count).float()
        H = on_bases(mean, basis)
    places = {"basis_ptr": basis, "before_ptr": before, "H_ptr": H, "out_ptr": out}
    launch.run(_output, grid, **tensors, **places, lengths_ptr=lengths)
    return Result(launch, out, sums, before, mean, H)


class _SelfAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, k, v, basis, bias, window, causal, output, windows, lengths, look_back) -> Tensor:
        q, k, v = alike(q, k, v)
        # Right padding is in nobody's past.
        lengths = None if lengths is None or causal else lengths.to(torch.int32)
        launch, out, _, *memory = attend(q, k, v, basis, bias, window, causal, output, windows, lengths, look_back)
        ctx.save_for_backward(q, k, v, basis, bias, lengths, *memory)
        ctx.launch = launch
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        q, k, v, basis, bias, lengths, before, mean, H = ctx.saved_tensors
        launch: Launch = ctx.launch
        grad = with_strides_of(grad, launch.like_out)
        dq, dk, dv, memory_dq, de = (torch.empty_like(launch.like_out) for _ in range(5))
        lse, dlse, delta = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(3))
        tensors = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "bias_ptr": bias, "lengths_ptr": lengths}
        between = {"de_ptr": de, "lse_ptr": lse, "dlse_ptr": dlse}
        given, dH, dbasis = memory_backward(
            launch, basis, ctx.needs_input_grad[3], before, H, grad, dq=memory_dq, **tensors, **between
        )
        if launch.causal:
            later = scan(launch, given, reverse=True)
        else:
            dmean = dH if basis is None else torch.einsum("bhr,hrd->bhd", dH, basis)
            if dbasis is not None:
                dbasis += torch.einsum("bhr,bhd->hrd", dH, mean)
            count = q.shape[2] if lengths is None else lengths.clamp_min(1)[:, None, None]
            later = (dmean / count).contiguous()
        if not launch.windows:  # e was v
            if launch.causal:
                later = later.repeat_interleave(launch.block, 2)[:, :, : q.shape[2]]
            else:
                later = later[:, :, None]
            return memory_dq, dk.zero_(), (de + later).to(v.dtype), dbasis, *(None,) * 7
        shared = {"later_ptr": later, "memory_dq_ptr": memory_dq, "delta_ptr": delta, "dq_ptr": dq} | between
        if launch.tiles > 1:
            launch.run(_queries_backward, (launch.num_tiles, launch.rows), **tensors, **shared)
        programs, span = launch.share(launch.num_windows)
        side = launch.tiles * launch.block
        wanted = bias is not None and ctx.needs_input_grad[4]
        dpairs = torch.zeros(
            (*q.shape[:2], programs, side, side) if wanted else (1,), dtype=torch.float32, device=q.device
        )
        launch.run(
            _keys_backward,
            (programs, launch.tiles, launch.rows),
            **tensors,
            **shared,
            dk_ptr=dk,
            dv_ptr=dv,
            dpairs_ptr=dpairs,
            span=span,
            BIAS_GRADIENT=wanted,
        )
        dbias = by_distance(dpairs.sum((0, 2)), launch.window, launch.causal) if wanted else None
        return dq, dk, dv, dbasis, dbias, *(None,) * 6


def memory_backward(
    launch: Launch, basis, basis_wanted: bool, before, H, grad, *, dq: Tensor, **tensors: Tensor | None
) -> tuple[Tensor | None, Any, Any]:
    """Fills dq and, of self-attention, de, lse and dlse.

    Returns what each tile gives to the e before it, (b, h, tiles, d), where causal; else dH, (b, h, r); and dbasis so far.
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
        before_ptr=before,
        H_ptr=H,
        grad_ptr=grad,
        dq_ptr=dq,
        given_ptr=given,
        dH_ptr=dH,
        dbasis_ptr=dbasis,
        span=span,
        BASIS_GRADIENT=wanted,
    )
    return given, None if dH is None else dH.sum(2), None if dbasis is None else dbasis.sum((0, 2))


def by_distance(pairs: Tensor, window: int, causal: bool) -> Tensor:
    """Sums over pairs of one distance t - j: (h, side, side) -> (h, window), or (h, 2 window - 1) where not causal."""
    pairs = pairs[:, :window, :window].flip(2)
    # Rows one longer than a row of the result, read again at its length: each then stands one further to the right.
    flat = torch.nn.functional.pad(pairs, (0, window)).flatten(1)[:, : window * (2 * window - 1)]
    sums = flat.view(-1, window, 2 * window - 1).sum(1)  # entry i for the distance i - (window - 1)
    return sums[:, window - 1 :] if causal else sums


class _Read(torch.autograd.Function):
    """The memory's answer to queries that all see one.  q: (b, h, n, d), H: (b, h, r)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, H: Tensor, basis: Tensor | None) -> Tensor:
        (q,) = alike(q)
        H, out = H.float().contiguous(), rows_like(q)
        launch = Launch(
            q,
            out,
            BLOCK,
            H.shape[2],
            causal=False,
            windows=False,
            cross=True,
            biased=False,
            ragged=False,
            identity=basis is None,
            output=OUTPUTS["memory"],
        )
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
        _, dH, dbasis = memory_backward(
            launch, basis, ctx.needs_input_grad[2], None, H, grad, dq=dq, q_ptr=q, **nothing
        )
        return dq, dH, dbasis
