"""The work of ``lavo-bench prepare``: fetches public data sets, and checks and tokenises the data of a task."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.fetching.install import Convert, Installer
from benchmark.fetching.manifest import DataSet, choose_set, read_manifest
from benchmark.interface import EVERY, REFERENCE, NamesSources
from benchmark.registry import TASKS, make_task, sites_of, task_declarations, task_folder
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve
from benchmark.settings.yaml_files import parse_assignment


def prepare_data(
    task: str,
    preset: str,
    overrides: Sequence[Override],
    data_root: Path | None,
    cache: Path,
    *,
    installer: Installer | None = None,
) -> Iterator[str]:
    """Downloads the sets that the settings need and the data root lacks, and reads and tokenises the data.

    installer: fetches into the data root; None if there is no data root.
    Yields a line to print for each downloaded set and each backbone.
    """
    for backbone, pattern, settings in _distinct_settings(task, preset, overrides):
        prepared = make_task(task, settings, backbone=backbone, pattern=pattern)
        if installer is not None:
            wanted = prepared.sources(installer.data_root) if isinstance(prepared, NamesSources) else None
            yield from fetch_missing(task, installer, wanted)
        splits = prepared.load_data(data_root, cache)
        sizes = ", ".join(f"{part} {len(getattr(splits, part))}" for part in ("train", "validation", "test"))
        yield f"{task}/{backbone}: {splits.name}, {sizes} examples, SHA-256 {splits.fingerprint[:16]}…"


def fetch_missing(task: str, installer: Installer, wanted: Collection[str] | None = None) -> Iterator[str]:
    """Fetches the sets of the task that the data root lacks, and yields a line for each.

    wanted: paths in the data root; only sets that make one of them are fetched.  None means all sets of the task.
    Raises ConfigError, in one line, if a set can't be fetched.
    """
    for dataset in manifest_of(task).values():
        if wanted is None or set(wanted) & set(dataset.makes):
            yield from _fetch(task, dataset, installer)


def fetch_named(task: str, names: Sequence[str], installer: Installer) -> Iterator[str]:
    """Fetches the sets of these names, and yields a line for each.  Raises ConfigError for a name that the task doesn't have."""
    sets = manifest_of(task)
    for dataset in [choose_set(sets, name, task) for name in names]:
        lines = list(_fetch(task, dataset, installer))
        yield from lines or [f"{task}: {dataset.name} is there already: {', '.join(dataset.makes)}"]


def readings(task: str, names: Sequence[str]) -> list[list[Override]]:
    """Returns the settings with which the task reads each of these sets; sets that can't be read alone are left out.

    Without names the task is read once, with no settings of a set.
    """
    if not names:
        return [[]]
    chosen = [choose_set(manifest_of(task), name, task) for name in names]
    return [
        [parse_assignment(f"{key}={value}") for key, value in dataset.read_by.items()]
        for dataset in chosen
        if dataset.is_data
    ]


def manifest_of(task: str) -> dict[str, DataSet]:
    """Returns the sets of a task's ``sources.yaml``."""
    return read_manifest(task_folder(task) / "sources.yaml")


def conversion_of(task: str, dataset: DataSet) -> Convert | None:
    """Returns the function of the task's ``conversions.py`` that a set names; None if it names none."""
    if dataset.convert is None:
        return None
    package = TASKS[task].partition(":")[0].rpartition(".")[0]
    module = importlib.import_module(f"{package}.conversions")
    convert = getattr(module, dataset.convert, None)
    if convert is None:
        raise ConfigError(f"{task}/sources.yaml: convert = {dataset.convert!r}: conversions.py has no such function")
    return convert


def _fetch(task: str, dataset: DataSet, installer: Installer) -> Iterator[str]:
    if installer.install(dataset, conversion_of(task, dataset)):
        made = ", ".join(str(installer.data_root / path) for path in dataset.makes)
        yield f"{task}: fetched {made} ({dataset.title}; licence: {dataset.licence})"


def _distinct_settings(task: str, preset: str, overrides: Sequence[Override]) -> Iterator[tuple[str, str, Any]]:
    """Yields backbone, pattern and settings, once for patterns of one model whose settings are equal."""
    for backbone in task_declarations(task)["backbones"]:
        sites, seen = sites_of(task, backbone), []
        for pattern in sites:
            settings = resolve(task, backbone, preset, AttentionSpec(name=REFERENCE), overrides, pattern).settings
            if EVERY not in sites or settings not in seen:
                seen.append(settings)
                yield backbone, pattern, settings
