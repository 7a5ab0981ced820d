"""Checks of what a caller hands to an attention, in front of every attention that ``build_attention`` gives.

A message names the argument, its value and what is allowed.  An attention needs no checks of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.interface import Pattern


class BuiltFor(NamedTuple):
    """What an attention was built for, and what its inputs must agree with."""

    name: str  # of the class
    pattern: Pattern
    num_heads: int
    head_dim: int
    max_length: int | None  # None where the attention has no longest length


@functools.cache
def checked(cls: type) -> type:
    """The attention ``cls`` with these checks in front of its methods: a subclass of the same name.

    Parameters, buffers, options and results are those of ``cls``.  Methods of ``cls`` that call one another are not checked
    again.  A class that declares ``checks_arguments = True`` is returned as it is.
    """
    if getattr(cls, "checks_arguments", False):
        return cls
    members: dict[str, Any] = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    members |= {"checks_arguments": True, "__init__": _init(cls)}
    for name, check in CHECKS.items():
        if callable(getattr(cls, name, None)):
            members[name] = _checked_method(cls, name, check)
    return type(cls.__name__, (cls,), members)


def _init(cls: Any) -> Callable[..., None]:
    @functools.wraps(cls.__init__)
    def __init__(self: Any, *, pattern: Pattern, num_heads: int, head_dim: int, **options: Any) -> None:
        longest = inspect.signature(cls.__init__).parameters.get("max_length")
        max_length = None
        if longest is not None and getattr(cls, "needs_max_length", False):
            max_length = options.get("max_length", longest.default)
        cls.__init__(self, pattern=pattern, num_heads=num_heads, head_dim=head_dim, **options)
        self._built_for = BuiltFor(cls.__name__, pattern, num_heads, head_dim, max_length)

    return __init__


def _checked_method(cls: type, name: str, check: Callable[..., None]) -> Callable[..., Any]:
    """The author's method with a check in front.

    While it runs, the module has no ``_built_for``, by which its other methods know that a method of its own calls them.
    """

    @functools.wraps(getattr(cls, name))
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        attributes = self.__dict__
        built_for = attributes.get("_built_for")
        if built_for is None:  # called by another method of the author, or by __init__
            return getattr(cls, name)(self, *arguments, **named)
        check(built_for, *arguments, **named)
        attributes["_built_for"] = None
        try:
            return getattr(cls, name)(self, *arguments, **named)
        finally:
            attributes["_built_for"] = built_for

    return method


def check_forward(
    built_for: BuiltFor, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, **_others: Any
) -> None:
    """The arguments of ``forward``."""
    check_inputs(q, k, v, key_padding_mask, built_for)
    if built_for.max_length is not None:
        check_length(k.shape[2], key_padding_mask, built_for)
        if built_for.pattern.endswith("_cross"):
            check_length(q.shape[2], None, built_for)


def check_init_state(built_for: BuiltFor, *_: Any, **_others: Any) -> None:
    """The pattern of ``init_state``."""
    check_pattern("init_state", "causal_self", built_for)


def check_extend(built_for: BuiltFor, q: Tensor, k: Tensor, v: Tensor, state: Any, **_others: Any) -> None:
    """The arguments of ``extend``."""
    check_pattern("extend", "causal_self", built_for)
    check_inputs(q, k, v, None, built_for)
    check_state(q, state, built_for)


def check_init_cross(
    built_for: BuiltFor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, **_others: Any
) -> None:
    """The arguments of ``init_cross``."""
    check_pattern("init_cross", "causal_cross", built_for)
    check_source(k, v, key_padding_mask, built_for)
    check_length(k.shape[2], key_padding_mask, built_for)


def check_read(built_for: BuiltFor, q: Tensor, state: Any, **_others: Any) -> None:
    """The arguments of ``read``."""
    check_pattern("read", "causal_cross", built_for)
    check_heads("q", q, built_for)
    check_state(q, state, built_for)


def check_select(built_for: BuiltFor, state: Any, rows: Tensor) -> None:  # noqa: ARG001
    """The rows for ``select``: int64, (new batch,)."""
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise ValueError(f"rows has dtype {rows.dtype} and shape {tuple(rows.shape)}; it must be int64, (new batch,)")


CHECKS: dict[str, Callable[..., None]] = {
    "forward": check_forward,
    "init_state": check_init_state,
    "extend": check_extend,
    "init_cross": check_init_cross,
    "read": check_read,
    "select": check_select,
}


def check_positive(name: str, value: int) -> None:
    """Raises ValueError unless the value is a whole number of at least 1; for sizes and counts among the options."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed are whole numbers from 1")


