"""The precision in which an attention computes, whatever the precision of its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype for sums over tokens: that of x, but at least float32.

    In float16 a sum of ones stops growing at 2,048, in bfloat16 at 256.
    """
    return torch.promote_types(x.dtype, torch.float32)


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method so that autocast is off inside it, because autocast would compute float32 products in low precision.

    The first argument of the method must be a tensor on the device on which the method runs.
    """

    @functools.wraps(method)
    def run(self: Any, q: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.autocast(q.device.type, enabled=False):
            return method(self, q, *arguments, **named)

    return run
