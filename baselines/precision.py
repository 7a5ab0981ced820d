"""In which precision an attention computes, whatever its inputs come in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float32 at least: a float16 sum of ones stops at 2,048, a bfloat16 one at 256."""
    return torch.promote_types(x.dtype, torch.float32)


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would turn float32 products back to half precision inside an attention that keeps its sums in float32.

    For methods whose first argument is the tensor that says on which device they run.
    """

    @functools.wraps(method)
    def run(self: Any, q: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.autocast(q.device.type, enabled=False):
            return method(self, q, *arguments, **named)

    return run
