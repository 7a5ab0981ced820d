"""Checks of what a caller hands to an attention; every message names the argument, its value and what is allowed."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from benchmark.interface import PATTERNS, Pattern


def check_options(pattern: Pattern, num_heads: int, head_dim: int) -> None:
    if pattern not in PATTERNS:
        raise ValueError(f"pattern is {pattern!r}; allowed are {', '.join(get_args(Pattern))}")
    check_positive("num_heads", num_heads)
    check_positive("head_dim", head_dim)


def check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed are whole numbers from 1")


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    *,
    pattern: Pattern,
    num_heads: int,
    head_dim: int,
) -> None:
    """The arguments of ``forward``: (batch, heads, length, head_dim) three times, and a boolean mask or none."""
    check_heads("q", q, num_heads, head_dim)
    check_keys_and_values(k, v, key_padding_mask, num_heads=num_heads, head_dim=head_dim)
    check_alike("q", q, "k", k)
    if pattern.endswith("_self") and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"{pattern} needs equal lengths of q and k, got {q.shape[2]} and {k.shape[2]}"
            + ("; a sequence is continued through extend()" if pattern == "causal_self" else "")
        )


def check_keys_and_values(
    k: Tensor, v: Tensor, key_padding_mask: Tensor | None, *, num_heads: int, head_dim: int
) -> None:
    """The arguments of ``init_cross``."""
    check_heads("k", k, num_heads, head_dim)
    check_heads("v", v, num_heads, head_dim)
    check_alike("k", k, "v", v)
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"k and v need equal lengths, got {k.shape[2]} and {v.shape[2]}")
    if key_padding_mask is not None:
        check_mask(key_padding_mask, k)


def check_mask(key_padding_mask: Tensor, k: Tensor) -> None:
    wanted = (k.shape[0], k.shape[2])
    if key_padding_mask.dtype != torch.bool or tuple(key_padding_mask.shape) != wanted:
        raise ValueError(
            f"key_padding_mask has dtype {key_padding_mask.dtype} and shape {tuple(key_padding_mask.shape)}; "
            f"it must be torch.bool of shape (batch, source length) = {wanted}, True where padded"
        )


def check_extension(q: Tensor, k: Tensor, v: Tensor, batch_size: int, *, num_heads: int, head_dim: int) -> None:
    """The arguments of ``extend``, for a state of this many rows."""
    check_inputs(q, k, v, None, pattern="causal_self", num_heads=num_heads, head_dim=head_dim)
    check_batch(q, batch_size)


def check_queries(q: Tensor, batch_size: int, *, num_heads: int, head_dim: int) -> None:
    """The arguments of ``read``, for a state of this many rows."""
    check_heads("q", q, num_heads, head_dim)
    check_batch(q, batch_size)


def check_batch(q: Tensor, batch_size: int) -> None:
    if q.shape[0] != batch_size:
        raise ValueError(f"q has batch size {q.shape[0]}, the state {batch_size}; they must be equal")


def check_heads(name: str, x: Tensor, num_heads: int, head_dim: int) -> None:
    if x.dim() != 4 or x.shape[1] != num_heads or x.shape[3] != head_dim:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it must be (batch, heads, length, head_dim) "
            f"with heads = {num_heads} and head_dim = {head_dim}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; allowed are floating-point dtypes")


def check_alike(first: str, x: Tensor, second: str, y: Tensor) -> None:
    if x.shape[0] != y.shape[0] or x.dtype != y.dtype:
        raise ValueError(
            f"{first} and {second} need equal batch size and dtype, "
            f"got {x.shape[0]} and {y.shape[0]}, {x.dtype} and {y.dtype}"
        )


def check_pattern(pattern: Pattern, wanted: Pattern, method: str) -> None:
    if pattern != wanted:
        raise ValueError(f"{method}() belongs to the pattern {wanted!r}; this attention was built for {pattern!r}")


def check_rows(rows: Tensor) -> None:
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise ValueError(f"rows has dtype {rows.dtype} and shape {tuple(rows.shape)}; it must be int64, (new batch,)")
