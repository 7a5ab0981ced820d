"""One line for every bad setting: where it stands, its key, the bad value, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from benchmark.registry import (
    nearest,
)


class ConfigError(ValueError):
    """The user asked for something that can't be run.  The text is one line: where, key, value, what is allowed."""


def validate(
    model: type[BaseModel], content: Mapping[str, Any], origin: Callable[[str], str], *, prefix: str = ""
) -> Any:
    """The settings as a checked model.  Raises ConfigError with where, key, value, what is allowed, and the nearest name."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # A misspelt key is told first: it is why another key is missing.
        first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
        raise ConfigError(_message(model, first, origin, prefix)) from None


def _message(model: type[BaseModel], fault: Mapping[str, Any], origin: Callable[[str], str], prefix: str) -> str:
    location = [str(part) for part in fault["loc"] if not _is_branch(part)]
    key = prefix + ".".join(location)
    where = origin(key.rstrip("."))
    if fault["type"] == "extra_forbidden":
        allowed = sorted(_fields(model, location[:-1]))
        group = (prefix + ".".join(location[:-1])).rstrip(".")
        inside = f" of {group}" if group else ""
        return f"{where}: unknown key {location[-1]!r}{inside}{nearest(location[-1], allowed)}; allowed: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{where}: {key} is missing"
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    text = _PLAINER.get(fault["type"], text)
    value = fault.get("input")
    if isinstance(value, BaseModel | Mapping) and fault["type"] == "value_error":
        return f"{where}: {key.rstrip('.')}: {text}" if key else f"{where}: {text}"
    return f"{where}: {key} = {str(value) if isinstance(value, Path) else repr(value)}: {text}"


_PLAINER = {  # pydantic's kind of fault -> plainer words
    "too_short": "at least one is wanted",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list, as [a, b]",
    "tuple_type": "must be a list, as [a, b]",
    "dict_type": "must be settings by name, as {key: value}",
    "model_type": "must be a name, or settings by name, as {key: value}",
    "path_type": "must be a path",
}


def _is_branch(part: Any) -> bool:
    """Pydantic names the branches of a union in a location: ``AttentionSpec``, ``function-after[…]``, ``str``."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool") or part[:1].isupper())


def _fields(model: type[BaseModel], path: Sequence[str]) -> Iterable[str]:
    for part in path:
        if part.isdigit():
            continue
        inner = _inner_model(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return model.model_fields


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The settings model in ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is None:
        return None
    return next((found for part in get_args(annotation) if (found := _inner_model(part)) is not None), None)
