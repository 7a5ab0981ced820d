"""Reads settings from text: YAML files, run files, and the assignments of ``--set``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmark.settings.messages import ConfigError, shortened, shown, validate
from benchmark.settings.models import Override, RunFile, RunSettings

MOST_BYTES = 1 << 20  # of a file
# Values in a file.  Those of an alias count each time it is used, because 500 bytes of nested aliases can give billions.
MOST_VALUES = 10_000


class _StrictLoader(yaml.SafeLoader):
    """Loads YAML of plain values, and refuses a key that is given twice, of which PyYAML would silently keep the last."""

    yaml_implicit_resolvers = {  # dates stay text, because no setting is a date
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the next node of the text.  Refuses a long file, because PyYAML needs half a minute for a megabyte."""
        self.num_nodes += 1
        if self.num_nodes > 2 * MOST_VALUES:  # twice, because keys are nodes too
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"over {MOST_VALUES:,} values", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns the node's value.  A scalar that doesn't fit its type is reported as a fault of the file."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
            if isinstance(error, yaml.YAMLError):
                raise
            text = shown(node.value) if isinstance(node.value, str) else "a value"
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{text} is not of type {kind}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping; refuses repeated keys."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "a mapping is wanted", node.start_mark)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # a merge key, <<, is resolved by the base class
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                fault = f"key {shown(key)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
            seen.add(key if isinstance(key, str | int) else id(key_node))
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolves merge keys, up to a limit."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"over {MOST_VALUES:,} merged keys", node.start_mark)


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML into text, numbers, booleans, None, lists and mappings.  Raises ConfigError that begins with ``where``."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {_yaml_fault(error)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: nested too deeply") from None
    _check_plain(content, where)
    return content


def _check_plain(content: Any, where: str) -> None:
    """Raises ConfigError for a value of another type, and for more values than any run needs."""
    waiting, count = [("", content)], 0
    while waiting:
        key, value = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ConfigError(
                f"{where}: over {MOST_VALUES:,} values (aliases counted each time); settings have some hundred"
            )
        if isinstance(value, dict):
            for name, inner in value.items():
                if not isinstance(name, str):
                    raise ConfigError(f"{where}: {shortened(key) or 'key'} {shown(name)}: a key must be text")
                waiting.append((f"{key[:200]}.{name}".lstrip("."), inner))
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value]
        elif not isinstance(value, str | int | float | None):
            kind = type(value).__name__
            raise ConfigError(
                f"{where}: {shortened(key) or 'value'}: is a {kind}; numbers, text, lists and mappings are allowed"
            )


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.  Raises ConfigError with file and line."""
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; a file of settings has at most {MOST_BYTES:,}")
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; a YAML file is wanted") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if content is None:
        raise ConfigError(f"{path}: empty; settings are wanted")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be 'key: value' lines, got {type(content).__name__}")
    return content


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def parse_assignment(text: str, flag: str = "--set") -> Override:
    """Parses an assignment ``key=value`` of --set.  The value is YAML: ``1e-3`` is a number, ``"2"`` is text, ``null`` is None."""
    key, equals, value = text.partition("=")
    origin = f"{flag} {shortened(text, 80)}"
    if not equals or not key.strip():
        example = "train.steps=100" if flag == "--set" else "lavo.window=32"
        raise ConfigError(f"{origin}: must be key=value, as in {flag} {example}")
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{origin}: longer than {MOST_BYTES:,} characters")
    parsed = parse_yaml(value, origin) if value.strip() else ""
    quoted = value.strip()[:1] in ("'", '"')
    return Override(key.strip(), parsed if quoted else _number(parsed), origin)


def _number(value: Any) -> Any:
    """Converts texts such as ``1e-3``, which YAML 1.1 doesn't read as a number because they have no dot."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip()[:1] in "+-.0123456789" else value
    except ValueError:
        return value


def read_run_file(path: Path) -> list[tuple[RunSettings, list[Override]]]:
    """Returns the runs of a file, each with its overrides.  Raises ConfigError."""
    content = read_yaml(path)
    whole = validate(RunFile, content, lambda _: str(path))
    shared = {key: value for key, value in content.items() if key != "runs"}
    runs: list[tuple[RunSettings, list[Override]]] = []
    for number, own in enumerate(whole.runs or [{}], start=1):
        where = f"{path}, run {number}" if whole.runs else str(path)
        alone: RunSettings = validate(RunSettings, own, lambda _, where=where: where)  # type: ignore[misc]
        settings: RunSettings = validate(
            RunSettings,
            {**shared, **own, "set": {**whole.set, **alone.set}},
            lambda _, where=where: where,  # type: ignore[misc]
        )
        overrides = [Override(key, value, f"{where}: set.{key}") for key, value in settings.set.items()]
        runs.append((settings.with_origin(where), overrides))
    return runs
