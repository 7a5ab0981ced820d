"""How the chunked form cuts a sequence into blocks that stay in the cache, and the buffers that all blocks share.

A block is some rows of the batch, a span of tokens and some heads.  Its tensors are (g, R, d): for each of its g heads one
matrix with R = rows x tokens rows, where ``rows`` counts rows of the batch.  The same tensor viewed as windows is (x, w, d),
with x = g R / w windows of w tokens.  The other letters are those of docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Rows of the matrices of one block, all heads together.  In a smaller block, calling torch would cost more than the arithmetic.
ROWS_PER_THREAD = 4096  # on a CPU, times the number of threads
ROWS_ON_DEVICE = 262_144  # on any other device

# Temporaries in the same line are never needed at the same time, so they share one buffer.  Fewer buffers take less of the
# cache.  Every temporary that is not listed has a buffer of its own.
SHARED_BUFFERS = (
    ("scores", "softmax"),
    ("c", "x", "dH"),
    ("dscores", "H"),
    ("dx", "da", "de"),
    ("grad_e", "dsoftmax", "dc"),
)
BUFFER_OF = {name: names[0] for names in SHARED_BUFFERS for name in names}


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which everything is computed from x: that of x, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def carry_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype of sums over all tokens of a sequence: float64, or float32 on MPS, which has no float64.

    In float32 a sum of a million equal terms is off by one per cent.
    """
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
        """The numbers of rows and of tokens: (rows, tokens)."""
        return self.rows.stop - self.rows.start, self.tokens.stop - self.tokens.start

    def blocks(self, num_heads: int) -> Iterator[Block]:
        """Yields the blocks of this chunk, one group of heads after the other.  num_heads: the heads of the sequence."""
        for first in range(0, num_heads, self.num_heads):
            yield Block(self, slice(first, min(first + self.num_heads, num_heads)))


class Block(NamedTuple):
    """Some heads of a chunk.  The methods below view tensors of a sequence, or of this block, in the shapes needed here."""

    chunk: Chunk
    heads: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of heads, rows and tokens: (g, rows, tokens)."""
        return self.heads.stop - self.heads.start, *self.chunk.shape

    def of(self, x: Tensor) -> Tensor:
        """Returns a view of this block's part of a sequence: (b, h, n, ...) -> (g, rows, tokens, ...)."""
        for dim, span in enumerate((self.chunk.rows, self.heads, self.chunk.tokens)):
            # A call of torch costs as much as the arithmetic of a small block, so ``narrow`` is called only if it is needed.
            if x.shape[dim] != span.stop - span.start:
                x = x.narrow(dim, span.start, span.stop - span.start)
        return x.transpose(0, 1)

    def carried(self, x: Tensor) -> Tensor:
        """Returns a view of this block's part of a carried sum: (b, h, r) -> (g, rows, r)."""
        return x[self.chunk.rows, self.heads].transpose(0, 1)

    def basis(self, basis: Tensor | None) -> Tensor | None:
        """Returns a view of this block's heads, (h, r, d) -> (g, r, d), for the basis or for its gradient."""
        return None if basis is None else basis[self.heads]

    def bias(self, bias: Tensor) -> Tensor:
        """Returns a view of this block's heads, (h, w, w) -> (g, w, w), for the bias matrix or for its gradient.

        The matrix is cut to the window of this chunk, because the last window of a sequence may be shorter.
        """
        return bias[self.heads, : self.chunk.window, : self.chunk.window]

    def windows(self, matrix: Tensor) -> Tensor:
        """Views matrices of this block as windows: (g, R, d) -> (x, w, d)."""
        return matrix.view(-1, self.chunk.window, matrix.shape[-1])

    def tokens(self, matrix: Tensor) -> Tensor:
        """Views matrices of this block by row and token: (g, R, d) -> (g, rows, tokens, d)."""
        return matrix.view(*self.shape, matrix.shape[-1])


def chunks(q: Tensor, window: int | None) -> list[Chunk]:
    """Cuts the sequences of q (b, h, n, d) into chunks whose blocks fit into the cache.

    For each row of the batch the chunks are in order of time.  window: chunks are cut at multiples of this number of tokens;
    None means that there are no windows, and it is 64.

    If the matrices of several heads (or of several rows of the batch) follow each other in memory, a block of them is used
    without a copy.  Otherwise a block has to be copied into one matrix, and heads or rows are joined only if the block would
    be small without it.
    """
    batch_size, num_heads, n = q.shape[:3]
    window = min(64 if window is None else window, n)
    most = ROWS_PER_THREAD * torch.get_num_threads() if q.device.type == "cpu" else ROWS_ON_DEVICE
    if q.stride(1) == n * q.stride(2):  # in memory, the tokens of each head follow those of the head before
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


