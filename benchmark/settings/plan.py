"""Plans the cells of a run, and finds every mistake in the settings before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark.interface import Pattern, Splits, Task, UnsupportedPattern
from benchmark.multihead import MultiHeadAttention
from benchmark.registry import (
    build_attention,
    included_digest,
    load_attention,
    load_task,
    takes_max_length,
    task_declarations,
)
from benchmark.settings.cell import Cell, digest, without_places
from benchmark.settings.choices import check_backbones_and_patterns, choose, choose_attentions, choose_tasks
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, Override, RunSettings
from benchmark.settings.resolve import Resolved, check_parallel, own_key, resolve


def plan_cells(runs: Sequence[tuple[RunSettings, list[Override]]], cache: Path) -> list[Cell]:
    """Returns all cells of these runs, ordered by task, backbone, pattern, seed and attention.

    Raises ConfigError for any mistake in the settings, before anything is trained.
    """
    planner = _Planner(cache)
    cells: list[Cell] = []
    for settings, overrides in runs:
        with settings.located():
            cells += planner.cells(settings, overrides)
    return list({cell.hash: cell for cell in cells}.values())


def check_runs(runs: Sequence[tuple[RunSettings, list[Override]]]) -> int:
    """Checks all settings of these runs without reading data, and returns the number of their cells.  Raises ConfigError."""
    count = 0
    for run, overrides in runs:
        with run.located():
            count += _count_cells(run, overrides)
    return count


def _count_cells(run: RunSettings, overrides: Sequence[Override]) -> int:
    tasks, attentions = choose_tasks(run.tasks), choose_attentions(run.attentions)
    check_backbones_and_patterns(tasks, run.backbones, run.patterns)
    _check_overrides(tasks, attentions, overrides)
    count = 0
    for task in tasks:
        for backbone, patterns in task_declarations(task)["backbones"].items():
            if backbone in choose(run.backbones, [backbone]):
                resolved = [resolve(task, backbone, run.preset, spec, overrides) for spec in attentions]
                seeds = resolved[0].seeds if run.seeds is None else run.seeds
                chosen = choose(run.patterns, patterns)
                for pattern in chosen:
                    for spec, settings in zip(attentions, resolved, strict=True):
                        check_parallel(task, backbone, pattern, spec.name, settings.train, overrides)
                count += len(chosen) * len(attentions) * len(seeds)
    return count


class _Planner:
    """Plans the cells of several runs, and loads each data set once for all cells that use it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._loaded: dict[str, tuple[Task, Splits]] = {}
        self._shapes: dict[str, list[SiteShape]] = {}

    def cells(self, run: RunSettings, overrides: Sequence[Override]) -> Iterable[Cell]:
        """Yields the cells of one run."""
        tasks = choose_tasks(run.tasks)
        attentions = choose_attentions(run.attentions)
        check_backbones_and_patterns(tasks, run.backbones, run.patterns)
        _check_overrides(tasks, attentions, overrides)
        for task in tasks:
            cls: Any = load_task(task)
            for backbone in choose(run.backbones, list(cls.backbones)):
                for pattern in choose(run.patterns, cls.backbones[backbone]):
                    resolved = [resolve(task, backbone, run.preset, spec, overrides) for spec in attentions]
                    seeds = resolved[0].seeds if run.seeds is None else run.seeds
                    for spec, settings in zip(attentions, resolved, strict=True):
                        check_parallel(task, backbone, pattern, spec.name, settings.train, overrides)
                    for seed in seeds:
                        for spec, settings in zip(attentions, resolved, strict=True):
                            yield self._cell(task, backbone, pattern, spec, settings, seed, run)

    def _cell(
        self,
        task: str,
        backbone: str,
        pattern: Any,
        spec: AttentionSpec,
        resolved: Resolved,
        seed: int,
        run: RunSettings,
    ) -> Cell:
        loaded, splits = self._load(task, backbone, resolved, run.data_root)
        resolved = self._settle_options(loaded, backbone, pattern, spec, resolved)
        config = {**resolved.plain(), "limit": run.limit}
        cls: Any = load_attention(spec.name)
        identity = {
            "task": [task, loaded.version],
            "backbone": backbone,
            "pattern": pattern,
            "attention": [spec.name, cls.version],
            "others": ["softmax", load_attention("softmax").version],
            "included": included_digest(spec.name),
            "seed": seed,
            "config": without_places(config),
            "data": splits.fingerprint,
        }
        unsupported = dict(cls.unsupported).get(pattern)
        if unsupported is None:
            unsupported = self._check_builds(loaded, backbone, pattern, spec, resolved)
        return Cell(
            task,
            backbone,
            pattern,
            spec.name,
            spec.variant,
            run.preset,
            seed,
            config,
            digest(identity),
            run.data_root,
            resolved.train.parallel,
            unsupported,
        )

    def _load(self, task: str, backbone: str, resolved: Resolved, root: Path | None) -> tuple[Task, Splits]:
        key = json.dumps([task, backbone, resolved.settings.model_dump(mode="json"), str(root)], sort_keys=True)
        if key not in self._loaded:
            loaded: Task = load_task(task)(resolved.settings, backbone=backbone)
            try:
                self._loaded[key] = loaded, loaded.load_data(root, self.cache)
            except ValueError as error:
                raise ConfigError(f"{task}: {error}") from error
        return self._loaded[key]

    def _settle_options(
        self, task: Task, backbone: str, pattern: str, spec: AttentionSpec, resolved: Resolved
    ) -> Resolved:
        """Fills in the options whose defaults depend on head_dim, if the attention declares them by ``settled_options``.

        Without this a default and the same value given by name would be two cells.
        """
        settle = getattr(load_attention(spec.name), "settled_options", None)
        widths = {shape.head_dim for shape in self._site_shapes(task, backbone) if shape.pattern == pattern}
        if settle is None or len(widths) != 1:
            return resolved
        return resolved._replace(options=dict(sorted(settle(resolved.options, widths.pop()).items())))

    def _site_shapes(self, task: Task, backbone: str) -> list[SiteShape]:
        key = json.dumps([str(id(task)), backbone], sort_keys=True)
        if key not in self._shapes:
            self._shapes[key] = site_shapes(task)
        return self._shapes[key]

    def _check_builds(
        self, task: Task, backbone: str, pattern: str, spec: AttentionSpec, resolved: Resolved
    ) -> str | None:
        """Builds the attention in each size that the backbone asks for.

        Returns the reason if the attention refuses the pattern, else None.  Raises ConfigError if it can't be built.
        """
        shapes = [shape for shape in self._site_shapes(task, backbone) if shape.pattern == pattern]
        if not shapes:
            raise ConfigError(f"{task.name}: with these settings {backbone} has no attention of the pattern {pattern}")
        for shape in set(shapes):
            options = dict(resolved.options)
            cls = load_attention(spec.name)
            if takes_max_length(cls):
                options.setdefault("max_length", shape.max_length)
                if options["max_length"] < shape.max_length:
                    raise ConfigError(
                        f"attention {spec.name} at {pattern} of {backbone}: max_length {options['max_length']} is too "
                        f"small: lengths go up to {shape.max_length}; leave it out, and it is {shape.max_length}"
                    )
            try:
                build_attention(
                    spec.name, pattern=pattern, num_heads=shape.num_heads, head_dim=shape.head_dim, **options
                )
            except UnsupportedPattern as error:
                return str(error)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"attention {spec.name} at {pattern} of {backbone}: {error}") from error
            except Exception as error:  # the constructor of anyone's attention may raise anything
                kind = type(error).__name__
                raise ConfigError(f"attention {spec.name} at {pattern} of {backbone}: {kind}: {error}") from error
        return None


