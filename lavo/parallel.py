"""One causal sequence over several processes.  Each holds a part, and the data they exchange does not grow with the length.

The memory of causal LAVO before a part is one sum of r numbers for each head.  Every process computes the sum over its own
part; the sums of all earlier parts together give the memory before this one.  In the backward pass, gradients of these sums
come from all later processes in the same way.

If the boundary between two parts cuts a window, the later part borrows the keys and values at the beginning of that window.
These are less than a window of tokens, and none if parts end where windows end (``split_length``).  Both exchanges are
all-gathers, because every backend of torch.distributed has them.

    part = share_length(tokens.shape[1], group)          # once a batch; if all lengths are known: Part(lengths, rank, group)
    with sequence_part(model, part):                     # sets the part in every LAVOAttention of the model
        nats = loss_sum(model(tokens), targets)          # of this process's tokens, whose positions begin at part.start
        nats.backward()                                  # on all processes, or on none
    # then sum losses, numbers of tokens and gradients over the processes, as in data parallel training
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lavo.blocks import Tokens, Workspace, accumulation_dtype, blocks, carry_dtype
from lavo.functional import check_self, full_precision
from lavo.memory import CausalRead
from lavo.windows import Local, LocalGradients, Windows, bias_matrix


@dataclass
class Part:
    """Which part of a sequence this process holds.

    lengths: the number of tokens of each part, in order of time.  rank: the index of this process's part.
    bytes_sent: bytes that this process has sent since the part was made; data for two receivers counts twice.
    Raises ValueError for a negative length, and for a rank that has no part.
    """

    lengths: tuple[int, ...]
    rank: int
    group: Any = None  # a process group of torch.distributed; None means all processes
    bytes_sent: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < len(self.lengths) or min(self.lengths) < 0:
            raise ValueError(
                f"a part needs lengths of at least 0 and a rank below their number, got {self.lengths}, {self.rank}"
            )

    @property
    def start(self) -> int:
        """The position of this part's first token."""
        return sum(self.lengths[: self.rank])

    def starts(self) -> list[int]:
        """Returns the position of the first token of each part."""
        return [0, *accumulate(self.lengths)][:-1]

    def gather(self, x: Tensor) -> list[Tensor]:
        """Returns the tensors x of all processes, in the order of the parts.  x must have the same shape everywhere."""
        if len(self.lengths) == 1:
            return [x]
        x = x.contiguous()
        gathered = [torch.empty_like(x) for _ in self.lengths]
        dist.all_gather(gathered, x, group=self.group)
        self.bytes_sent += x.nbytes * (len(self.lengths) - 1)
        return gathered


def share_length(length: int, group: Any = None, *, device: torch.device | str = "cpu") -> Part:
    """Returns the part of this process; the processes exchange the lengths of their parts for it.

    length: tokens of this process.  device: a device from which the group's backend can send.
    """
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    part = Part((0,) * world, rank, group)
    lengths = part.gather(torch.tensor([length], device=device))
    return Part(tuple(int(x) for x in torch.cat(lengths).tolist()), rank, group, part.bytes_sent)


