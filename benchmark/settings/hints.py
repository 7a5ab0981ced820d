"""Names the right key where a user wrote a setting or an option without the words in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from benchmark.registry import TASKS, attention_names, attention_options, load_attention, load_task, task_name
from benchmark.settings.models import TrainSettings

_MOST = 3  # right keys that a message names


def right_key(key: str, task: str | None = None, *, prefix: str = "attentions.") -> str | None:
    """Returns what the key is and how to write it, as ``steps is a setting of train: write train.steps``; None if nothing fits.

    task: whose settings are searched, beside those of training; None for every task.
    prefix: what stands before the name of an attention; ``--vary`` needs nothing there.
    """
    first, _, rest = key.partition(".")
    if first in attention_names():
        return f"{first} is an attention: write {prefix}{key if rest else f'{first}.OPTION'}"
    if not rest and any(group == first for group, _ in _settings(task)):
        return f"{first} is a group of settings: write {first}.NAME"
    if rest:
        return None
    having = [name for name in attention_names() if first in attention_options(load_attention(name))]
    if having:
        keys = [f"{prefix}{name}.{first}" for name in having]
        return f"{first} is an option of {_listed(having)}: write {_listed(keys, 'or')}"
    groups = list(dict.fromkeys(group for group, name in _settings(task) if name == first))
    if groups:
        return f"{first} is a setting of {_listed(groups)}: write {_listed([f'{group}.{first}' for group in groups], 'or')}"
    return None


def _settings(task: str | None) -> Iterator[tuple[str, str]]:
    """Yields (group, name) of every setting, those of training first."""
    yield from (("train", name) for name in TrainSettings.model_fields)
    for name in TASKS if task is None else [task_name(task)]:
        models: dict[str, Any] = load_task(name).settings_of
        for model in models.values():
            for group, field in model.model_fields.items():
                inner = field.annotation
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from ((group, own) for own in inner.model_fields)


def _listed(names: list[str], joint: str = "and") -> str:
    shown = [*names[:_MOST], "…"] if len(names) > _MOST else names
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {joint} {shown[-1]}"