@dataclass(frozen=True)
class SiteShape:
    """The pattern and sizes of one attention layer that a backbone asks for."""

    pattern: str
    num_heads: int
    head_dim: int
    max_length: int


def site_shapes(task: Task) -> list[SiteShape]:
    """Returns the attention layers that a task's backbone asks for.

    The backbone is built on the meta device, which allocates no memory.
    """
    shapes: list[SiteShape] = []

    def record(pattern: Pattern, *, embed_dim: int, num_heads: int, max_length: int, **named: Any) -> nn.Module:
        attention = build_attention("softmax", pattern=pattern, num_heads=num_heads, head_dim=embed_dim // num_heads)
        shapes.append(SiteShape(pattern, num_heads, embed_dim // num_heads, max_length))
        return MultiHeadAttention(embed_dim, num_heads, attention, **named)

    try:
        with torch.device("meta"):
            task.build_model(record)
    except ValueError as error:
        raise ConfigError(f"{task.name}: {error}") from error
    return shapes


def _check_overrides(tasks: Sequence[str], attentions: Sequence[AttentionSpec], overrides: Sequence[Override]) -> None:
    """Raises ConfigError for an override that no cell of the run would read."""
    for override in overrides:
        keys = [own_key(override, task) for task in tasks]
        if all(key is None for key in keys):
            raise ConfigError(
                f"{override.origin}: {override.key.partition('.')[0]} is not among the tasks of this run, {', '.join(tasks)}"
            )
        if override.key.startswith("attentions."):
            name = override.key.split(".")[1]
            known = [spec.name for spec in attentions]
            if name not in known:
                raise ConfigError(
                    f"{override.origin}: {name} is not among the attentions of this run, {', '.join(known)}"
                )