def blocks(q: Tensor, window: int | None) -> list[Block]:
    """Returns the blocks of all chunks, for computations that need no order of time.  Arguments as for ``chunks``."""
    return [block for chunk in chunks(q, window) for block in chunk.blocks(q.shape[1])]


# What a block works on.


class Workspace:
    """Named buffers that all blocks use, one after the other, because fresh memory would cost more than the arithmetic on it.

    ``take`` returns the buffer of a name.  The next ``take`` of this name, or of a name that shares its buffer
    (SHARED_BUFFERS), overwrites it.  ``own`` is for results that the backward pass may need: with ``keeping`` it allocates
    a new tensor, which nothing overwrites; without ``keeping`` it is the same as ``take``.
    """

    def __init__(self, q: Tensor, keeping: bool = False) -> None:
        self.keeping = keeping
        self.dtype, self.device = accumulation_dtype(q), q.device
        self.zero = torch.zeros((), dtype=self.dtype, device=self.device)
        self.flat: dict[str, Tensor] = {}
        self.views: dict[str, dict[tuple[int, ...], Tensor]] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns an uninitialised tensor of this shape in the buffer of this name."""
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
        """Returns an uninitialised tensor of this shape: a new one with ``keeping``, else the buffer of this name."""
        return torch.empty(shape, dtype=self.dtype, device=self.device) if self.keeping else self.take(name, *shape)

    def read(self, name: str, block: Tensor) -> Tensor:
        """Returns ``block``, (g, rows, tokens, d), as matrices (g, R, d) in the workspace's dtype: a view if possible, else
        a copy in the buffer of this name.
        """
        matrix = self.target(name, block)
        if matrix.data_ptr() != block.data_ptr():
            matrix.view(block.shape).copy_(block)
        return matrix

    def target(self, name: str, block: Tensor) -> Tensor:
        """Returns matrices (g, R, d) to which a block's result is written: a view of ``block`` if possible, else a buffer.

        When they are written, ``store(block, matrices)`` must be called.
        """
        g, rows, tokens, d = block.shape
        step = block.stride(2)
        # Whether the rows of all matrices follow each other at one distance in memory.
        joined = (rows == 1 or block.stride(1) == tokens * step) and (g == 1 or block.stride(0) == rows * tokens * step)
        if joined and block.stride(3) == 1 and block.dtype == self.dtype:
            return block.view(g, rows * tokens, d)
        return self.take(name, g, rows * tokens, d)


def softmax_backward_(grad: Tensor, softmax: Tensor) -> Tensor:
    """Turns the gradient of a softmax over the last dimension into that of its scores, in place: p (dp − Σ p dp)."""
    return torch._softmax_backward_data(grad, softmax, -1, grad.dtype, grad_input=grad)


def store(block: Tensor, matrix: Tensor) -> None:
    """Copies ``matrix`` to ``block``, (g, rows, tokens, d), unless it is a view of it (see ``Workspace.target``)."""
    if matrix.data_ptr() != block.data_ptr():
        block.copy_(matrix.view(block.shape))


class Tokens(NamedTuple):
    """Queries, keys and values, or their gradients.

    Each tensor is (b, h, n, d) for a sequence, (g, R, d) for a block, or (x, w, d) for the windows of a block.
    """

    q: Tensor
    k: Tensor
    v: Tensor

    def read(self, block: Block, work: Workspace) -> Tokens:
        """Returns the tokens of a block; these are the tokens of a sequence."""
        return Tokens(*(work.read(name, block.of(x)) for name, x in zip("qkv", self, strict=True)))

    def targets(self, block: Block, work: Workspace) -> Tokens:
        """Returns the matrices to which a block's gradients are written; these are the gradients of a sequence."""
        return Tokens(*(work.target(name, block.of(x)) for name, x in zip(("dq", "dk", "dv"), self, strict=True)))

    def store(self, block: Block, matrices: Tokens) -> None:
        """Copies the gradients of a block from the matrices that ``targets`` gave, where they are not views, to these."""
        for x, matrix in zip(self, matrices, strict=True):
            store(block.of(x), matrix)

    def windows(self, block: Block) -> Tokens:
        """Views the tokens of a block as those of its windows."""
        return Tokens(*map(block.windows, self))
