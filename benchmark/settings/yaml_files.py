"""Settings from text: YAML files, run files, and the assignments of ``--set``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.models import Override, RunFile, RunSettings


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; plain YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # a merge key, <<, is resolved by the base class
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str | int) else id(key_node))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping.  Raises ConfigError with file and line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; a YAML file is wanted") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_yaml_fault(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: nested too deeply") from None
    if content is None:
        raise ConfigError(f"{path}: empty; settings are wanted")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be 'key: value' lines, got {type(content).__name__}")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: key {key!r}: a key must be text")
    return content


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def parse_assignment(text: str, flag: str = "--set") -> Override:
    """An assignment ``key=value`` of --set.  The value is YAML: ``1e-3`` is a number, ``null`` is None."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        example = "train.steps=100" if flag == "--set" else "lavo.window=32"
        raise ConfigError(f"{flag} {text}: must be key=value, as in {flag} {example}")
    try:
        parsed = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"{flag} {text}: the value is not valid YAML: {_yaml_fault(error)}") from None
    return Override(key.strip(), _number(parsed), f"{flag} {text}")


def _number(value: Any) -> Any:
    """The number in texts such as ``1e-3``, which YAML 1.1 reads as text because they have no dot."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip()[:1] in "+-.0123456789" else value
    except ValueError:
        return value


def read_run_file(path: Path) -> list[tuple[RunSettings, list[Override]]]:
    """The runs of a file, each with its overrides.  Raises ConfigError."""
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
