"""No attention: zeros, so that only the residual path of a layer remains.  The control that attention must beat."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from baselines.arguments import (
    check_heads,
    check_inputs,
    check_keys_and_values,
    check_options,
    check_pattern,
    check_rows,
)
from baselines.padding import zeros_from
from benchmark.interface import Pattern, select_rows, state_bytes

NOTHING: tuple[()] = ()


class NoAttention(nn.Module):
    """o_i = 0; its state is empty."""

    version = 1
    unsupported: dict[str, str] = {}
    linear_state = True
    control = True
    kernel = "none"

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None:
        super().__init__()
        check_options(pattern, num_heads, head_dim)
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        check_inputs(q, k, v, key_padding_mask, pattern=self.pattern, num_heads=self.num_heads, head_dim=self.head_dim)
        return zeros_from(q, k, v)

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return zeros_from(q, k, v)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> tuple[()]:  # noqa: ARG002
        check_pattern(self.pattern, "causal_self", "init_state")
        return NOTHING

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        check_pattern(self.pattern, "causal_self", "extend")
        check_inputs(q, k, v, None, pattern="causal_self", num_heads=self.num_heads, head_dim=self.head_dim)
        return zeros_from(q, k, v), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> tuple[()]:
        check_pattern(self.pattern, "causal_cross", "init_cross")
        check_keys_and_values(k, v, key_padding_mask, num_heads=self.num_heads, head_dim=self.head_dim)
        return NOTHING

    def read(self, q: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        check_heads("q", q, self.num_heads, self.head_dim)
        return zeros_from(q), state

    def select(self, state: tuple[()], rows: Tensor) -> tuple[()]:
        check_rows(rows)
        return select_rows(state, rows)

    def state_bytes(self, state: tuple[()]) -> int:
        return state_bytes(state)
