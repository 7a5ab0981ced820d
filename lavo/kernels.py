"""The Triton kernels of LAVO, for the forward pass and for decoding.  fused.py launches them in the right order.

A program works on a tile: BLOCK consecutive tokens of one window of one head, held in registers.  A window has TILES tiles,
of which the last may reach beyond the window.  The tiles of a head are numbered in order of time.  Programs pass the memory
on as running sums of the local summaries e, d numbers for each tile; B is applied to a sum when it is read, which gives the
same because B is linear.

Names are those of docs/notation.md, and these:
    tile, row       the index of a tile in its sequence; the index of a sequence, batch * num_heads + head
    first, part     the first token of the tile's window; the index of the tile in its window
    rows, keys      positions in the window of the tile's queries, and of keys
    tokens          positions in the sequence of the tile's queries
    n               the length of the sequence (of its real tokens, if RAGGED)
    x_…, y_…        strides of q, k, v; strides of the outputs and of the gradients.  The stride along head_dim is 1.
    entries         the number of entries of the bias, for one head
    scale           1 / √d
    CAPITALS        constants at compile time.  D and R are head_dim d and rank r, rounded up to a power of two.

Products are computed in the precision of the inputs and added up in float32.  Softmax, means and the memory are float32.
There are many arguments because Triton takes addresses and numbers but no structures.  launch.py passes them by name.
"""

from __future__ import annotations

import triton
import triton.language as tl

# fmt: off
# The formatter is off, because it would put each argument on a line of its own and so double the length of the kernels.

JOINT, SUM, MEMORY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# The score of a pair that must not be seen.  It is finite, so that a row that sees no key gives finite numbers, not nan, until
# it is masked.
HIDDEN = tl.constexpr(-1e30)


@triton.jit
def dot(a, b, DOT: tl.constexpr):
    """Returns a @ b, added up in float32.  DOT: how products of float32 numbers are computed (launch.precision)."""
    return tl.dot(a, b.to(a.dtype), input_precision=DOT)


@triton.jit
def load_rows(base, tokens, stride, valid, d, D: tl.constexpr):
    """Loads the rows of these tokens, (BLOCK, D), with zeros where ``valid`` is false and beyond d.

    base: the address of the sequence.  stride: from one token to the next.
    """
    columns = tl.arange(0, D)
    at = base + tokens.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(at, mask=valid[:, None] & (columns < d)[None, :], other=0.0)


@triton.jit
def store_rows(base, tokens, stride, valid, d, x, D: tl.constexpr):
    """Stores x, (BLOCK, D), to the rows of these tokens where ``valid`` is true.  Arguments as for ``load_rows``."""
    columns = tl.arange(0, D)
    at = base + tokens.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=valid[:, None] & (columns < d)[None, :])


@triton.jit
def load_basis(basis_ptr, head, r, d, R: tl.constexpr, D: tl.constexpr):
    """Loads the basis of one head, (R, D), with zeros beyond r and d."""
    units, columns = tl.arange(0, R), tl.arange(0, D)
    at = basis_ptr + head * r * d + units[:, None] * d + columns[None, :]
    return tl.load(at, mask=(units < r)[:, None] & (columns < d)[None, :], other=0.0)


@triton.jit
def window_scores(
    q, k, bias_ptr, rows, keys, first, n, window, scale, CAUSAL: tl.constexpr, BIASED: tl.constexpr, DOT: tl.constexpr
):
    """Returns the scores of queries (rows) against keys, HIDDEN for pairs that do not exist or lie in the future.

    rows and keys are positions in the window.  first: the window's first token.
    """
    scores = dot(q, tl.trans(k), DOT) * scale
    distance = rows[:, None] - keys[None, :]
    seen = ((keys < window) & (first + keys < n))[None, :] & (rows < window)[:, None]
    if CAUSAL:
        seen = seen & (distance >= 0)
    if BIASED:
        entry = distance if CAUSAL else distance + window - 1
        scores += tl.load(bias_ptr + entry, mask=seen, other=0.0)
    return tl.where(seen, scores, HIDDEN)


