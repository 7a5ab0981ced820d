"""Plans the cells of a run, and finds every mistake in the settings before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmark.files import made_once
from benchmark.interface import EVERY, REFERENCE, Pattern, Splits, Task, UnsupportedPattern, missing_methods
from benchmark.multihead import MultiHeadAttention
from benchmark.registry import (
    build_attention,
    included_digest,
    load_attention,
    make_task,
    sites_of,
    streamed_patterns,
    takes_max_length,
    task_declarations,
)
from benchmark.results import Versions
from benchmark.settings.cell import Cell, cell_hash, digest, without_places
from benchmark.settings.choices import check_backbones_and_patterns, choose, choose_attentions, choose_tasks
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, Override, RunSettings
from benchmark.settings.resolve import Resolved, check_parallel, own_key, resolve
from benchmark.settings.tuned import RateKey, Rates


def plan_cells(
    runs: Sequence[tuple[RunSettings, list[Override]]], cache: Path, rates: Rates | None = None
) -> list[Cell]:
    """Returns all cells of these runs, ordered by task, backbone, pattern, seed and attention.

    rates: learning rates that were tuned; they count where no override sets ``train.learning_rate``.
    Raises ConfigError for any mistake in the settings, before anything is trained.
    """
    planner = Planner(cache, rates or Rates())
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
            count += sum(1 for _ in planned(run, overrides))
    return count


class Planned(NamedTuple):
    """One training that a run asks for, before its data are read."""

    task: str
    backbone: str
    pattern: str
    spec: AttentionSpec
    settings: Resolved
    seed: int
    sites: tuple[str, ...]  # whose tables the record serves


def planned(run: RunSettings, overrides: Sequence[Override]) -> Iterator[Planned]:
    """Yields the trainings of one run, each once, ordered by task, backbone, pattern, seed and attention.

    Raises ConfigError for a mistake in the settings.
    """
    tasks, attentions = choose_tasks(run.tasks), choose_attentions(run.attentions)
    check_backbones_and_patterns(tasks, run.backbones, run.patterns)
    _check_overrides(tasks, attentions, overrides)
    seen: set[tuple[Any, ...]] = set()
    for task in tasks:
        for backbone in choose(run.backbones, list(task_declarations(task)["backbones"])):
            for pattern in choose(run.patterns, sites_of(task, backbone)):
                for one in _at_site(task, backbone, pattern, run, attentions, overrides):
                    key = (task, backbone, one.pattern, one.sites, one.spec.variant, one.seed)
                    if key not in seen:
                        seen.add(key)
                        yield one


def _at_site(
    task: str,
    backbone: str,
    pattern: str,
    run: RunSettings,
    attentions: Sequence[AttentionSpec],
    overrides: Sequence[Override],
) -> Iterable[Planned]:
    found: list[Planned] = []
    for spec in attentions:
        settings = resolve(task, backbone, run.preset, spec, overrides, pattern)
        check_parallel(task, backbone, pattern, spec.name, settings.train, overrides)
        sites = _shared_sites(task, backbone, pattern, spec, run.preset, overrides, settings)
        name = pattern if sites == (pattern,) and not _is_shared(task, backbone, spec) else EVERY
        seeds = settings.seeds if run.seeds is None else run.seeds
        if run.seeds is None and is_exact(spec.name) and spec.name != REFERENCE:
            seeds = seeds[:1]  # it shows how much rounding changes, for which one seed is enough
        found += [Planned(task, backbone, name, spec, settings, seed, sites) for seed in seeds]
    order = {seed: place for place, seed in enumerate(dict.fromkeys(one.seed for one in found))}
    return sorted(found, key=lambda one: order[one.seed])


def _shared_sites(
    task: str,
    backbone: str,
    pattern: str,
    spec: AttentionSpec,
    preset: str,
    overrides: Sequence[Override],
    settings: Resolved,
) -> tuple[str, ...]:
    """Returns the sites that one training serves: for an exact attention, all whose settings are equal."""
    if not _is_shared(task, backbone, spec):
        return (pattern,)
    return tuple(
        site
        for site in sites_of(task, backbone)
        if site == pattern or resolve(task, backbone, preset, spec, overrides, site).plain() == settings.plain()
    )


def _is_shared(task: str, backbone: str, spec: AttentionSpec) -> bool:
    """Returns whether the attention makes the same model at every site of the backbone."""
    sites = sites_of(task, backbone)
    able = not any(site in dict(load_attention(spec.name).unsupported) for site in sites)
    return EVERY in sites and able and is_exact(spec.name)


def is_exact(attention: str) -> bool:
    """Returns whether the attention declares that it computes softmax attention exactly."""
    return bool(getattr(load_attention(attention), "exact", False))


class Planner:
    """Plans the cells of several runs, and loads each data set once for all cells that use it."""

    def __init__(self, cache: Path, rates: Rates) -> None:
        self.cache, self.rates = cache, rates
        self._loaded: dict[str, tuple[Task, Splits]] = {}
        self._shapes: dict[str, list[SiteShape]] = {}

    def cells(self, run: RunSettings, overrides: Sequence[Override]) -> Iterable[Cell]:
        """Yields the cells of one run."""
        for one in planned(run, overrides):
            if any(own_key(override, one.task) == "train.learning_rate" for override in overrides):
                yield replace(self.cell(one, run), rate_from="set")
            else:
                rate = self.rates.chosen(one.task, self.rate_key(one, run))
                cell = self.cell(one, run, learning_rate=rate)
                yield cell if rate is None else replace(cell, rate_from="tuned")

    def rate_key(self, one: Planned, run: RunSettings) -> RateKey:
        """Returns what must be equal for a tuned rate to be used.  Exact attentions share the rates of softmax."""
        loaded, splits = self._load(one, run.data_root)
        one = self._settled(one, loaded)
        exact = is_exact(one.spec.name)
        attention = REFERENCE if exact else one.spec.name
        settings = one.settings._replace(options={}) if exact else one.settings
        versions = [loaded.version, load_attention(attention).version]
        # Left out where they are not set, so that the keys of before stay.
        others = {"limit": run.limit, "included": included_digest(attention)}
        return RateKey.of(
            backbone=one.backbone,
            sites=one.sites,
            attention=attention,
            config={**settings.plain(), "versions": versions, **{k: v for k, v in others.items() if v is not None}},
            fingerprint=splits.fingerprint,
        )

    def cell(self, one: Planned, run: RunSettings, *, learning_rate: float | None = None) -> Cell:
        """Returns the cell of one training; ``learning_rate`` replaces that of its settings."""
        task, backbone, pattern, spec = one.task, one.backbone, one.pattern, one.spec
        loaded, splits = self._load(one, run.data_root)
        one = self._settled(one, loaded)
        config = {**one.settings.plain(), "limit": run.limit}
        if learning_rate is not None:
            config["train"] = {**config["train"], "learning_rate": learning_rate}
        cls: Any = load_attention(spec.name)
        reference = load_attention(REFERENCE).version
        versions = Versions(loaded.version, cls.version, reference, included_digest(spec.name))
        names = (task, backbone, pattern, spec.name, one.seed)
        plain = without_places(config)
        return Cell(
            task,
            backbone,
            pattern,
            spec.name,
            spec.variant,
            run.preset,
            one.seed,
            config,
            cell_hash(*names, versions=versions, config=plain, fingerprint=splits.fingerprint),
            run.data_root,
            one.sites,
            parallel=one.settings.train.parallel,
            unsupported=self._unsupported(loaded, one),
            versions=versions,
        )

    def _unsupported(self, task: Task, one: Planned) -> str | None:
        """Returns why the attention can't do the pattern, or one of the backbone's if the pattern is ``every``; else None."""
        cls = load_attention(one.spec.name)
        declared = dict(cls.unsupported)
        patterns = task.backbones[one.backbone] if one.pattern == EVERY else (one.pattern,)
        for pattern in patterns:
            if pattern in declared:
                return declared[pattern] if len(patterns) == 1 else f"{pattern}: {declared[pattern]}"
        refused = self._check_builds(task, one)
        if refused is not None:
            return refused
        for pattern in patterns:
            missing = missing_methods(cls, pattern) if pattern in streamed_patterns(one.task, one.backbone) else ()
            if missing:
                return f"{one.backbone} is read piece by piece in {pattern}, but it has no {', no '.join(missing)}"
        return None

    def _load(self, one: Planned, root: Path | None) -> tuple[Task, Splits]:
        settings = one.settings.settings
        pattern = one.pattern if EVERY not in sites_of(one.task, one.backbone) else None
        key = json.dumps([one.task, one.backbone, pattern, settings.model_dump(mode="json"), str(root)], sort_keys=True)
        if key not in self._loaded:
            loaded: Task = make_task(one.task, settings, backbone=one.backbone, pattern=one.pattern)
            mark = self.cache / f".made-{digest(json.loads(key))}"
            try:
                with made_once(mark):
                    self._loaded[key] = loaded, loaded.load_data(root, self.cache)
            except ValueError as error:
                raise ConfigError(f"{one.task}: {error}") from error
        return self._loaded[key]

    def _settled(self, one: Planned, task: Task) -> Planned:
        """Fills in the options whose defaults depend on head_dim, if the attention declares them by ``settled_options``.

        Without this a default and the same value given by name would be two cells.
        """
        settle = getattr(load_attention(one.spec.name), "settled_options", None)
        widths = {shape.head_dim for shape in self._shapes_of(task, one)}
        if settle is None or len(widths) != 1:
            return one
        options = dict(sorted(settle(one.settings.options, widths.pop()).items()))
        return one._replace(settings=one.settings._replace(options=options))

    def _shapes_of(self, task: Task, one: Planned) -> list[SiteShape]:
        """Returns the layers that the cell replaces."""
        key = json.dumps([str(id(task)), one.backbone], sort_keys=True)
        if key not in self._shapes:
            self._shapes[key] = site_shapes(task)
        return [shape for shape in self._shapes[key] if one.pattern in (shape.pattern, EVERY)]

    def _check_builds(self, task: Task, one: Planned) -> str | None:
        """Builds the attention in each size that the backbone asks for.

        Returns the reason if the attention refuses a pattern, else None.  Raises ConfigError if it can't be built.
        """
        backbone, pattern, spec = one.backbone, one.pattern, one.spec
        shapes = self._shapes_of(task, one)
        if not shapes:
            raise ConfigError(f"{task.name}: with these settings {backbone} has no attention of the pattern {pattern}")
        for shape in set(shapes):
            options = dict(one.settings.options)
            cls = load_attention(spec.name)
            if takes_max_length(cls):
                options.setdefault("max_length", shape.max_length)
                if options["max_length"] < shape.max_length:
                    raise ConfigError(
                        f"attention {spec.name} at {shape.pattern} of {backbone}: max_length {options['max_length']} is too "
                        f"small: lengths go up to {shape.max_length}; leave it out, and it is {shape.max_length}"
                    )
            try:
                build_attention(
                    spec.name, pattern=shape.pattern, num_heads=shape.num_heads, head_dim=shape.head_dim, **options
                )
            except UnsupportedPattern as error:
                return str(error)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"attention {spec.name} at {shape.pattern} of {backbone}: {error}") from error
            except Exception as error:  # the constructor of anyone's attention may raise anything
                kind = type(error).__name__
                where = f"attention {spec.name} at {shape.pattern} of {backbone}"
                raise ConfigError(f"{where}: {kind}: {error}") from error
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
        attention = build_attention(REFERENCE, pattern=pattern, num_heads=num_heads, head_dim=embed_dim // num_heads)
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