def split_length(length: int, num_parts: int, window: int) -> tuple[int, ...]:
    """Splits a sequence into parts that end where windows end, as equal as possible.  Returns their lengths.

    With such parts, processes exchange only the memory, and no keys and values.
    """
    windows, rest = divmod(-(-length // window), num_parts)
    ends = [min(length, (i * windows + min(i, rest)) * window) for i in range(num_parts + 1)]
    return tuple(b - a for a, b in pairwise(ends))


@contextmanager
def sequence_part(model: nn.Module, part: Part) -> Iterator[None]:
    """Inside the block, every LAVOAttention of the model treats its inputs as this part of a longer sequence.

    Raises ValueError if the model has no LAVOAttention.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "sequence_part")]
    before = [layer.sequence_part for layer in layers]
    if not layers:
        raise ValueError("the model has no LAVOAttention, the only attention here that can take a sequence in parts")
    try:
        for layer in layers:
            layer.sequence_part = part
        yield
    finally:
        for layer, former in zip(layers, before, strict=True):
            layer.sequence_part = former


def parallel_lavo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor | None,
    part: Part,
    *,
    window: int = 64,
    bias: Tensor | None = None,
    output: str = "sum",
    dissect: bool = True,
) -> Tensor:
    """Computes ``lavo_attention(…, causal=True)`` over the whole sequence; returns the output for this process's part.

    q, k, v: (batch, heads, length of the part, head_dim), without padding.  All other arguments must be the same in all
    processes.
    All processes of the group must call this function, and all or none its backward pass.  The gradients of q, k and v are
    complete.  Those of basis and bias must still be summed over the processes.
    Returns (batch, heads, length of the part, head_dim) in the dtype of q.
    Raises ValueError for arguments that do not fit each other or the part.
    """
    check_self(q, k, v, basis, None, window=window, bias=bias, causal=True, output=output)
    if q.shape[2] != part.lengths[part.rank]:
        raise ValueError(f"this part has {part.lengths[part.rank]} tokens of {part.lengths}, q has {q.shape[2]}")
    with full_precision(q):
        dtype = accumulation_dtype(q)
        basis = None if basis is None else basis.to(dtype)
        if dissect:
            e, lse = _local(q, k, v, bias, window, part)
        else:
            e, lse, output = v.to(dtype), None, "memory"
        total = e.sum(2, dtype=carry_dtype(q.device))
        if basis is not None:
            total = torch.einsum("bhd,hrd->bhr", total, basis.to(total.dtype))
        before = _SumBefore.apply(total, part)
        return CausalRead.apply(q, e, lse, before, basis, output, part.start, None)


def _local(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, window: int, part: Part) -> tuple[Tensor, Tensor]:
    """Returns e (b, h, n, d) and the log-sum-exps (b, h, n) of this part, whose first window may begin before the part."""
    borrowed = 0
    if any(start % window for start in part.starts()):
        borrowed = part.start % window
        k, v = _Borrow.apply(k, v, part, window)
        # The borrowed tokens need queries too; their outputs are cut off below.
        q = torch.cat([q.new_zeros(*q.shape[:2], borrowed, q.shape[3]), q], 2)
    if q.shape[2] == borrowed:
        lse = q.new_zeros(*q.shape[:2], 0, dtype=accumulation_dtype(q))
        # A part without tokens does not use the bias.  It must have a gradient all the same, because the sum of gradients
        # over the processes waits for every process.
        if bias is not None:
            lse = lse + bias[:, :1].to(lse.dtype)[:, :0]
        return v[:, :, borrowed:].to(lse.dtype), lse
    matrix = bias_matrix(bias, min(window, q.shape[2]), window, True, q)
    e, lse = _Windows.apply(q, k, v, matrix)
    return e[:, :, borrowed:], lse[:, :, borrowed:]


# What passes between processes.


class _SumBefore(torch.autograd.Function):
    """Returns the sum of ``total``, (b, h, r), over all processes before this one.

    Its gradient is therefore the sum of gradients over all processes after this one.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return torch.stack([torch.zeros_like(total), *part.gather(total)[: part.rank]]).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return torch.stack([torch.zeros_like(grad), *ctx.part.gather(grad)[ctx.part.rank + 1 :]]).sum(0), None


class _Borrow(torch.autograd.Function):
    """Puts before k and v those tokens of this part's first window that belong to earlier parts.

    (b, h, n, d) -> (b, h, borrowed + n, d)
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, part: Part, window: int) -> tuple[Tensor, Tensor]:
        ctx.part, ctx.window = part, window
        size = max(lent(part, window))  # all processes must send tensors of one size; shorter tails begin with zeros
        own = min(size, k.shape[2])
        tail = k.new_zeros(2, *k.shape[:2], size, k.shape[3])
        tail[..., size - own :, :] = torch.stack([x[:, :, x.shape[2] - own :] for x in (k, v)])
        tails = part.gather(tail)
        pieces = [tails[source][..., size - count :, :] for source, count in loans(part, window, part.rank)]
        before = torch.cat([tail[..., :0, :], *pieces], -2)
        return torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dk: Tensor, dv: Tensor) -> tuple:
        part, window = ctx.part, ctx.window
        borrowed, size = part.start % window, max(start % window for start in part.starts())
        front = dk.new_zeros(2, *dk.shape[:2], size, dk.shape[3])
        front[..., :borrowed, :] = torch.stack([dk[:, :, :borrowed], dv[:, :, :borrowed]])
        fronts = part.gather(front)
        own = [dk[:, :, borrowed:].clone(), dv[:, :, borrowed:].clone()]
        for borrower in range(part.rank + 1, len(part.lengths)):
            first = 0
            for source, count in loans(part, window, borrower):
                if source == part.rank and count:
                    for x, given in zip(own, fronts[borrower], strict=True):
                        x[:, :, -count:] += given[:, :, first : first + count]
                first += count
        return *own, None, None


def lent(part: Part, window: int) -> list[int]:
    """Returns for each process the largest number of its last tokens that it may lend.

    These are its tokens of the window in which its part ends, and none if its part ends with a window.
    """
    ends = accumulate(part.lengths)
    return [min(length, end % window) for length, end in zip(part.lengths, ends, strict=True)]


def loans(part: Part, window: int, borrower: int) -> list[tuple[int, int]]:
    """Returns which processes lend the beginning of the borrower's first window: (process, number of tokens), in order.

    There can be several, because a part may be shorter than a window.
    """
    wanted, found = part.starts()[borrower] % window, []
    for source in reversed(range(borrower)):
        count = min(wanted, part.lengths[source])
        found.append((source, count))
        wanted -= count
    return [loan for loan in reversed(found) if loan[1]]


# What each process computes for itself: the windows, and after the exchange of sums the memory (memory.CausalRead).


class _Windows(torch.autograd.Function):
    """Returns the local summaries e (b, h, n, d) and their log-sum-exps (b, h, n), in float32 at least."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        work, tokens, cut = Workspace(q), Tokens(q, k, v), blocks(q, bias.shape[1])
        e, lse = (torch.empty(shape, dtype=work.dtype, device=q.device) for shape in (q.shape, q.shape[:3]))
        windows, summaries = Windows(bias, work, True), Local(e, lse)
        for block in cut:
            local, _ = windows.forward(block, tokens.read(block, work), work.target("e", block.of(e)))
            summaries.store(block, local)
        ctx.save_for_backward(q, k, v, bias)
        ctx.cut = cut
        return e, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, de: Tensor, dlse: Tensor) -> tuple:
        q, k, v, bias = ctx.saved_tensors
        work, tokens = Workspace(q), Tokens(q, k, v)
        dtokens = Tokens(*map(torch.empty_like, tokens))
        dbias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        windows = Windows(bias, work, False)
        for block in ctx.cut:
            own, into = tokens.read(block, work), dtokens.targets(block, work)
            into.q.zero_()
            given = work.read("de", block.of(de))
            dlocal = LocalGradients(given, block.of(dlse).reshape(*given.shape[:2], 1))
            windows.backward(block, own, None, dlocal, into, dbias)
            dtokens.store(block, into)
        return *dtokens, dbias
