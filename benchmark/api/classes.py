"""Registers an attention that is given as a Python class, so that worker processes can build it too.

The class is copied into a file of the results folder, ``sources/NAME.DIGEST.py``, which is then included like the file of
``--include-path``.  So the hash of a cell covers the source, and the file shows later what was run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import registry
from benchmark.api.definitions import snake_case, standing_alone
from benchmark.files import write_bytes
from benchmark.results import SOURCES
from benchmark.settings.command import process_state_kept
from benchmark.settings.messages import ConfigError

_HEADER = '"""The attention {name}, copied by benchmark.run from the Python class {cls}."""\n\n'
_FOOTER = """

from benchmark.registry import register_attention

register_attention({name!r})({cls})
"""


class Named(NamedTuple):
    """The attentions of a run by name, and the files that register those among them that were classes."""

    attentions: list[Any]
    files: list[Path]


def by_name(attentions: Sequence[Any], output: Path) -> Named:
    """Replaces each class, also as ``name`` of a mapping, by the name under which it is registered.

    output: the folder of results, which gets the sources.
    Raises ConfigError for a class that can't be registered, and for two classes of one name.
    """
    named: list[Any] = []
    files: list[Path] = []
    classes: dict[str, type] = {}
    decorated = registry.without_file()
    for attention in attentions:
        cls = attention.get("name") if isinstance(attention, dict) else attention
        # A worker doesn't know what was registered by the decorator in this process alone.
        for own in decorated if cls == "all" else [cls] if cls in decorated else []:
            files += [path for path in register_class(decorated[own], output)[1:] if path is not None]
        if isinstance(cls, type):
            name, path = register_class(cls, output)
            if classes.setdefault(name, cls) is not cls:
                raise ConfigError(f"attentions: two classes would be called {name!r}; rename one")
            files += [path] if path is not None else []
            named.append({**attention, "name": name} if isinstance(attention, dict) else name)
        elif isinstance(cls, str):
            named.append(attention)
        else:
            raise ConfigError(f"attentions: {cls!r:.60}: must be a name or a class")
    return Named(named, list(dict.fromkeys(files)))


def register_class(cls: type, output: Path) -> tuple[str, Path | None]:
    """Returns the name of the class and the file that registers it; no file if it is in the table or comes from a package.

    Raises ConfigError for a name that is taken, and for a class whose source can't be copied.
    """
    known = registry.name_of_class(cls)
    if known is not None and (registry.is_built_in(known) or registry.is_installed(known)):
        return known, None
    included = registry.included_path(known) if known is not None else None
    if included is not None and included.parent.name != SOURCES:
        return str(known), included
    name = known or registry.check_name(snake_case(cls.__name__))
    registry.check_declarations(name, cls)
    if name in registry.attention_names() and known is None and not _is_former_version(name):
        raise ConfigError(f"attention {name!r}: there already is one of this name; rename the class {cls.__name__}")
    text = _HEADER.format(name=name, cls=cls.__name__) + standing_alone(cls)
    content = (text.rstrip() + "\n" + _FOOTER.format(name=name, cls=cls.__name__)).encode()
    path = output.resolve() / SOURCES / f"{name}.{hashlib.sha256(content).hexdigest()[:12]}.py"
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
    with process_state_kept():
        registry.include_copy(path, name, cls)
    return name, path


def _is_former_version(name: str) -> bool:
    """Returns whether the name was given to a class in the same way before, as in an earlier run of a notebook's cell."""
    path = registry.included_path(name)
    return path is not None and path.parent.name == SOURCES
