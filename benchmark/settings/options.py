"""An attention's own options, checked against the annotations of its constructor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any

from benchmark.registry import (
    attention_options,
    load_attention,
    nearest,
    takes_max_length,
)
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import Override


def full_options(name: str, given: Iterable[Override]) -> dict[str, Any]:
    """Options with the attention's own defaults filled in, so that naming a default changes no hash.

    given: their keys are options; of one that is given twice the later counts.
    """
    cls = load_attention(name)
    allowed = attention_options(cls)
    options: dict[str, Any] = {}
    for option, value, origin in given:
        if option not in allowed:
            has = ", ".join(allowed) if allowed else "no options"
            raise ConfigError(f"{origin}: unknown option {option!r}{nearest(option, allowed)}; {name} has {has}")
        if (wanted := _wanted(value, allowed[option].annotation)) is not None:
            raise ConfigError(f"{origin}: {option} = {value!r}: must be {wanted}")
        options[option] = value
    plain = bool | int | float | str | list | tuple | None
    defaults = {
        option: parameter.default
        for option, parameter in allowed.items()
        if parameter.default is not parameter.empty and isinstance(parameter.default, plain)
    }
    if takes_max_length(cls) and "max_length" not in options:
        defaults.pop("max_length", None)  # the task sets it
    return dict(sorted({**defaults, **options}.items()))


_OPTION_TYPES: dict[str, tuple[type[Any] | UnionType, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (int | float, "a finite number"),
    "str": (str, "text"),
    "None": (NoneType, "null"),
}


def _wanted(value: Any, annotation: Any) -> str | None:
    """What an option annotated so should be; None where the value is that, or the annotation isn't plain."""
    names = [part.strip() for part in str(getattr(annotation, "__name__", annotation)).split("|")]
    if not set(names) <= set(_OPTION_TYPES):
        return None
    for name in names:
        if isinstance(value, _OPTION_TYPES[name][0]) and isinstance(value, bool) == (name == "bool"):
            return None if not isinstance(value, float) or math.isfinite(value) else _OPTION_TYPES[name][1]
    return " or ".join(_OPTION_TYPES[name][1] for name in names)
