"""How the chunked form cuts a sequence into blocks that stay in the cache, and the buffers that all blocks share.

A block is some rows of the batch, a span of tokens and some heads.  Inside it everything is (g, R, d): for each of its g
heads a matrix of R = rows x tokens rows.  Seen as windows the same matrices are (x, w, d), with x = g R / w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS_PER_THREAD = (
    4096  # of a block, over all its heads; with fewer, calls of torch cost more than the arithmetic in them
)
ROWS_ON_DEVICE = 262_144

# Temporaries of one line are never needed at the same time, so they share a buffer: fewer buffers leave more of the cache.
# Every other temporary has a buffer of its own.
SHARED_BUFFERS = (
    ("scores", "c", "x", "dH"),
    ("dscores", "H"),
    ("dx", "de"),
    ("de_e", "grad_e", "x_dx", "dc"),
)
BUFFER_OF = {name: names[0] for names in SHARED_BUFFERS for name in names}


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The precision of all that is computed from x: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def carry_dtype(device: torch.device) -> torch.dtype:
    """The precision of sums that grow with the sequence: a float32 sum of a million equal terms is off by one per cent."""
    return torch.float32 if device.type == "mps" else torch.float64


# How a sequence is cut.


class Chunk(NamedTuple):
    """Some rows of the batch and a span of tokens: whole windows, or the last, partial window alone."""

    rows: slice
    tokens: slice
    window: int
    num_heads: int  # of a block

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, tokens)"""
        return self.rows.stop - self.rows.start, self.tokens.stop - self.tokens.start

    def blocks(self, num_heads: int) -> Iterator[Block]:
        """The blocks of this chunk, which together have all heads."""
        for first in range(0, num_heads, self.num_heads):
            yield Block(self, slice(first, min(first + self.num_heads, num_heads)))


class Block(NamedTuple):
    """Some heads of a chunk."""

    chunk: Chunk
    heads: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """(g, rows, tokens)"""
        return self.heads.stop - self.heads.start, *self.chunk.shape

    def of(self, x: Tensor) -> Tensor:
        """(b, h, n, ...) -> (g, rows, tokens, ...)"""
        for dim, span in enumerate((self.chunk.rows, self.heads, self.chunk.tokens)):
            if x.shape[dim] != span.stop - span.start:  # a call of torch costs as much as a small block's arithmetic
                x = x.narrow(dim, span.start, span.stop - span.start)
        return x.transpose(0, 1)

    def carried(self, x: Tensor) -> Tensor:
        """(b, h, r) -> (g, rows, r)"""
        return x[self.chunk.rows, self.heads].transpose(0, 1)

    def basis(self, basis: Tensor | None) -> Tensor | None:
        """(h, r, d) -> (g, r, d); for the basis and for its gradient."""
        return None if basis is None else basis[self.heads]

    def bias(self, bias: Tensor) -> Tensor:
        """(h, w, w) -> (g, w, w), cut to the windows of this chunk; for the bias and for its gradient."""
        return bias[self.heads, : self.chunk.window, : self.chunk.window]

    def windows(self, matrix: Tensor) -> Tensor:
        """(g, R, d) -> (x, w, d)"""
        return matrix.view(-1, self.chunk.window, matrix.shape[-1])

    def tokens(self, matrix: Tensor) -> Tensor:
        """(g, R, d) -> (g, rows, tokens, d)"""
        return matrix.view(*self.shape, matrix.shape[-1])