@triton.jit
def local_attention(
    q, k_base, v_base, x_token, bias_ptr, first, part, n, window, d, scale, BLOCK: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr, DOT: tl.constexpr,
):
    """Returns e (BLOCK, D) and the log-sum-exps (BLOCK,) of one tile: exact attention to its window.

    It goes through the tiles of keys with an online softmax: ``peak`` is the largest score so far, and what was added up
    before is rescaled whenever the peak grows.
    """
    rows = part * BLOCK + tl.arange(0, BLOCK)
    peak = tl.full((BLOCK,), HIDDEN, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    e = tl.zeros((BLOCK, D), tl.float32)
    for tile in range(part + 1 if CAUSAL else TILES):
        keys = tile * BLOCK + tl.arange(0, BLOCK)
        valid = (keys < window) & (first + keys < n)
        k = load_rows(k_base, first + keys, x_token, valid, d, D)
        v = load_rows(v_base, first + keys, x_token, valid, d, D)
        scores = window_scores(q, k, bias_ptr, rows, keys, first, n, window, scale, CAUSAL, BIASED, DOT)
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        e = e * shrink[:, None] + dot(weights.to(v.dtype), v, DOT)
        peak = higher
    return e / total[:, None], peak + tl.log(total)


@triton.jit
def summaries(
    q, k_base, v_base, x_token, bias_ptr, first, part, n, window, d, scale, BLOCK: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWS: tl.constexpr, BIASED: tl.constexpr, DOT: tl.constexpr,
):
    """Returns e (BLOCK, D), zeros where there is no token, and its log-sum-exps (BLOCK,).  Without windows e is v."""
    rows = part * BLOCK + tl.arange(0, BLOCK)
    valid = (rows < window) & (first + rows < n)
    if WINDOWS:
        e, lse = local_attention(
            q, k_base, v_base, x_token, bias_ptr, first, part, n, window, d, scale, BLOCK, TILES, D, CAUSAL, BIASED, DOT
        )
        e = tl.where(valid[:, None], e, 0.0)
    else:
        e = load_rows(v_base, first + rows, x_token, valid, d, D).to(tl.float32)
        lse = tl.full((BLOCK,), HIDDEN, tl.float32)
    return e, lse


@triton.jit
def running_mean(e, before, tokens):
    """Returns for each token the mean of e over all tokens so far, (BLOCK, D).  before: (D,), the sum before this tile."""
    return (before[None, :] + tl.cumsum(e, 0)) / (tokens + 1).to(tl.float32)[:, None]


@triton.jit
def memory_softmax(a, H, lse, r, scale, R: tl.constexpr, OUTPUT: tl.constexpr):
    """Returns the weights of the units (BLOCK, R) and the window's share (BLOCK,), which is zero unless OUTPUT is JOINT.

    a: (BLOCK, R), the queries times B.  H: (BLOCK, R) or (1, R).  lse: (BLOCK,), the score of the window.
    """
    scores = tl.where((tl.arange(0, R) < r)[None, :], a * H * scale, float("-inf"))
    peak = tl.max(scores, 1)
    if OUTPUT == JOINT:
        peak = tl.maximum(peak, lse)
    weights = tl.exp(scores - peak[:, None])
    total = tl.sum(weights, 1)
    share = tl.zeros_like(total)
    if OUTPUT == JOINT:
        share = tl.exp(lse - peak)
        total += share
    return weights / total[:, None], share / total


@triton.jit
def read_memory(
    q, e, lse, H, basis, r, scale, R: tl.constexpr, IDENTITY: tl.constexpr, OUTPUT: tl.constexpr, DOT: tl.constexpr,
):
    """Returns the output (BLOCK, D).  H: (BLOCK, R), or (1, R) if all tokens share one."""
    a = q.to(tl.float32) if IDENTITY else dot(q, tl.trans(basis), DOT)
    weights, share = memory_softmax(a, H, lse, r, scale, R, OUTPUT)
    x = weights * H
    out = x if IDENTITY else dot(x.to(q.dtype), basis, DOT)
    if OUTPUT == JOINT:
        out += share[:, None] * e
    if OUTPUT == SUM:
        out += e
    return out


# Forward, in this order: the sum of e over each tile, the sums over all tiles before each tile, the output.


@triton.jit
def sums_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr,
    sums_ptr,  # (b, h, tiles, d)
    x_batch, x_head, x_token, n, window, num_heads, d, entries, scale, BLOCK: tl.constexpr, TILES: tl.constexpr,
    D: tl.constexpr, CAUSAL: tl.constexpr, WINDOWS: tl.constexpr, BIASED: tl.constexpr, RAGGED: tl.constexpr,
    DOT: tl.constexpr,
):
    """Writes the sum of e over one tile."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    if RAGGED:
        n = tl.load(lengths_ptr + batch)
    offset = batch * x_batch + head * x_head
    part, first = tile % TILES, tile // TILES * window
    rows = part * BLOCK + tl.arange(0, BLOCK)
    q = load_rows(q_ptr + offset, first + rows, x_token, (rows < window) & (first + rows < n), d, D)
    e, _ = summaries(
        q, k_ptr + offset, v_ptr + offset, x_token, bias_ptr + head * entries, first, part, n, window, d, scale,
        BLOCK, TILES, D, CAUSAL, WINDOWS, BIASED, DOT,
    )
    columns = tl.arange(0, D)
    tl.store(sums_ptr + (row * tl.num_programs(0) + tile) * d + columns, tl.sum(e, 0), mask=columns < d)


@triton.jit
def scan_kernel(sums_ptr, out_ptr, num_tiles, d, REVERSE: tl.constexpr, SPAN: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes for each tile the sum over all tiles before it (with REVERSE, after it), (b, h, tiles, d), in float32.

    A program takes COLUMNS of the d columns of one sequence and goes through SPAN tiles at a time.  The sum over earlier
    spans is kept in float64.
    """
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    base = row * num_tiles * d
    carried = tl.zeros((COLUMNS,), tl.float64)
    for start in range(0, num_tiles, SPAN):
        steps = start + tl.arange(0, SPAN)
        tiles = num_tiles - 1 - steps if REVERSE else steps
        before = tiles + 1 if REVERSE else tiles - 1
        # Each tile loads the one before it, so that the sums leave its own tile out.  Subtracting the tile from a sum that
        # contains it would leave a rounding error that depends on the tile, and so on the future.
        there = (before >= 0) & (before < num_tiles) & (steps < num_tiles)
        x = tl.load(
            sums_ptr + base + before[:, None] * d + columns[None, :],
            mask=there[:, None] & (columns < d)[None, :],
            other=0.0,
        )
        so_far = carried[None, :] + tl.cumsum(x, 0).to(tl.float64)
        tl.store(
            out_ptr + base + tiles[:, None] * d + columns[None, :],
            so_far.to(tl.float32),
            mask=(steps < num_tiles)[:, None] & (columns < d)[None, :],
        )
        carried += tl.sum(x, 0).to(tl.float64)


