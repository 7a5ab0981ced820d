"""What all points of a sweep share (``Shape``), and a call that is ready to be measured (``Workload``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.measuring.points import Point
from benchmark.measuring.timing import CPU

PREFILL_TOKENS = 1024  # read at once while the context is filled: bounds what a quadratic attention holds


@dataclass(frozen=True)
class Shape:
    """The sizes, precision, device and options of every point of a sweep."""

    batch: int = 1
    num_heads: int = 8
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # attention -> its own options
    tokens: int | None = None  # of a batch; where given, the batch is as large as the length leaves it

    def point(self, mode: str, pattern: str, length: int, attention: str) -> Point:
        """The row of a point before anything is measured."""
        dtype = str(self.dtype).removeprefix("torch.")
        batch = self.batch if self.tokens is None else max(1, self.tokens // length)
        shape = (batch, length, self.num_heads, self.head_dim)
        return Point(mode, pattern, *shape, attention, dtype, device_column(self.device))


def device_column(device: torch.device) -> str:
    """The value of the column ``device``: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass
class Workload:
    """One call to measure, and the tensors that were made for it."""

    module: nn.Module
    call: Callable[[], Any]
    inputs: tuple[Tensor, ...]
    moved_bytes: Callable[[], int]
    state_bytes: Callable[[], int] = lambda: 0

    def base_bytes(self) -> int:
        """Bytes of parameters, buffers, inputs and state."""
        tensors = (*self.module.parameters(), *self.module.buffers(), *self.inputs)
        return sum(tensor.nbytes for tensor in tensors) + self.state_bytes()

    def kernel(self) -> str | None:
        """The kernel that the attention says it ran; of a whole model, that of its attention layers."""
        return next((str(part.kernel) for part in self.module.modules() if getattr(part, "kernel", None)), None)
