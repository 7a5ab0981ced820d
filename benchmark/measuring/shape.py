"""The settings that all points of a sweep share (``Shape``), and a call that is ready to be measured (``Workload``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.measuring.points import Point
from benchmark.measuring.timing import CPU

# The context is filled in pieces of this many tokens, so that an attention with quadratic memory never holds the scores of the
# whole context.
PREFILL_TOKENS = 1024


@dataclass(frozen=True)
class Shape:
    """The sizes, precision, device and options of every point of a sweep.

    options: for each attention by name, its own options.
    tokens: the number of tokens of a batch.  If given, ``batch`` is ignored, and the batch size is tokens // length, but at
    least 1.
    """

    batch: int = 1
    num_heads: int = 8
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokens: int | None = None

    def point(self, mode: str, pattern: str, length: int, attention: str) -> Point:
        """Returns the ``Point`` (a row of the table of results) with its settings filled in and no measurements yet."""
        dtype = str(self.dtype).removeprefix("torch.")
        batch = self.batch if self.tokens is None else max(1, self.tokens // length)
        shape = (batch, length, self.num_heads, self.head_dim)
        return Point(mode, pattern, *shape, attention, dtype, device_column(self.device))


def device_column(device: torch.device) -> str:
    """Returns the value for the column ``device`` of the table of results: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass
class Workload:
    """One call to measure, and the tensors that were made for it."""

    module: nn.Module  # the attention, or a whole model
    call: Callable[[], Any]
    inputs: tuple[Tensor, ...]
    moved_bytes: Callable[[], int]  # the bytes that one call must at least read and write
    state_bytes: Callable[[], int] = lambda: 0  # the bytes of the streaming state; 0 if the mode has none

    def base_bytes(self) -> int:
        """Returns the bytes of parameters, buffers, inputs and state, which exist before the call."""
        tensors = (*self.module.parameters(), *self.module.buffers(), *self.inputs)
        return sum(tensor.nbytes for tensor in tensors) + self.state_bytes()

    def kernel(self) -> str | None:
        """Returns the kernel that the attention reports; for a whole model, that of the first layer that reports one."""
        return next((str(part.kernel) for part in self.module.modules() if getattr(part, "kernel", None)), None)