@triton.jit
def output_kernel(
    q_ptr, k_ptr, v_ptr,
    basis_ptr,  # (h, r, d)
    bias_ptr, lengths_ptr,
    before_ptr,  # causal: (b, h, tiles, d), the sums before each tile
    H_ptr,  # else: (b, h, r)
    out_ptr, x_batch, x_head, x_token, y_batch, y_head, y_token, n, window, num_heads, d, r, entries, scale,
    BLOCK: tl.constexpr, TILES: tl.constexpr, D: tl.constexpr, R: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWS: tl.constexpr, BIASED: tl.constexpr, RAGGED: tl.constexpr, IDENTITY: tl.constexpr,
    OUTPUT: tl.constexpr, DOT: tl.constexpr,
):
    """Writes the output of one tile.

    e is computed again.  This reads as much data as loading a stored e would, and takes no memory.
    """
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = row // num_heads, row % num_heads
    if RAGGED:
        n = tl.load(lengths_ptr + batch)
    offset = batch * x_batch + head * x_head
    part, first = tile % TILES, tile // TILES * window
    rows = part * BLOCK + tl.arange(0, BLOCK)
    tokens, columns = first + rows, tl.arange(0, D)
    valid = (rows < window) & (tokens < n)
    q = load_rows(q_ptr + offset, tokens, x_token, valid, d, D)
    e = tl.zeros((BLOCK, D), tl.float32)
    lse = tl.full((BLOCK,), HIDDEN, tl.float32)
    if CAUSAL or (WINDOWS and OUTPUT != MEMORY):  # in all other cases e is not needed
        e, lse = summaries(
            q, k_ptr + offset, v_ptr + offset, x_token, bias_ptr + head * entries, first, part, n, window, d, scale,
            BLOCK, TILES, D, CAUSAL, WINDOWS, BIASED, DOT,
        )
    basis = 0.0 if IDENTITY else load_basis(basis_ptr, head, r, d, R, D).to(q.dtype)
    if CAUSAL:
        at = before_ptr + (row * tl.num_programs(0) + tile) * d + columns
        mean = running_mean(e, tl.load(at, mask=columns < d, other=0.0), tokens)
        H = mean if IDENTITY else dot(mean.to(q.dtype), tl.trans(basis), DOT)
    else:
        units = tl.arange(0, R)
        H = tl.load(H_ptr + row * r + units, mask=units < r, other=0.0)[None, :]
    out = read_memory(q, e, lse, H, basis, r, scale, R, IDENTITY, OUTPUT, DOT)
    store_rows(out_ptr + batch * y_batch + head * y_head, tokens, y_token, valid, d, out, D)


