"""The causal form in one pass over q, k and v, by decoupled look-back (Merrill and Garland, 2016).

It has not yet been measured on a GPU (docs/decisions/0005).  Its programs wait for each other, and Triton's interpreter,
which runs them one after the other, can show neither a deadlock nor a missing memory fence.  So it runs only if
``one_pass=True`` is given to ``fused.self_attention``.

Tiles are in groups of GROUP.  The last tile of a group publishes the sum over all tiles up to it.  A tile takes this sum from
the group before its own and adds the sums of the earlier tiles of its own group.  The order of summation is therefore always
the same, whichever program is faster, and so is the result.  Names are explained in kernels.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lavo.kernels import dot, load_basis, load_rows, read_memory, running_mean, store_rows, summaries
from lavo.launch import Launch, autotuned

GROUP = 32  # tiles of a group


def attend_in_one_pass(
    launch: Launch, tensors: dict[str, Tensor | None], basis: Tensor | None, sums: Tensor, out: Tensor
) -> Tensor:
    """Writes the output to ``out`` and the sum of e over each tile to ``sums``, (b, h, tiles, d).

    tensors: q, k, v and bias, by the names of the kernels' arguments.
    Returns the sums of e over all tiles before each tile, of the same shape as ``sums``.
    """
    num_groups = triton.cdiv(launch.num_tiles, GROUP)
    groups = torch.empty(*sums.shape[:2], num_groups, sums.shape[3], dtype=torch.float32, device=sums.device)
    flags = torch.zeros(1 + launch.rows * (launch.num_tiles + num_groups), dtype=torch.int32, device=sums.device)
    before = torch.empty_like(sums)
    launch.run(
        _one_pass,
        (launch.num_tiles * launch.rows,),
        **tensors,
        basis_ptr=basis,
        before_ptr=before,
        sums_ptr=sums,
        groups_ptr=groups,
        flags_ptr=flags,
        out_ptr=out,
        GROUP=GROUP,
    )
    return before


# fmt: off

@triton.jit
def look_back(
    own, sums_ptr, groups_ptr, flags_ptr, row, tile, num_rows, num_tiles, d, D: tl.constexpr, GROUP: tl.constexpr,
):
    """Returns the sum over all tiles before this one, (D,), from the sums that other programs publish while they run.

    own: (D,), the sum of this tile, which is published first.
    The program waits only for programs with lower tickets.  These have started already, so they will finish.
    """
    columns = tl.arange(0, D)
    num_groups = tl.cdiv(num_tiles, GROUP)
    tile_flags = flags_ptr + 1 + row * num_tiles
    group_flags = flags_ptr + 1 + num_rows * num_tiles + row * num_groups
    tl.store(sums_ptr + (row * num_tiles + tile) * d + columns, own, mask=columns < d)
    tl.debug_barrier()  # all threads must have written the sum before the flag says that it is there
    tl.atomic_xchg(tile_flags + tile, 1, sem="release")
    group = tile // GROUP
    earlier = group * GROUP + tl.arange(0, GROUP)
    wanted = earlier < tile
    there = tl.sum(tl.where(wanted, 0, 1), 0)
    while there < GROUP:
        there = tl.sum(tl.where(wanted, tl.atomic_add(tile_flags + earlier, 0, mask=wanted, sem="acquire"), 1), 0)
    if group > 0:
        ready = tl.atomic_add(group_flags + group, 0, sem="acquire")
        while ready == 0:
            ready = tl.atomic_add(group_flags + group, 0, sem="acquire")
    tl.debug_barrier()
    in_group = tl.load(
        sums_ptr + (row * num_tiles + earlier)[:, None] * d + columns[None, :],
        mask=wanted[:, None] & (columns < d)[None, :], other=0.0, cache_modifier=".cg",
    )
    at = groups_ptr + (row * num_groups + group) * d + columns
    before = tl.load(at, mask=(columns < d) & (group > 0), other=0.0, cache_modifier=".cg") + tl.sum(in_group, 0)
    if (tile % GROUP == GROUP - 1) & (group + 1 < num_groups):
        tl.store(at + d, before + own, mask=columns < d)
        tl.debug_barrier()
        tl.atomic_xchg(group_flags + group + 1, 1, sem="release")
    return before


@triton.jit
def one_pass_kernel(
    q_ptr, k_ptr, v_ptr, basis_ptr, bias_ptr,
    before_ptr,  # (b, h, tiles, d), written for the backward pass
    sums_ptr,  # (b, h, tiles, d)
    groups_ptr,  # (b, h, groups, d), the sums before each group
    flags_ptr,  # zeros at the start: the counter of tickets, then a flag for each tile, then a flag for each group
    out_ptr,
    x_batch, x_head, x_token, y_batch, y_head, y_token, n, window, num_heads, num_rows, num_tiles, d, r, entries, scale,
    BLOCK: tl.constexpr, TILES: tl.constexpr, D: tl.constexpr, R: tl.constexpr, WINDOWS: tl.constexpr,
    BIASED: tl.constexpr, IDENTITY: tl.constexpr, OUTPUT: tl.constexpr, GROUP: tl.constexpr, DOT: tl.constexpr,
):
    """Writes the output of one tile of the causal form.  q, k and v are read once, and the output is written once."""
    # Programs may start in any order.  Each takes the tile of its ticket, so that earlier tiles have started already.
    ticket = tl.atomic_add(flags_ptr, 1)
    tile, row = ticket // num_rows, (ticket % num_rows).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    offset = batch * x_batch + head * x_head
    part, first = tile % TILES, tile // TILES * window
    rows = part * BLOCK + tl.arange(0, BLOCK)
    tokens, columns = first + rows, tl.arange(0, D)
    valid = (rows < window) & (tokens < n)
    q = load_rows(q_ptr + offset, tokens, x_token, valid, d, D)
    e, lse = summaries(
        q, k_ptr + offset, v_ptr + offset, x_token, bias_ptr + head * entries, first, part, n, window, d, scale,
        BLOCK, TILES, D, True, WINDOWS, BIASED, DOT,
    )
    before = look_back(tl.sum(e, 0), sums_ptr, groups_ptr, flags_ptr, row, tile, num_rows, num_tiles, d, D, GROUP)
    tl.store(before_ptr + (row * num_tiles + tile) * d + columns, before, mask=columns < d)
    basis = 0.0 if IDENTITY else load_basis(basis_ptr, head, r, d, R, D).to(q.dtype)
    mean = running_mean(e, before, tokens)
    H = mean if IDENTITY else dot(mean.to(q.dtype), tl.trans(basis), DOT)
    out = read_memory(q, e, lse, H, basis, r, scale, R, IDENTITY, OUTPUT, DOT)
    store_rows(out_ptr + batch * y_batch + head * y_head, tokens, y_token, valid, d, out, D)


# fmt: on

_one_pass = autotuned(one_pass_kernel, ["BLOCK", "TILES", "D", "R", "IDENTITY"], reset_to_zero=["flags_ptr"])
