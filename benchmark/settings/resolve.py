"""Finds all settings of one cell: those of a preset, changed by overrides, and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.interface import EVERY, PRESETS, REFERENCE, PartsSequences
from benchmark.registry import (
    TASKS,
    attention_names,
    load_attention,
    load_task,
    nearest,
    task_folder,
    task_name,
)
from benchmark.settings.hints import right_key
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.models import AttentionSpec, Override, TrainSettings
from benchmark.settings.options import full_options
from benchmark.settings.yaml_files import (
    read_yaml,
)

GROUPS = ("data", "model", "eval", "train")


def presets(task: str, preset: str, backbone: str, pattern: str | None = None) -> dict[str, Any]:
    """Returns the settings of a preset for one backbone and pattern.

    They are those of ``base``, changed by those of the preset.  In each of the two, the part under ``backbones`` for this
    backbone changes the rest, and so does, in each of these parts, the part under ``patterns`` for this pattern.  Without a
    pattern, the parts under ``patterns`` are left out.  Raises ConfigError for an unknown preset.
    """
    path = task_folder(task) / "presets.yaml"
    content = _read_once(path, path.stat().st_mtime_ns if path.is_file() else 0)
    for key in content:
        if key != "base" and key not in PRESETS:
            raise ConfigError(
                f"{path}: unknown preset {key!r}{nearest(key, PRESETS)}; allowed: base, {', '.join(PRESETS)}"
            )
    if preset not in content:
        raise ConfigError(
            f"{path}: has no preset {preset!r}; it has {', '.join(key for key in content if key != 'base')}"
        )
    merged: dict[str, Any] = {}
    for part in (content.get("base", {}), content[preset]):
        for level in (part or {}, (part or {}).get("backbones", {}).get(backbone, {})):
            own = {key: value for key, value in level.items() if key not in ("backbones", "patterns")}
            merged = merge(merged, own, level.get("patterns", {}).get(pattern, {}))
    return merged


@lru_cache(maxsize=64)
def _read_once(path: Path, _changed: int) -> dict[str, Any]:
    """Reads a presets file again only after it has changed, because a plan resolves thousands of cells from a few files."""
    return read_yaml(path)


def merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merges nested mappings into a new one; later mappings win."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merge(result[key], value) if both else value
    return result


class Resolved(NamedTuple):
    """All settings of a cell, checked; ``options`` belong to the attention."""

    settings: Any  # the task's model for this backbone
    train: TrainSettings
    options: dict[str, Any]
    seeds: list[int]

    def plain(self) -> dict[str, Any]:
        """Returns the settings as JSON values, for the hash and the record."""
        return {
            **self.settings.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "options": self.options,
        }


def resolve(
    task: str,
    backbone: str,
    preset: str,
    attention: AttentionSpec,
    overrides: Iterable[Override],
    pattern: str | None = None,
) -> Resolved:
    """Applies the overrides to the preset and checks the result.  Raises ConfigError for the first mistake.

    pattern: of the cell; None for the settings that all patterns of the backbone share.
    """
    merged = presets(task, preset, backbone, pattern)
    seeds = merged.pop("seeds", [0])
    origins: dict[str, str] = {}
    options = [
        Override(option, value, f"options of attention {attention.variant}")
        for option, value in attention.options.items()
    ]
    for override in overrides:
        key = own_key(override, task)
        if key is None:
            continue
        if key.startswith("attentions."):
            _, name, option = _three_parts(override)
            if name == attention.name:
                options.append(Override(option, override.value, override.origin))
            continue
        _place(merged, key, override)
        origins[key] = override.origin
    preset_file = f"tasks/{task}/presets.yaml"

    def origin(key: str) -> str:
        """Returns where a key was set: by an override of the key, of its group or of a key inside it, or in the preset's file."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if (found := origins.get(".".join(parts[:length]))) is not None:
                return found
        inside = [text for other, text in origins.items() if other.startswith(f"{key}.")]
        return inside[-1] if inside else preset_file

    train = validate(TrainSettings, merged.pop("train", {}), origin, prefix="train.")
    settings = validate(load_task(task).settings_of[backbone], merged, origin)
    return Resolved(settings, train, full_options(attention.name, options), seeds)


def check_parallel(
    task: str, backbone: str, pattern: str, attention: str, train: TrainSettings, overrides: Sequence[Override]
) -> None:
    """Raises ConfigError if several processes can't share a training in the way that ``train.parallel`` names."""
    if train.parallel == "data":
        return
    places = [override.origin for override in overrides if own_key(override, task) == "train.parallel"]
    where = f"{places[-1] if places else f'tasks/{task}/presets.yaml'}: train.parallel = {train.parallel!r}"
    if train.parallel == "fsdp":
        if train.precision == "float16":
            raise ConfigError(f"{where}: not with train.precision = 'float16'; allowed: 'bfloat16', 'float32'")
        return
    cls: Any = load_task(task)
    if not issubclass(cls, PartsSequences):
        raise ConfigError(f"{where}: {task} can't cut its batches into parts of sequences; allowed: 'data', 'fsdp'")
    for site in cls.backbones[backbone]:
        name = attention if pattern in (site, EVERY) else REFERENCE
        if site not in _sequence_patterns(name):
            able = [other for other in attention_names() if site in _sequence_patterns(other)]
            raise ConfigError(
                f"{where}: attention {name} at {site} of {backbone} can't attend over a sequence in parts; "
                f"those that can: {', '.join(able) or 'none'}; with others 'data' and 'fsdp' are allowed"
            )


def _sequence_patterns(attention: str) -> Sequence[str]:
    return getattr(load_attention(attention), "sequence_patterns", ())


def own_key(override: Override, task: str) -> str | None:
    """Returns the key without a task's name in front, or None if it names another task than this one.

    Raises ConfigError if it begins with anything else than a task or a group of settings.
    """
    first, _, rest = override.key.partition(".")
    if first in GROUPS or first == "attentions":
        return override.key
    try:
        return rest if task_name(first) == task else None
    except ValueError:
        hint = right_key(override.key, task)
        if hint is not None:
            raise ConfigError(f"{override.origin}: unknown key {override.key!r}; {hint}") from None
        allowed = [*GROUPS, "attentions", *TASKS]
        raise ConfigError(
            f"{override.origin}: unknown key {override.key!r}{nearest(first, allowed)}; it begins with one of "
            f"{', '.join(allowed)}"
        ) from None


def _three_parts(override: Override) -> tuple[str, str, str]:
    parts = override.key.partition("attentions.")[2].split(".")
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"{override.origin}: must be attentions.NAME.OPTION, as attentions.lavo.window=32")
    if parts[0] not in attention_names():
        known = attention_names()
        raise ConfigError(
            f"{override.origin}: attention {parts[0]!r}: unknown{nearest(parts[0], known)}; known: {', '.join(known)}"
        )
    return "attentions", parts[0], parts[1]


def _place(merged: dict[str, Any], key: str, override: Override) -> None:
    """Sets one override in ``merged``; groups on the way are copied, because presets may share them."""
    *path, last = key.split(".")
    if not path or not all(path) or not last:
        raise ConfigError(f"{override.origin}: must name a setting inside {', '.join(GROUPS)}, as train.steps=100")
    group = merged
    for part in path:
        inner = group.get(part, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{override.origin}: {part} is a value, {inner!r}, not a group of settings")
        group[part] = dict(inner)
        group = group[part]
    group[last] = override.value
