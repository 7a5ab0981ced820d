"""No attention: the output is zero, so that only the residual path of a layer remains.

It is a control: an attention that is of any use must beat it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from baselines.padding import zeros_from
from benchmark.interface import Pattern, select_rows, state_bytes

NOTHING: tuple[()] = ()


class NoAttention(nn.Module):
    """o_i = 0.  The streaming state is empty.

    The outputs are made with ``zeros_from`` and not with ``zeros_like``, so that autograd connects them with q, k and v, whose
    gradients are then zeros.  Without a connection the backward pass would raise an error.
    """

    version = 1
    unsupported: dict[str, str] = {}
    linear_state = True  # the state does not grow with the number of tokens
    control = True
    kernel = "none"

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Returns zeros of the shape of q, with zero gradients to q, k and v."""
        return zeros_from(q, k, v)

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Returns zeros of the shape of q: the reference that ``forward`` is checked against."""
        return zeros_from(q, k, v)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> tuple[()]:  # noqa: ARG002
        """Returns the empty state for the pattern ``causal_self``."""
        return NOTHING

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Returns zeros for the new tokens, and the same state."""
        return zeros_from(q, k, v), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> tuple[()]:  # noqa: ARG002
        """Returns the empty state for the pattern ``causal_cross``."""
        return NOTHING

    def read(self, q: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Returns zeros for the next queries, and the same state."""
        return zeros_from(q), state

    def select(self, state: tuple[()], rows: Tensor) -> tuple[()]:
        """Returns the state of these rows of the batch, which is empty."""
        return select_rows(state, rows)

    def state_bytes(self, state: tuple[()]) -> int:
        """Returns 0, the bytes of an empty state."""
        return state_bytes(state)