def check_inputs(q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, built_for: BuiltFor) -> None:
    """The arguments of ``forward``: (batch, heads, length, head_dim) three times, and a boolean mask or none."""
    check_heads("q", q, built_for)
    check_source(k, v, key_padding_mask, built_for)
    check_alike("q", q, "k", k)
    pattern = built_for.pattern
    if q.shape[2] != k.shape[2] and pattern.endswith("_self"):
        raise ValueError(
            f"{pattern} needs equal lengths of q and k, got {q.shape[2]} and {k.shape[2]}"
            + ("; a sequence is continued through extend()" if pattern == "causal_self" else "")
        )


def check_source(k: Tensor, v: Tensor, key_padding_mask: Tensor | None, built_for: BuiltFor) -> None:
    """The arguments of ``init_cross``."""
    check_heads("k", k, built_for)
    check_heads("v", v, built_for)
    check_alike("k", k, "v", v)
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"k and v need equal lengths, got {k.shape[2]} and {v.shape[2]}")
    if key_padding_mask is not None:
        check_mask(key_padding_mask, k)


def check_mask(key_padding_mask: Tensor, k: Tensor) -> None:
    """Raises ValueError unless the mask is boolean, of shape (batch, source length)."""
    wanted = (k.shape[0], k.shape[2])
    if key_padding_mask.dtype != torch.bool or tuple(key_padding_mask.shape) != wanted:
        raise ValueError(
            f"key_padding_mask has dtype {key_padding_mask.dtype} and shape {tuple(key_padding_mask.shape)}; "
            f"it must be torch.bool of shape (batch, source length) = {wanted}, True where padded"
        )


def check_heads(name: str, x: Tensor, built_for: BuiltFor) -> None:
    """Raises ValueError unless x is floating, of shape (batch, heads, length, head_dim)."""
    if x.dim() != 4 or x.shape[1] != built_for.num_heads or x.shape[3] != built_for.head_dim:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it must be (batch, heads, length, head_dim) "
            f"with heads = {built_for.num_heads} and head_dim = {built_for.head_dim}"
        )
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; allowed are floating-point dtypes")


def check_alike(first: str, x: Tensor, second: str, y: Tensor) -> None:
    """Raises ValueError unless the two have one batch size and one dtype."""
    if x.shape[0] != y.shape[0] or x.dtype != y.dtype:
        raise ValueError(
            f"{first} and {second} need equal batch size and dtype, "
            f"got {x.shape[0]} and {y.shape[0]}, {x.dtype} and {y.dtype}"
        )


def check_length(length: int, key_padding_mask: Tensor | None, built_for: BuiltFor) -> None:
    """Raises ValueError beyond ``max_length``.  Padded tokens do not count."""
    longest = built_for.max_length
    if longest is None or length <= longest:
        return
    if key_padding_mask is not None:
        length = int((~key_padding_mask).sum(1).max()) if len(key_padding_mask) else 0
    if length > longest:
        raise ValueError(f"{built_for.name} was built for max_length {longest} and is given {length} tokens")


def check_state(q: Tensor, state: Any, built_for: BuiltFor) -> None:
    """Raises ValueError where the state has another batch size than q, or q leads beyond ``max_length``.

    The batch size is known where the state has a tensor (batch, heads, …, …), the number of tokens before q where the state
    has a field ``position``.
    """
    batch_size = state_batch(state, built_for.num_heads)
    if batch_size is not None and q.shape[0] != batch_size:
        raise ValueError(f"q has batch size {q.shape[0]}, the state {batch_size}; they must be equal")
    if built_for.max_length is not None:
        check_length(getattr(state, "position", 0) + q.shape[2], None, built_for)


def state_batch(state: Any, num_heads: int) -> int | None:
    """The batch size of a state's first tensor of the shape (batch, heads, …, …); None where it has no such tensor."""
    if isinstance(state, Tensor):
        return state.shape[0] if state.dim() == 4 and state.shape[1] == num_heads else None
    if isinstance(state, tuple | list):
        for part in state:
            if (batch_size := state_batch(part, num_heads)) is not None:
                return batch_size
    return None


def check_pattern(method: str, wanted: Pattern, built_for: BuiltFor) -> None:
    """Raises ValueError where a method is called at a pattern that doesn't have it."""
    if built_for.pattern != wanted:
        raise ValueError(
            f"{method}() belongs to the pattern {wanted!r}; this attention was built for {built_for.pattern!r}"
        )