# One token at a time.


@triton.jit(do_not_specialize=["num_read"])
def decode_kernel(
    q_ptr, k_ptr, v_ptr,  # (b, h, d)
    basis_ptr, bias_ptr,
    keys_ptr, values_ptr,  # (b, h, window, d)
    mean_ptr,  # (b, h, r), float64
    new_keys_ptr, new_values_ptr, new_mean_ptr, out_ptr,
    num_read, window, num_heads, d, r, scale,
    BLOCK: tl.constexpr, D: tl.constexpr, R: tl.constexpr, BIASED: tl.constexpr, IDENTITY: tl.constexpr,
    OUTPUT: tl.constexpr,
):
    """Writes the output for one token, and the state after it to new tensors, because a state is never changed.

    A program computes one sequence.  Names as in ``_within_block`` of streaming.py.  The places of a window are filled from the
    last to the first, so the token at step s of the window is at the place window - 1 - s.
    """
    row = tl.program_id(0).to(tl.int64)
    head, filled = row % num_heads, num_read % window
    columns, units = tl.arange(0, D), tl.arange(0, R)
    inside, known = columns < d, units < r
    q = tl.load(q_ptr + row * d + columns, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * d + columns, mask=inside, other=0.0)
    v = tl.load(v_ptr + row * d + columns, mask=inside, other=0.0)
    peak, total = tl.full((), HIDDEN, tl.float32), tl.full((), 0.0, tl.float32)
    e = tl.zeros((D,), tl.float32)
    for start in range(0, window, BLOCK):
        steps = start + tl.arange(0, BLOCK)
        at = (row * window + window - 1 - steps)[:, None] * d + columns[None, :]
        stored = (steps < window)[:, None] & inside[None, :]
        newest = (steps == filled)[:, None]
        keys = tl.where(newest, k[None, :], tl.load(keys_ptr + at, mask=stored, other=0.0))
        values = tl.where(newest, v[None, :], tl.load(values_ptr + at, mask=stored, other=0.0))
        tl.store(new_keys_ptr + at, keys, mask=stored)
        tl.store(new_values_ptr + at, values, mask=stored)
        scores = tl.sum(keys.to(tl.float32) * q[None, :], 1) * scale
        seen = steps <= filled
        if BIASED:
            scores += tl.load(bias_ptr + head * window + filled - steps, mask=seen, other=0.0)
        scores = tl.where(seen, scores, HIDDEN)
        higher = tl.maximum(peak, tl.max(scores, 0))
        weights, shrink = tl.exp(scores - higher), tl.exp(peak - higher)
        # The buffer may hold nan beyond its filled part, and nan times a weight of 0 is nan.
        seen_values = tl.where(seen[:, None], values.to(tl.float32), 0.0)
        e = e * shrink + tl.sum(weights[:, None] * seen_values, 0)
        total = total * shrink + tl.sum(weights, 0)
        peak = higher
    e, lse = e / total, peak + tl.log(total)
    if IDENTITY:
        c, a = e, q
    else:
        basis = load_basis(basis_ptr, head, r, d, R, D).to(tl.float32)
        c, a = tl.sum(basis * e[None, :], 1), tl.sum(basis * q[None, :], 1)
    before = tl.load(mean_ptr + row * r + units, mask=known, other=0.0)
    mean = before + (c.to(tl.float64) - before) / (num_read + 1)
    tl.store(new_mean_ptr + row * r + units, mean, mask=known)
    H = mean.to(tl.float32)
    scores = tl.where(known, a * H * scale, float("-inf"))
    peak = tl.max(scores, 0)
    if OUTPUT == JOINT:
        peak = tl.maximum(peak, lse)
    weights = tl.exp(scores - peak)
    total = tl.sum(weights, 0)
    if OUTPUT == JOINT:
        total += tl.exp(lse - peak)
    x = weights / total * H
    if IDENTITY:
        out = x
    else:
        out = tl.sum(basis * x[:, None], 0)
    if OUTPUT == JOINT:
        out += tl.exp(lse - peak) / total * e
    if OUTPUT == SUM:
        out += e
    tl.store(out_ptr + row * d + columns, out.to(out_ptr.dtype.element_ty), mask=inside)
