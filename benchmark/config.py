"""Settings as text becomes them: presets, run files and ``--set``; every message about a bad one is made here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator

from benchmark.interface import PATTERNS, PRESETS
from benchmark.registry import (
    TASKS,
    attention_names,
    attention_options,
    check_name,
    load_attention,
    load_task,
    nearest,
    task_declarations,
    task_folder,
    task_name,
)
from benchmark.settings import Settings

GROUPS = ("data", "model", "eval", "train")


class ConfigError(ValueError):
    """What the user wrote can't be run; the text is one line: where, key, value, what is allowed."""


class TrainSettings(Settings):
    """How any task is trained.  A step is one update of the weights, whatever the accumulation."""

    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=1)  # examples a step, of all processes and micro-batches together
    micro_batch_size: int | None = Field(default=None, ge=1)  # examples at once: memory, not results
    eval_batch_size: int = Field(default=32, ge=1)
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt", "exponential"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final_ratio: float = Field(default=0.0, ge=0, le=1)  # the floor, as a share of the peak
    decay: float = Field(default=0.5, gt=0, le=1)  # of schedule exponential: the factor every decay_epochs
    decay_epochs: float = Field(default=1, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    eval_every: int | None = Field(default=None, ge=1)  # steps; each epoch where left out
    patience: int | None = Field(default=None, ge=1)  # evaluations without a better one
    checkpoint_every: int = Field(default=200, ge=1)  # steps between resumable checkpoints
    # What each of several processes (torchrun) takes: whole examples of a batch, or a part of every sequence of it.  Left out
    # of dumps, and so of a cell's hash: like the number of processes it says how a result is computed, not which.
    parallel: Literal["data", "sequence"] = Field(default="data", exclude=True)

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("two numbers from 0 to below 1")
        return betas

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs}: give exactly one of the two, null for the other"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is larger than batch_size {self.batch_size}")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than steps {self.steps}")
        return self


class AttentionSpec(Settings):
    """One contender of a run file: an attention, its options, and what tables call it."""

    name: str
    label: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, content: Any) -> Any:
        """``lavo`` is short for ``{name: lavo}``."""
        return {"name": content} if isinstance(content, str) else content

    @field_validator("label")
    @classmethod
    def _label_is_a_name(cls, label: str | None) -> str | None:
        return label if label is None else check_name(label, "label")

    @property
    def variant(self) -> str:
        """What tables call it."""
        return self.label or self.name


class RunSettings(Settings):
    """What a run file says; on the command line the options of the same names."""

    tasks: list[str] = Field(default=["all"], min_length=1)
    backbones: list[str] | None = Field(default=None, min_length=1)
    patterns: list[str] | None = Field(default=None, min_length=1)
    attentions: list[AttentionSpec] = Field(default=[AttentionSpec(name="all")], min_length=1)
    preset: str = "quick"
    seeds: list[int] | None = None
    limit: int | None = Field(default=None, ge=1)
    data_root: Path | None = None
    set: dict[str, Any] = {}
    _origin: str = PrivateAttr(default="")

    @property
    def origin(self) -> str:
        """The file, and the number of the run in it; nothing for a run that stands on the command line."""
        return self._origin

    @contextmanager
    def located(self) -> Iterator[None]:
        """Faults found inside name the file; those that already name an option, or the file, stay as they are."""
        try:
            yield
        except ValueError as error:
            if not self.origin or str(error).startswith((self.origin, "-")):
                raise
            raise ConfigError(f"{self.origin}: {error}") from error

    def with_origin(self, origin: str) -> RunSettings:
        """The same run, said to stand there."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and (not seeds or any(seed < 0 or seed >= 2**32 for seed in seeds)):
            raise ValueError("one or more whole numbers from 0 to 2^32 - 1")
        return None if seeds is None else list(dict.fromkeys(seeds))

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"unknown{nearest(preset, PRESETS)}; allowed: {', '.join(PRESETS)}")
        return preset

    @field_validator("data_root")
    @classmethod
    def _root_exists(cls, root: Path | None) -> Path | None:
        if root is not None and not root.is_dir():
            raise ValueError("no such folder; one with lm/, lstf/, … is wanted")
        return root


class RunFile(RunSettings):
    """A YAML file: one run, or several that share what stands beside ``runs``."""

    runs: list[dict[str, Any]] = []


class Override(NamedTuple):
    """A setting that replaces the preset's, and where the user wrote it."""

    key: str
    value: Any
    origin: str


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where plain YAML keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<, which is resolved below
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
    """``key=value`` of --set; the value is YAML, so ``1e-3`` is a number and ``null`` is nothing."""
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
    """YAML 1.1 reads ``1e-3`` (no dot) as text; users mean the number."""
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


def presets(task: str, preset: str, backbone: str) -> dict[str, Any]:
    """The settings of a preset as its file says them: ``base``, the preset, and both once more for the backbone."""
    path = task_folder(task) / "presets.yaml"
    content = read_yaml(path)
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
        own = {key: value for key, value in (part or {}).items() if key != "backbones"}
        merged = merge(merged, own, (part or {}).get("backbones", {}).get(backbone, {}))
    return merged


def merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other, the later one winning; inputs are left as they are."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merge(result[key], value) if both else value
    return result


class Resolved(NamedTuple):
    """All settings of a cell, checked; ``options`` are the attention's."""

    settings: Any  # the task's model for this backbone
    train: TrainSettings
    options: dict[str, Any]
    seeds: list[int]

    def plain(self) -> dict[str, Any]:
        """As JSON has it, for the hash and the record."""
        return {
            **self.settings.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "options": self.options,
        }