def chunks(q: Tensor, bias: Tensor | None) -> list[Chunk]:
    """Cuts (b, h, n) into chunks of about as many rows as the cache holds; those of a batch row are in order of time.

    Where heads, or else tokens, lie one after the other in memory, a block of them is a matrix as it stands.  What would
    have to be copied into one matrix is joined only where the block would otherwise be small.
    """
    batch_size, num_heads, n = q.shape[:3]
    window = min(64, n) if bias is None else bias.shape[1]
    most = ROWS_PER_THREAD * torch.get_num_threads() if q.device.type == "cpu" else ROWS_ON_DEVICE
    if q.stride(1) == n * q.stride(2):  # each head's tokens follow those of the head before
        heads = min(num_heads, max(1, most // n))
        together = max(1, most // 4 // (heads * n))
    else:
        together = min(batch_size, max(1, most // n))
        heads = max(1, most // 4 // (together * n))
    whole, step = n - n % window, max(window, most // window * window)
    cut = []
    for first in range(0, batch_size, together):
        rows = slice(first, min(first + together, batch_size))
        cut += [Chunk(rows, slice(t, min(t + step, whole)), window, heads) for t in range(0, whole, step)]
        if whole < n:
            cut.append(Chunk(rows, slice(whole, n), n - whole, heads))
    return cut


def blocks(q: Tensor, bias: Tensor | None) -> list[Block]:
    """All blocks of all chunks, for what needs no order of time."""
    return [block for chunk in chunks(q, bias) for block in chunk.blocks(q.shape[1])]


# What a block works on.


class Workspace:
    """Named buffers that one block after the other uses; fresh memory would cost more than the arithmetic on it.

    A later ``take`` of the same name overwrites the buffer, and so does one of a name that shares it (SHARED_BUFFERS).
    keeping: what a block computes is kept for the backward pass, so that ``own`` gives new memory each time.
    """

    def __init__(self, q: Tensor, keeping: bool = False) -> None:
        self.keeping = keeping
        self.dtype, self.device = accumulation_dtype(q), q.device
        self.zero = torch.zeros((), dtype=self.dtype, device=self.device)
        self.flat: dict[str, Tensor] = {}
        self.views: dict[str, dict[tuple[int, ...], Tensor]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape in the buffer of this name."""
        name = BUFFER_OF.get(name, name)
        views = self.views.setdefault(name, {})
        if shape not in views:
            numel = math.prod(shape)
            if name not in self.flat or self.flat[name].numel() < numel:
                self.flat[name] = torch.empty(numel, dtype=self.dtype, device=self.device)
                views.clear()
            views[shape] = self.flat[name][:numel].view(shape)
        return views[shape]

    def own(self, name: str, *shape: int) -> Tensor:
        """The same, but new memory where blocks keep what they compute."""
        return torch.empty(shape, dtype=self.dtype, device=self.device) if self.keeping else self.take(name, *shape)

    def read(self, name: str, block: Tensor) -> Tensor:
        """(g, rows, tokens, d) as matrices (g, R, d) of the workspace's dtype: a view if possible, else a copy."""
        matrix = self.target(name, block)
        if matrix.data_ptr() != block.data_ptr():
            matrix.view(block.shape).copy_(block)
        return matrix

    def target(self, name: str, block: Tensor) -> Tensor:
        """The matrices (g, R, d) to write a block's result to: a view of it if possible, else a buffer.

        ``store`` must follow when they are written.
        """
        g, rows, tokens, d = block.shape
        step = block.stride(2)
        joined = (rows == 1 or block.stride(1) == tokens * step) and (g == 1 or block.stride(0) == rows * tokens * step)
        if joined and block.stride(3) == 1 and block.dtype == self.dtype:
            return block.view(g, rows * tokens, d)
        return self.take(name, g, rows * tokens, d)


def store(block: Tensor, matrix: Tensor) -> None:
    """Brings what was written to ``Workspace.target`` into the block (g, rows, tokens, d)."""
    if matrix.data_ptr() != block.data_ptr():
        block.copy_(matrix.view(block.shape))


class Tokens(NamedTuple):
    """Queries, keys and values, or their gradients: of a sequence (b, h, n, d), a block (g, R, d) or its windows (x, w, d)."""

    q: Tensor
    k: Tensor
    v: Tensor

    def read(self, block: Block, work: Workspace) -> Tokens:
        """Those of a block, from those of a sequence."""
        return Tokens(*(work.read(name, block.of(x)) for name, x in zip("qkv", self, strict=True)))

    def targets(self, block: Block, work: Workspace) -> Tokens:
        """The matrices to write a block's gradients to, for gradients of a sequence."""
        return Tokens(*(work.target(name, block.of(x)) for name, x in zip(("dq", "dk", "dv"), self, strict=True)))

    def store(self, block: Block, matrices: Tokens) -> None:
        """Brings what was written to ``targets`` into the gradients of the sequence."""
        for x, matrix in zip(self, matrices, strict=True):
            store(block.of(x), matrix)

    def windows(self, block: Block) -> Tokens:
        """Those of a block's windows, from those of the block."""
        return Tokens(*map(block.windows, self))
