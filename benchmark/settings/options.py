"""An attention's own options, checked against the annotations of its constructor."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from benchmark.registry import (
    attention_options,
    load_attention,
    nearest,
    takes_max_length,
)
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import Override


def full_options(name: str, given: Iterable[Override]) -> dict[str, Any]:
    """Returns the options with the attention's defaults filled in, so that giving a default doesn't change the hash.

    given: overrides whose keys are options; if a key is given twice, the later one counts.
    Raises ConfigError for an unknown option, or a value of a wrong type.
    """
    cls = load_attention(name)
    allowed, annotations = attention_options(cls), _annotations(cls)
    options: dict[str, Any] = {}
    for option, value, origin in given:
        if option not in allowed:
            has = ", ".join(allowed) if allowed else "no options"
            raise ConfigError(f"{origin}: unknown option {option!r}{nearest(option, allowed)}; {name} has {has}")
        if (wanted := _wanted(value, annotations.get(option))) is not None:
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


_PLAIN_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    NoneType: "null",
}


def _annotations(cls: type) -> dict[str, Any]:
    """Returns the types of a constructor's parameters; an empty dict if a name in them can't be resolved."""
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc]  # right for this very class
    except (NameError, TypeError, AttributeError):
        return {}


def _wanted(value: Any, annotation: Any) -> str | None:
    """Returns what an option of this type must be; None if the value fits, or if only the constructor can tell."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if not all(kind in _PLAIN_TYPES for kind in kinds):
        return None
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError:
        return " or ".join(_PLAIN_TYPES[kind] for kind in kinds)
    return None
