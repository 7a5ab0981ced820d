"""Checks the tasks, attentions, backbones and patterns that a run names against those that exist."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.interface import EVERY, PATTERNS
from benchmark.registry import (
    TASKS,
    attention_names,
    nearest,
    sites_of,
    task_declarations,
    task_name,
)
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec


def choose_tasks(names: Sequence[str]) -> list[str]:
    """Returns the long names of these tasks; ``all`` stands for every task."""
    chosen = list(TASKS) if "all" in names else [task_name(name) for name in names]
    return list(dict.fromkeys(chosen))


def choose_attentions(choices: Sequence[str | AttentionSpec]) -> list[AttentionSpec]:
    """Returns the attentions to compare; ``all`` stands for every known one.

    Raises ConfigError for an unknown name, and if two different attentions would have the same name in tables.
    """
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
    """Returns the allowed names that are wanted; all allowed ones if ``wanted`` is None."""
    if wanted is None:
        return list(allowed)
    return [name for name in allowed if name in wanted]


def check_backbones_and_patterns(
    tasks: Sequence[str], backbones: Sequence[str] | None, patterns: Sequence[str] | None
) -> None:
    """Raises ConfigError for a backbone or pattern that none of the tasks has."""
    table = {task: task_declarations(task)["backbones"] for task in tasks}
    of_tasks = "" if len(tasks) == len(TASKS) else f" in {', '.join(tasks)}"
    known_backbones = [backbone for task in tasks for backbone in table[task]]
    for backbone in backbones or []:
        if backbone not in known_backbones:
            raise ConfigError(
                f"backbone {backbone!r}: unknown{of_tasks}{nearest(backbone, known_backbones)}; "
                f"allowed: {', '.join(known_backbones)}"
            )
    known = {
        pattern
        for task in tasks
        for name in table[task]
        for pattern in sites_of(task, name)
        if not backbones or name in backbones
    }
    names = (*PATTERNS, EVERY)
    for pattern in patterns or []:
        if pattern not in names:
            raise ConfigError(f"pattern {pattern!r}: unknown{nearest(pattern, names)}; allowed: {', '.join(names)}")
        if pattern not in known:
            allowed = [name for name in names if name in known]
            raise ConfigError(
                f"pattern {pattern!r}: no backbone of {', '.join(tasks)} has it; allowed: {', '.join(allowed)}"
            )
