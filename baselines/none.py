"""No attention: zeros, so that only the residual path of a layer remains.  Every attention must beat this control."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

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
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Zeros of the shape of q, with zero gradients to q, k and v."""
        return zeros_from(q, k, v)

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Zeros as well."""
        return zeros_from(q, k, v)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> tuple[()]:  # noqa: ARG002
        """The empty state of ``causal_self``."""
        return NOTHING

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Zeros for the new tokens."""
        return zeros_from(q, k, v), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> tuple[()]:  # noqa: ARG002
        """The empty state of ``causal_cross``."""
        return NOTHING

    def read(self, q: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Zeros for the next queries."""
        return zeros_from(q), state

    def select(self, state: tuple[()], rows: Tensor) -> tuple[()]:
        """The state of these rows, which is empty."""
        return select_rows(state, rows)

    def state_bytes(self, state: tuple[()]) -> int:
        """No bytes."""
        return state_bytes(state)
