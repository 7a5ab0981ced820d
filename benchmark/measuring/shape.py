"""What all points of a sweep share, and a call that is ready to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.measuring.points import Point


@dataclass(frozen=True)
class Shape:
    """What all points of a sweep share."""

    batch: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    seed: int
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # attention -> its own options
    tokens: int | None = None  # of a batch: where given, ``batch`` follows from the length

    def point(self, mode: str, pattern: str, length: int, attention: str) -> Point:
        """The row of a point, nothing known yet."""
        dtype = str(self.dtype).removeprefix("torch.")
        batch = self.batch if self.tokens is None else max(1, self.tokens // length)
        shape = (batch, length, self.num_heads, self.head_dim)
        return Point(mode, pattern, *shape, attention, dtype, device_name(self.device))


def device_name(device: torch.device) -> str:
    """``cpu``, or what the GPU is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass
class Workload:
    """One call to measure, and the tensors that lie ready for it."""

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
        """What the attention says that ran; of a whole model, that of its attention layers."""
        return next((str(part.kernel) for part in self.module.modules() if getattr(part, "kernel", None)), None)


PREFILL_TOKENS = 1024  # read at once while the context is filled: bounds what a quadratic attention holds
