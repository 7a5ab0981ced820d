"""The Triton kernels of LAVO's backward pass.  Names are explained in kernels.py.

They run in this order: the memory, tile by tile (the formulas of memory.py); the sums of its gradients over all later tiles
(``scan_kernel``); the windows (the formulas of windows.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from lavo.kernels import (
    HIDDEN,
    JOINT,
    SUM,
    dot,
    load_basis,
    load_rows,
    memory_softmax,
    running_mean,
    store_rows,
    summaries,
    window_scores,
)

# fmt: off

@triton.jit
def memory_backward_kernel(
    q_ptr, k_ptr, v_ptr, basis_ptr, bias_ptr, lengths_ptr, before_ptr, H_ptr, grad_ptr,
    dq_ptr,  # written: the memory's part of dq
    de_ptr,  # written: de without the part that comes from later tiles
    lse_ptr,  # (b, h, n), written for the kernels of the windows
    dlse_ptr,  # (b, h, n), written only for JOINT
    given_ptr,  # causal: (b, h, tiles, d), written: the gradient that a tile gives to each e of the tiles before it
    dH_ptr,  # noncausal: (b, h, programs, r), written
    dbasis_ptr,  # (b, h, programs, r, d)
    x_batch, x_head, x_token, y_batch, y_head, y_token, n, window, num_heads, d, r, entries, scale, num_tiles,
    span,  # tiles of each program
    BLOCK: tl.constexpr, TILES: tl.constexpr, D: tl.constexpr, R: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWS: tl.constexpr, CROSS: tl.constexpr, BIASED: tl.constexpr, RAGGED: tl.constexpr, IDENTITY: tl.constexpr,
    OUTPUT: tl.constexpr, BASIS_GRADIENT: tl.constexpr, DOT: tl.constexpr,
):
    """Writes the gradients of the steps "read" and "output" for ``span`` tiles of a sequence.

    The gradient of the basis is added up over these tiles, and so is dH in the noncausal form.
    """
    program, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    length = n  # of the tensors; n may become the number of real tokens
    if RAGGED:
        n = tl.load(lengths_ptr + batch)
    x_offset, y_offset = batch * x_batch + head * x_head, batch * y_batch + head * y_head
    columns, units = tl.arange(0, D), tl.arange(0, R)
    basis = 0.0 if IDENTITY else load_basis(basis_ptr, head, r, d, R, D).to(q_ptr.dtype.element_ty)
    dbasis = tl.zeros((R, D), tl.float32)
    dH_total = tl.zeros((R,), tl.float32)
    for tile in range(program * span, tl.minimum(program * span + span, num_tiles)):
        part, first = tile % TILES, tile // TILES * window
        rows = part * BLOCK + tl.arange(0, BLOCK)
        tokens = first + rows
        valid = (rows < window) & (tokens < n)
        q = load_rows(q_ptr + x_offset, tokens, x_token, valid, d, D)
        grad = load_rows(grad_ptr + y_offset, tokens, y_token, valid, d, D)
        e = tl.zeros((BLOCK, D), tl.float32)
        lse = tl.full((BLOCK,), HIDDEN, tl.float32)
        if not CROSS:
            e, lse = summaries(
                q, k_ptr + x_offset, v_ptr + x_offset, x_token, bias_ptr + head * entries, first, part, n, window, d,
                scale, BLOCK, TILES, D, CAUSAL, WINDOWS, BIASED, DOT,
            )
        mean = e
        if CAUSAL:
            at = before_ptr + (row * num_tiles + tile) * d + columns
            mean = running_mean(e, tl.load(at, mask=columns < d, other=0.0), tokens)
            H = mean if IDENTITY else dot(mean.to(q.dtype), tl.trans(basis), DOT)
        else:
            H = tl.load(H_ptr + row * r + units, mask=units < r, other=0.0)[None, :]
        a = q.to(tl.float32) if IDENTITY else dot(q, tl.trans(basis), DOT)
        dx = grad.to(tl.float32) if IDENTITY else dot(grad, tl.trans(basis), DOT)
        weights, share = memory_softmax(a, H, lse, r, scale, R, OUTPUT)
        x = weights * H
        product = x * dx
        inner = tl.sum(product, 1)
        if OUTPUT == JOINT:
            dshare = tl.sum(grad.to(tl.float32) * e, 1)
            inner += share * dshare
            dlse = (dshare - inner) * share
            tl.store(dlse_ptr + row * length + tokens, dlse, mask=valid)
        dscores = product - weights * inner[:, None]
        dH = dx * weights + dscores * a * scale
        da = dscores * H * scale
        dq = da if IDENTITY else dot(da.to(q.dtype), basis, DOT)
        store_rows(dq_ptr + y_offset, tokens, y_token, valid, d, dq, D)
        if BASIS_GRADIENT:
            dbasis += dot(tl.trans(x.to(q.dtype)), grad, DOT) + dot(tl.trans(da.to(q.dtype)), q, DOT)
        de = tl.zeros((BLOCK, D), tl.float32)
        if CAUSAL:
            if BASIS_GRADIENT:
                dbasis += dot(tl.trans(dH.to(q.dtype)), mean.to(q.dtype), DOT)
            dmean = dH if IDENTITY else dot(dH.to(q.dtype), basis, DOT)
            dmean = tl.where(valid[:, None], dmean / (tokens + 1).to(tl.float32)[:, None], 0.0)
            at = given_ptr + (row * num_tiles + tile) * d + columns
            tl.store(at, tl.sum(dmean, 0), mask=columns < d)
            de = tl.cumsum(dmean, 0, reverse=True)
        else:
            dH_total += tl.sum(tl.where(valid[:, None], dH, 0.0), 0)
        if OUTPUT == JOINT:
            de += share[:, None] * grad.to(tl.float32)
        if OUTPUT == SUM:
            de += grad.to(tl.float32)
        if not CROSS:
            store_rows(de_ptr + y_offset, tokens, y_token, valid, d, de, D)
        if WINDOWS:
            tl.store(lse_ptr + row * length + tokens, lse, mask=valid)
    place = row * tl.num_programs(0) + program
    if BASIS_GRADIENT:
        at = dbasis_ptr + place * r * d + units[:, None] * d + columns[None, :]
        tl.store(at, dbasis, mask=(units < r)[:, None] & (columns < d)[None, :])
    if not CAUSAL:
        tl.store(dH_ptr + place * r + units, dH_total, mask=units < r)


@triton.jit
def load_de(de_base, later_ptr, tokens, y_token, valid, d, D: tl.constexpr):
    """Loads the gradient of e, (BLOCK, D), and adds the part from later tiles (noncausal: from all tokens).

    de_base: the address of the sequence.  later_ptr: the address of that part, (d,).
    """
    columns = tl.arange(0, D)
    later = tl.load(later_ptr + columns, mask=columns < d, other=0.0)
    de = load_rows(de_base, tokens, y_token, valid, d, D).to(tl.float32) + later[None, :]
    return tl.where(valid[:, None], de, 0.0)


@triton.jit
def queries_backward_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr,
    later_ptr,  # causal: (b, h, tiles, d), gradients from later tiles; noncausal: (b, h, d), from all tokens
    de_ptr, lse_ptr, dlse_ptr, memory_dq_ptr, dq_ptr,
    delta_ptr,  # (b, h, n)
    x_batch, x_head, x_token, y_batch, y_head, y_token, n, window, num_heads, d, entries, scale, BLOCK: tl.constexpr,
    TILES: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr, RAGGED: tl.constexpr,
    OUTPUT: tl.constexpr, DOT: tl.constexpr,
):
    """Writes dq of one tile, and delta = de . e - dlse, which ``keys_backward_kernel`` needs.

    It runs only if a window has several tiles; otherwise ``keys_backward_kernel`` computes both.
    """
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    length = n
    if RAGGED:
        n = tl.load(lengths_ptr + batch)
    x_offset, y_offset = batch * x_batch + head * x_head, batch * y_batch + head * y_head
    part, first = tile % TILES, tile // TILES * window
    rows = part * BLOCK + tl.arange(0, BLOCK)
    tokens = first + rows
    valid = (rows < window) & (tokens < n)
    q = load_rows(q_ptr + x_offset, tokens, x_token, valid, d, D)
    lse = tl.load(lse_ptr + row * length + tokens, mask=valid, other=0.0)
    later = (row * tl.num_programs(0) + tile) * d if CAUSAL else row * d
    de = load_de(de_ptr + y_offset, later_ptr + later, tokens, y_token, valid, d, D).to(q.dtype)
    delta = tl.zeros((BLOCK,), tl.float32)
    last = part + 1 if CAUSAL else TILES
    for key_tile in range(last):
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        there = (keys < window) & (first + keys < n)
        k = load_rows(k_ptr + x_offset, first + keys, x_token, there, d, D)
        v = load_rows(v_ptr + x_offset, first + keys, x_token, there, d, D)
        scores = window_scores(
            q, k, bias_ptr + head * entries, rows, keys, first, n, window, scale, CAUSAL, BIASED, DOT
        )
        weights = tl.where(valid[:, None], tl.exp(scores - lse[:, None]), 0.0)
        delta += tl.sum(weights * dot(de, tl.trans(v), DOT), 1)
    if OUTPUT == JOINT:
        delta -= tl.load(dlse_ptr + row * length + tokens, mask=valid, other=0.0)
    tl.store(delta_ptr + row * length + tokens, delta, mask=valid)
    dq = load_rows(memory_dq_ptr + y_offset, tokens, y_token, valid, d, D).to(tl.float32)
    for key_tile in range(last):
        keys = key_tile * BLOCK + tl.arange(0, BLOCK)
        there = (keys < window) & (first + keys < n)
        k = load_rows(k_ptr + x_offset, first + keys, x_token, there, d, D)
        v = load_rows(v_ptr + x_offset, first + keys, x_token, there, d, D)
        scores = window_scores(
            q, k, bias_ptr + head * entries, rows, keys, first, n, window, scale, CAUSAL, BIASED, DOT
        )
        weights = tl.where(valid[:, None], tl.exp(scores - lse[:, None]), 0.0)
        dscores = weights * (dot(de, tl.trans(v), DOT) - delta[:, None])
        dq += dot(dscores.to(q.dtype), k, DOT) * scale
    store_rows(dq_ptr + y_offset, tokens, y_token, valid, d, dq, D)


@triton.jit
def keys_backward_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr, later_ptr, de_ptr, lse_ptr, dlse_ptr, memory_dq_ptr, delta_ptr,
    dq_ptr, dk_ptr, dv_ptr,
    dpairs_ptr,  # (b, h, programs, TILES * BLOCK, TILES * BLOCK): gradients of the scores, summed over windows
    x_batch, x_head, x_token, y_batch, y_head, y_token, n, window, num_heads, d, entries, scale, num_windows,
    span,  # windows of each program
    BLOCK: tl.constexpr, TILES: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    RAGGED: tl.constexpr, OUTPUT: tl.constexpr, BIAS_GRADIENT: tl.constexpr, DOT: tl.constexpr,
):
    """Writes dk and dv of one tile of keys in ``span`` windows; if a window has only one tile, also dq.

    With BIAS_GRADIENT it also adds up the gradients of the scores over these windows.
    """
    program, key_tile, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    length = n
    if RAGGED:
        n = tl.load(lengths_ptr + batch)
    x_offset, y_offset = batch * x_batch + head * x_head, batch * y_batch + head * y_head
    steps = tl.arange(0, BLOCK)
    keys = key_tile * BLOCK + steps
    side = TILES * BLOCK
    pairs = dpairs_ptr + (row * tl.num_programs(0) + program) * side * side
    dpairs = tl.zeros((BLOCK, BLOCK), tl.float32)
    for index in range(program * span, tl.minimum(program * span + span, num_windows)):
        first = index * window
        there = (keys < window) & (first + keys < n)
        k = load_rows(k_ptr + x_offset, first + keys, x_token, there, d, D)
        v = load_rows(v_ptr + x_offset, first + keys, x_token, there, d, D)
        dk, dv = tl.zeros((BLOCK, D), tl.float32), tl.zeros((BLOCK, D), tl.float32)
        for part in range(key_tile if CAUSAL else 0, TILES):
            rows = part * BLOCK + steps
            tokens = first + rows
            valid = (rows < window) & (tokens < n)
            q = load_rows(q_ptr + x_offset, tokens, x_token, valid, d, D)
            lse = tl.load(lse_ptr + row * length + tokens, mask=valid, other=0.0)
            later = (row * num_windows * TILES + index * TILES + part) * d if CAUSAL else row * d
            de = load_de(de_ptr + y_offset, later_ptr + later, tokens, y_token, valid, d, D).to(q.dtype)
            scores = window_scores(
                q, k, bias_ptr + head * entries, rows, keys, first, n, window, scale, CAUSAL, BIASED, DOT
            )
            weights = tl.where(valid[:, None], tl.exp(scores - lse[:, None]), 0.0)
            dweights = dot(de, tl.trans(v), DOT)
            if TILES == 1:
                delta = tl.sum(weights * dweights, 1)
                if OUTPUT == JOINT:
                    delta -= tl.load(dlse_ptr + row * length + tokens, mask=valid, other=0.0)
            else:
                delta = tl.load(delta_ptr + row * length + tokens, mask=valid, other=0.0)
            dscores = weights * (dweights - delta[:, None])
            dv += dot(tl.trans(weights.to(q.dtype)), de, DOT)
            dk += dot(tl.trans(dscores.to(q.dtype)), q, DOT) * scale
            if TILES == 1:
                dq = load_rows(memory_dq_ptr + y_offset, tokens, y_token, valid, d, D).to(tl.float32)
                dq += dot(dscores.to(q.dtype), k, DOT) * scale
                store_rows(dq_ptr + y_offset, tokens, y_token, valid, d, dq, D)
            if BIAS_GRADIENT:
                if TILES == 1:
                    dpairs += dscores
                else:  # the registers cannot hold that many pairs, so the program adds them up in its own part of memory
                    at = pairs + rows[:, None] * side + keys[None, :]
                    tl.debug_barrier()
                    tl.store(at, tl.load(at) + dscores)
                    tl.debug_barrier()
        store_rows(dk_ptr + y_offset, first + keys, y_token, there, d, dk, D)
        store_rows(dv_ptr + y_offset, first + keys, y_token, there, d, dv, D)
    if BIAS_GRADIENT and TILES == 1:
        tl.store(pairs + steps[:, None] * side + keys[None, :], dpairs)
