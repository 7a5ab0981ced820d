"""How the Triton kernels are launched: which inputs they take, the sizes and constants of a call, and their configurations."""

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
BLOCK = 64  # tokens of a tile at most
TILE_BYTES = 8192  # of a tile of q at most: some five such matrices must stay in registers as float32
PROGRAMS = 1024  # that share the work of a kernel whose programs add gradients up, at least where there is as much work
OUTPUTS = {"joint": 0, "sum": 1, "memory": 2}  # the constants of kernels.py


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


def autotuned(kernel: Any, key: list[str], **options: Any) -> Any:
    """The kernel, which tries numbers of warps and stages once for each value of the key; the interpreter has neither."""
    configs = [triton.Config({}, num_warps=4)]
    if not INTERPRETED:
        configs = [triton.Config({}, num_warps=w, num_stages=s) for w in (4, 8) for s in (2, 1)]
    return triton.autotune(configs=configs, key=key, **options)(kernel)


@dataclass(frozen=True)
class Launch:
    """Sizes and constants of one call; each kernel takes those that it knows."""

    q: Tensor
    like_out: Tensor  # has the strides of the outputs
    window: int
    rank: int
    _: KW_ONLY
    identity: bool  # the basis is the head's own axes
    output: int  # see OUTPUTS
    causal: bool = False
    windows: bool = False  # whether there are any: not in cross-attention, nor without dissection
    cross: bool = False
    biased: bool = False
    ragged: bool = False  # whether sequences differ in length

    @property
    def block(self) -> int:
        """Tokens of a tile."""
        most = TILE_BYTES // (power_of_two(self.q.shape[3]) * self.q.element_size())
        return min(BLOCK, most, power_of_two(self.window))

    @property
    def tiles(self) -> int:
        """Of a window."""
        return triton.cdiv(self.window, self.block)

    @property
    def num_windows(self) -> int:
        """Of a sequence."""
        return triton.cdiv(self.q.shape[2], self.window)

    @property
    def num_tiles(self) -> int:
        """Of a sequence."""
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
        """Runs the kernel with its own arguments, and with those of this call that it has."""
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
        own = {name: q if x is None else x for name, x in own.items()}  # instead of None an address that is never read
        with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
            kernel[grid](**own, **known)


def power_of_two(size: int) -> int:
    """The next one, at least 16, the smallest size that a matrix product takes."""
    return max(16, triton.next_power_of_2(size))


def precision() -> str:
    """How products of float32 are taken: as three of tf32, about exact together, or as one where torch allows it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
