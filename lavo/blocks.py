"""How the chunked form cuts its work: into blocks that stay in the cache, with memory that all of them share.

A block is some rows of the batch, a span of tokens and some heads.  Inside it everything is (g, R, d): for each of its g
heads a matrix of R = rows x tokens rows; as windows (x, w, d), x = g R / w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS_PER_THREAD = 4096  # of a block, over all its heads: less, and the calls cost more than the arithmetic in them
ROWS_ON_DEVICE = 262_144


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
    num_heads: int  # of a block

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.tokens.stop - self.tokens.start

    def blocks(self, num_heads: int) -> Iterator[Block]:
        for first in range(0, num_heads, self.num_heads):
            yield Block(self, slice(first, min(first + self.num_heads, num_heads)))


def chunks(q: Tensor, bias: Tensor | None) -> list[Chunk]:
    """Cuts (b, h, n) into blocks of about as many rows as the cache holds; those of a batch row are in order of time.

    What lies together in memory is taken together first, because then a block is a matrix as it stands; what must be
    copied into one is joined only where the block would be small.
    """
    batch_size, num_heads, n = q.shape[:3]
    window = min(64, n) if bias is None else bias.shape[1]
    most = ROWS_PER_THREAD * torch.get_num_threads() if q.device.type == "cpu" else ROWS_ON_DEVICE
    if q.stride(1) == n * q.stride(2):  # heads, each with its tokens, lie one after the other
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

    def windows(self, matrix: Tensor) -> Tensor:
        """(g, R, d) -> (x, w, d)"""
        return matrix.view(-1, self.chunk.window, matrix.shape[-1])

    def tokens(self, matrix: Tensor) -> Tensor:
        """(g, R, d) -> (g, rows, tokens, d)"""
        return matrix.view(*self.shape, matrix.shape[-1])

    def bias(self, bias: Tensor) -> Tensor:
        """(h, w, w) -> (g, w, w), cut to the windows of this chunk."""
        return bias[self.heads, : self.chunk.window, : self.chunk.window]


class Workspace:
    """Memory that all blocks share: fresh pages for each temporary would cost more than the arithmetic on it.

    A name is a place, not a content: what is no longer read lends its place to what comes next, "scratch" most often.
    """

    def __init__(self, q: Tensor, keeping: bool = False) -> None:
        self.keeping = keeping
        self.dtype, self.device = accumulation_dtype(q), q.device
        self.zero = torch.zeros((), dtype=self.dtype, device=self.device)
        self.flat: dict[str, Tensor] = {}
        self.views: dict[str, dict[tuple[int, ...], Tensor]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, until the name is taken again."""
        views = self.views.setdefault(name, {})
        if shape not in views:
            numel = math.prod(shape)
            if name not in self.flat or self.flat[name].numel() < numel:
                self.flat[name] = torch.empty(numel, dtype=self.dtype, device=self.device)
                views.clear()
            views[shape] = self.flat[name][:numel].view(shape)
        return views[shape]

    def own(self, name: str, *shape: int) -> Tensor:
        """The same, for what a block keeps where blocks keep anything."""
        return torch.empty(shape, dtype=self.dtype, device=self.device) if self.keeping else self.take(name, *shape)

    def read(self, name: str, block: Tensor) -> Tensor:
        """(g, rows, tokens, d) as matrices (g, R, d) of the workspace's dtype; a view where that can be."""
        matrix = self.target(name, block)
        if matrix.data_ptr() != block.data_ptr():
            matrix.view(block.shape).copy_(block)
        return matrix

    def target(self, name: str, block: Tensor) -> Tensor:
        """The matrices to write a block's result to: the block itself where it is them.  ``store`` ends the writing."""
        g, rows, tokens, d = block.shape
        step = block.stride(2)
        joined = (rows == 1 or block.stride(1) == tokens * step) and (g == 1 or block.stride(0) == rows * tokens * step)
        if joined and block.stride(3) == 1 and block.dtype == self.dtype:
            return block.view(g, rows * tokens, d)
        return self.take(name, g, rows * tokens, d)


def store(block: Tensor, matrix: Tensor) -> None:
    """Brings what was written to ``Workspace.target`` into the block."""
    if matrix.data_ptr() != block.data_ptr():
        block.copy_(matrix.view(block.shape))
