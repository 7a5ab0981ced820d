"""Checks of the arguments that callers give to an attention; ``build_attention`` puts them in front of its methods.

A message names the argument, its value and what is allowed.  The author of an attention need not write any checks.
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
    """The settings that an attention was built with; its inputs must agree with them."""

    name: str  # of the attention's class
    pattern: Pattern
    num_heads: int
    head_dim: int
    max_length: int | None  # None if the attention takes inputs of any length


@functools.cache
def checked(cls: type) -> type:
    """Returns a subclass of ``cls``, of the same name, whose methods check their arguments first.

    Parameters, buffers, options and results are those of ``cls``.  Only calls from outside are checked: if one method of
    ``cls`` calls another, the inner call is not.  A class that declares ``checks_arguments = True`` is returned as it is.
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
    """Returns the author's method with a check in front.

    The method is looked up in ``cls`` at each call, as inheritance does, so that replacing it there takes effect.  While it
    runs, the module has no ``_built_for``: this tells its other methods that they are called by the author's own code.
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
    """Checks the arguments of ``forward``."""
    check_inputs(q, k, v, key_padding_mask, built_for)
    if built_for.max_length is not None:
        check_length(k.shape[2], key_padding_mask, built_for)
        if built_for.pattern.endswith("_cross"):
            check_length(q.shape[2], None, built_for)


def check_init_state(built_for: BuiltFor, *_: Any, **_others: Any) -> None:
    """Checks that the attention's pattern has ``init_state``."""
    check_pattern("init_state", "causal_self", built_for)


def check_extend(built_for: BuiltFor, q: Tensor, k: Tensor, v: Tensor, state: Any, **_others: Any) -> None:
    """Checks the arguments of ``extend``."""
    check_pattern("extend", "causal_self", built_for)
    check_inputs(q, k, v, None, built_for)
    check_state(q, state, built_for)


def check_init_cross(
    built_for: BuiltFor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None, **_others: Any
) -> None:
    """Checks the arguments of ``init_cross``, and that the attention's pattern has it."""
    check_pattern("init_cross", "causal_cross", built_for)
    check_source(k, v, key_padding_mask, built_for)
    check_length(k.shape[2], key_padding_mask, built_for)


def check_read(built_for: BuiltFor, q: Tensor, state: Any, **_others: Any) -> None:
    """Checks the arguments of ``read``."""
    check_pattern("read", "causal_cross", built_for)
    check_heads("q", q, built_for)
    check_state(q, state, built_for)


def check_select(built_for: BuiltFor, state: Any, rows: Tensor) -> None:  # noqa: ARG001
    """Checks that the rows for ``select`` are int64, of shape (new batch,)."""
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
    """Checks q, k and v, each (batch, heads, length, head_dim), and a boolean mask or None."""
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
    """Checks the arguments of ``init_cross``: k and v of equal shape and dtype, and a boolean mask or None."""
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
    """Raises ValueError unless both have the same batch size and dtype."""
    if x.shape[0] != y.shape[0] or x.dtype != y.dtype:
        raise ValueError(
            f"{first} and {second} need equal batch size and dtype, "
            f"got {x.shape[0]} and {y.shape[0]}, {x.dtype} and {y.dtype}"
        )


def check_length(length: int, key_padding_mask: Tensor | None, built_for: BuiltFor) -> None:
    """Raises ValueError if there are more than ``max_length`` tokens.  Padded tokens do not count."""
    longest = built_for.max_length
    if longest is None or length <= longest:
        return
    if key_padding_mask is not None:
        length = int((~key_padding_mask).sum(1).max()) if len(key_padding_mask) else 0
    if length > longest:
        raise ValueError(f"{built_for.name} was built for max_length {longest} and is given {length} tokens")


def check_state(q: Tensor, state: Any, built_for: BuiltFor) -> None:
    """Raises ValueError if the state's batch size differs from q's, or if more than ``max_length`` tokens are then read.

    The batch size is compared if the state has a tensor (batch, heads, …, …).  The number of tokens read before q is the
    state's field ``position``, or 0 if it has no such field.
    """
    batch_size = state_batch(state, built_for.num_heads)
    if batch_size is not None and q.shape[0] != batch_size:
        raise ValueError(f"q has batch size {q.shape[0]}, the state {batch_size}; they must be equal")
    if built_for.max_length is not None:
        check_length(getattr(state, "position", 0) + q.shape[2], None, built_for)


def state_batch(state: Any, num_heads: int) -> int | None:
    """Returns the batch size of the state's first tensor (batch, heads, …, …), or None if it has no such tensor."""
    if isinstance(state, Tensor):
        return state.shape[0] if state.dim() == 4 and state.shape[1] == num_heads else None
    if isinstance(state, tuple | list):
        for part in state:
            if (batch_size := state_batch(part, num_heads)) is not None:
                return batch_size
    return None


def check_pattern(method: str, wanted: Pattern, built_for: BuiltFor) -> None:
    """Raises ValueError unless the attention was built for ``wanted``, the pattern that has this method."""
    if built_for.pattern != wanted:
        raise ValueError(
            f"{method}() belongs to the pattern {wanted!r}; this attention was built for {built_for.pattern!r}"
        )
