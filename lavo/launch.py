"""How the Triton kernels are launched: the inputs that they take, their arguments, and the configurations to try."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM, MAX_WINDOW = 128, 256
BLOCK = 64  # the largest number of tokens of a tile
TILE_BYTES = 8192  # the largest size of a tile of q, because some five such matrices must stay in registers as float32
# How many programs a kernel gets if its programs add up gradients over several pieces of work.  It gets at least one for each
# sequence, and never more than there are pieces.
PROGRAMS = 1024
OUTPUTS = {"joint": 0, "sum": 1, "memory": 2}  # as the constants JOINT, SUM and MEMORY of kernels.py


def why_not(q: Tensor, window: int, rank: int) -> str | None:
    """Returns the reason why the kernels cannot take these inputs, or None if they can.

    q: (b, h, n, d).  rank: the rank of the basis, or 0 if the basis is None.
    """
    if q.dtype not in DTYPES:
        return f"inputs of {q.dtype}"
    if q.device.type != ("cpu" if INTERPRETED else "cuda"):
        return f"inputs on {q.device.type}"
    if q.shape[3] > MAX_HEAD_DIM:
        return f"head_dim {q.shape[3]}, more than {MAX_HEAD_DIM}"
    if window > MAX_WINDOW:
        return f"window {window}, more than {MAX_WINDOW}"
    if q.dtype == torch.float32 and q.shape[3] > 64 and rank > 64:
        return "float32 with head_dim and rank above 64"  # the gradient of the basis would not fit into shared memory
    if q.shape[0] * q.shape[1] > 65535:
        return "more than 65535 sequences times heads"  # the limit of a grid's second dimension
    return None


def autotuned(kernel: Any, key: list[str], **options: Any) -> Any:
    """Returns the kernel with automatic tuning.

    For each new combination of values of the arguments in ``key``, Triton times several numbers of warps and stages once and
    keeps the fastest.  The interpreter has no warps and stages, so there is nothing to try.
    """
    configs = [triton.Config({}, num_warps=4)]
    if not INTERPRETED:
        configs = [triton.Config({}, num_warps=w, num_stages=s) for w in (4, 8) for s in (2, 1)]
    return triton.autotune(configs=configs, key=key, **options)(kernel)


@dataclass(frozen=True)
class Launch:
    """Sizes and constants of one call of LAVO.  ``run`` gives each kernel those that it has as arguments."""

    q: Tensor
    like_out: Tensor  # a tensor with the strides of the outputs
    window: int
    rank: int
    _: KW_ONLY
    identity: bool  # whether the basis is None, the head's own axes
    output: int  # a value of OUTPUTS
    causal: bool = False
    windows: bool = False  # whether there are windows; cross-attention and dissect=False have none
    cross: bool = False
    biased: bool = False
    ragged: bool = False  # whether the rows of the batch differ in length

    @property
    def block(self) -> int:
        """The number of tokens of a tile."""
        most = TILE_BYTES // (power_of_two(self.q.shape[3]) * self.q.element_size())
        return min(BLOCK, most, power_of_two(self.window))

    @property
    def tiles(self) -> int:
        """The number of tiles of a window."""
        return triton.cdiv(self.window, self.block)

    @property
    def num_windows(self) -> int:
        """The number of windows of a sequence."""
        return triton.cdiv(self.q.shape[2], self.window)

    @property
    def num_tiles(self) -> int:
        """The number of tiles of a sequence."""
        return self.num_windows * self.tiles

    @property
    def rows(self) -> int:
        """The number of sequences: batch times heads."""
        return self.q.shape[0] * self.q.shape[1]

    def share(self, pieces: int) -> tuple[int, int]:
        """Returns how many programs share the ``pieces`` of work of a sequence, and how many pieces each one takes."""
        span = triton.cdiv(pieces, max(1, min(pieces, PROGRAMS // self.rows)))
        return triton.cdiv(pieces, span), span

    def run(self, kernel: Any, grid: tuple[int, ...], **own: Any) -> None:
        """Runs the kernel.

        own: the arguments that only this kernel has.  Those that describe this call are added if the kernel has them.
        """
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
        known = {name: value for name, value in known.items() if name in kernel.arg_names and name not in own}
        # A kernel cannot take None.  It gets q in place of a missing tensor, and does not read it there.
        own = {name: q if x is None else x for name, x in own.items()}
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            kernel[grid](**own, **known)


def power_of_two(size: int) -> int:
    """Returns the next power of two from ``size`` on, and at least 16, the smallest size that a matrix product takes."""
    return max(16, triton.next_power_of_2(size))


def precision() -> str:
    """Returns how float32 products are computed: "tf32x3", or "tf32" if torch's precision setting allows it.

    tf32x3 adds up three tf32 products, which together have nearly the accuracy of float32.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