def resolve(task: str, backbone: str, preset: str, attention: AttentionSpec, overrides: Iterable[Override]) -> Resolved:
    """Preset and overrides made one and checked.  Raises ConfigError for the first thing that is wrong."""
    merged = presets(task, preset, backbone)
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
        """Where a key was set: by the user (itself, or what it is part of), else by the preset."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if (found := origins.get(".".join(parts[:length]))) is not None:
                return found
        inside = [text for other, text in origins.items() if other.startswith(f"{key}.")]
        return inside[-1] if inside else preset_file

    train = validate(TrainSettings, merged.pop("train", {}), origin, prefix="train.")
    settings = validate(load_task(task).settings[backbone], merged, origin)
    return Resolved(settings, train, full_options(attention.name, options), seeds)


def check_parallel(
    task: str, backbone: str, pattern: str, attention: str, train: TrainSettings, overrides: Sequence[Override]
) -> None:
    """Raises ConfigError where a cell is to be trained with its sequences in parts, and something in it can't be."""
    if train.parallel == "data":
        return
    places = [override.origin for override in overrides if own_key(override, task) == "train.parallel"]
    where = f"{places[-1] if places else f'tasks/{task}/presets.yaml'}: train.parallel = {train.parallel!r}"
    cls: Any = load_task(task)
    if not hasattr(cls, "part_of"):
        raise ConfigError(f"{where}: {task} can't cut its batches into parts of sequences; allowed: 'data'")
    for site in cls.backbones[backbone]:
        name = attention if site == pattern else "softmax"
        if site not in _sequence_patterns(name):
            able = [other for other in attention_names() if site in _sequence_patterns(other)]
            raise ConfigError(
                f"{where}: attention {name} at {site} of {backbone} can't attend over a sequence in parts; "
                f"those that can: {', '.join(able) or 'none'}; with others 'data' is allowed"
            )


def _sequence_patterns(attention: str) -> Sequence[str]:
    return getattr(load_attention(attention), "sequence_patterns", ())


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
    if getattr(cls, "needs_max_length", False) and "max_length" not in options:
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


def own_key(override: Override, task: str) -> str | None:
    """The key without a task in front; None where it is meant for another task."""
    first, _, rest = override.key.partition(".")
    if first in GROUPS or first == "attentions":
        return override.key
    try:
        return rest if task_name(first) == task else None
    except ValueError:
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


def validate(
    model: type[BaseModel], content: Mapping[str, Any], origin: Callable[[str], str], *, prefix: str = ""
) -> Any:
    """The checked model.  Raises ConfigError: where, key, value, what is allowed, the nearest name."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # A misspelt key explains why another one is missing, not the other way round.
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


_PLAINER = {  # than pydantic's words
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


def choose_tasks(names: Sequence[str]) -> list[str]:
    """Long names; ``all`` is every task."""
    chosen = list(TASKS) if "all" in names else [task_name(name) for name in names]
    return list(dict.fromkeys(chosen))


def choose_attentions(choices: Sequence[str | AttentionSpec]) -> list[AttentionSpec]:
    """Contenders; ``all`` is every known attention.  Raises ConfigError where two would share a row of the tables."""
    known = attention_names()
    chosen: list[AttentionSpec] = []
    for choice in choices:
        spec = choice if isinstance(choice, AttentionSpec) else AttentionSpec(name=choice)
        if spec.name == "all":
            chosen += [AttentionSpec(name=name) for name in known]
        elif spec.name in known:
            chosen.append(spec)
        else:
            raise ConfigError(
                f"attention {spec.name!r}: unknown{nearest(spec.name, known)}; known: {', '.join(known)}, all"
            )
    by_variant: dict[str, AttentionSpec] = {}
    for spec in chosen:
        if by_variant.setdefault(spec.variant, spec) != spec:
            raise ConfigError(f"attentions: two different ones are called {spec.variant!r}; give one a label")
    return list(by_variant.values())


def choose(wanted: Sequence[str] | None, allowed: Sequence[str]) -> list[str]:
    """The wanted ones of these, all where nothing was said."""
    if wanted is None:
        return list(allowed)
    return [name for name in allowed if name in wanted]


def check_backbones_and_patterns(
    tasks: Sequence[str], backbones: Sequence[str] | None, patterns: Sequence[str] | None
) -> None:
    """Raises ConfigError for a backbone or pattern that none of the tasks has."""
    table = {task: task_declarations(task)["backbones"] for task in tasks}
    known_backbones = [backbone for task in tasks for backbone in table[task]]
    for backbone in backbones or []:
        if backbone not in known_backbones:
            raise ConfigError(
                f"backbone {backbone!r}: not one of {', '.join(tasks)}{nearest(backbone, known_backbones)}; "
                f"allowed: {', '.join(known_backbones)}"
            )
    known = {
        pattern
        for task in tasks
        for name, has in table[task].items()
        for pattern in has
        if not backbones or name in backbones
    }
    for pattern in patterns or []:
        if pattern not in PATTERNS:
            raise ConfigError(
                f"pattern {pattern!r}: unknown{nearest(pattern, PATTERNS)}; allowed: {', '.join(PATTERNS)}"
            )
        if pattern not in known:
            allowed = [name for name in PATTERNS if name in known]
            raise ConfigError(
                f"pattern {pattern!r}: no backbone of {', '.join(tasks)} has it; allowed: {', '.join(allowed)}"
            )
