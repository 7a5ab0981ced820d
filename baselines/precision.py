"""The precision in which an attention computes, whatever the precision of its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The dtype for sums over tokens, float32 at least: a float16 sum of ones stops at 2,048, a bfloat16 one at 256."""
    return torch.promote_types(x.dtype, torch.float32)


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a method: autocast is off inside, where it would turn float32 products back to half precision.

    The first argument of the method is a tensor on the device on which it runs.
    """

    @functools.wraps(method)
    def run(self: Any, q: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.autocast(q.device.type, enabled=False):
            return method(self, q, *arguments, **named)

    return run
