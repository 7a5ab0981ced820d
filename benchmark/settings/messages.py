"""Messages about bad settings, each of one line: where the setting stands, its key, its value, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from benchmark.registry import (
    nearest,
)

MOST_CHARACTERS = 300  # of a message, so that it stays readable in a terminal
_MOST_OF_A_VALUE = 60
_SHOWN_VALUES = 6  # a longer list or mapping is named by its length only


class ConfigError(ValueError):
    """Raised when the user asks for something that can't be run.

    The text is one line: where, key, value, what is allowed.
    """


def shortened(text: str, limit: int = _MOST_OF_A_VALUE) -> str:
    """Returns the text on one line of at most ``limit`` characters; the middle of a longer text is left out."""
    text = " ".join(text[: 4 * limit].split()) if len(text) <= 4 * limit else text[: 2 * limit] + text[-2 * limit :]
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}…{text[-(limit - head - 1) :]}"


def one_line(message: str) -> str:
    """Returns a message as users see it: one line without control characters, which a terminal would obey, of limited length."""
    line = " ".join(message.split())
    printable = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    return shortened(printable, MOST_CHARACTERS)


def shown(value: Any) -> str:
    """Returns a value as messages show it, shortened if it is large."""
    if isinstance(value, Mapping | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        small = len(value) <= _SHOWN_VALUES and not any(isinstance(one, Mapping | list | tuple) for one in inner)
        if not small:
            return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
        if isinstance(value, Mapping):
            return shortened("{" + ", ".join(f"{shown(key)}: {shown(one)}" for key, one in value.items()) + "}")
        return shortened(f"[{', '.join(map(shown, value))}]")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_MOST_OF_A_VALUE:
        return "a number of very many digits"  # Python refuses to print some of them
    return shortened(str(value) if isinstance(value, Path) else repr(value))


def validate(
    model: type[BaseModel], content: Mapping[str, Any], origin: Callable[[str], str], *, prefix: str = ""
) -> Any:
    """Returns the settings as a checked model.

    origin: called with a key, returns where the user wrote it.  prefix: stands before every key of a message.
    Raises ConfigError that names place, key, value, what is allowed, and the nearest known name.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # A misspelt key is reported first, because it may be the reason why another key is missing.
        first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
        raise ConfigError(_message(model, content, first, origin, prefix)) from None


def _message(
    model: type[BaseModel], content: Any, fault: Mapping[str, Any], origin: Callable[[str], str], prefix: str
) -> str:
    location = _keys(model, content, fault["loc"])
    key = prefix + ".".join(location)
    where = origin(key.rstrip("."))
    key = shortened(key)
    if fault["type"] == "extra_forbidden":
        allowed = sorted(_fields(model, location[:-1]))
        group = (prefix + ".".join(location[:-1])).rstrip(".")
        inside = f" of {group}" if group else ""
        name = location[-1]
        return f"{where}: unknown key {shown(name)}{inside}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{where}: {key} is missing"
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    text = _PLAINER.get(fault["type"], text)
    value = fault.get("input")
    if isinstance(value, BaseModel | Mapping) and fault["type"] == "value_error":
        return f"{where}: {key.rstrip('.')}: {text}" if key else f"{where}: {text}"
    return f"{where}: {key} = {shown(value)}: {text}"


def _keys(model: type[BaseModel], content: Any, location: Sequence[Any]) -> list[str]:
    """Returns the keys in the location of a fault, without the branches of unions that pydantic also names there.

    A part of the location is a key if the content has it or the model has such a field.  If no part is a key, the last one is
    returned.
    """
    keys: list[str] = []
    for part in location:
        if (isinstance(content, Mapping) and part in content) or (
            isinstance(content, list | tuple) and isinstance(part, int) and part < len(content)
        ):
            content = content[part]
        elif not (isinstance(part, int) or str(part) in _fields(model, keys)):
            continue
        keys.append(str(part))
    return keys or [str(part) for part in location[-1:]]


_PLAINER = {  # pydantic's type of fault -> a plainer message
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


def _fields(model: type[BaseModel], path: Sequence[str]) -> Iterable[str]:
    """Returns the names of the fields of the model at this path of keys; none if there is no model."""
    for part in path:
        if part.isdigit():
            continue
        inner = _inner_model(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return model.model_fields


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Returns the settings model X in an annotation ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is None:
        return None
    return next((found for part in get_args(annotation) if (found := _inner_model(part)) is not None), None)
