"""The work of ``lavo-bench prepare``: downloads, checks and tokenises the data of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.interface import EVERY, REFERENCE, NamesSources
from benchmark.registry import make_task, sites_of, task_declarations, task_folder
from benchmark.running.downloads import fetch_missing
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve


def prepare_data(
    task: str, preset: str, overrides: Sequence[Override], data_root: Path | None, cache: Path
) -> Iterator[str]:
    """Downloads the files that the settings need and the data root lacks, and reads and tokenises the data.

    Yields a line to print for each downloaded file and each backbone.
    """
    for backbone, pattern, settings in _distinct_settings(task, preset, overrides):
        prepared = make_task(task, settings, backbone=backbone, pattern=pattern)
        if data_root is not None:
            wanted = prepared.sources(data_root) if isinstance(prepared, NamesSources) else None
            for path in fetch_missing(task_folder(task) / "sources.yaml", data_root, wanted):
                yield f"{task}: fetched {path}"
        splits = prepared.load_data(data_root, cache)
        sizes = ", ".join(f"{part} {len(getattr(splits, part))}" for part in ("train", "validation", "test"))
        yield f"{task}/{backbone}: {splits.name}, {sizes} examples, SHA-256 {splits.fingerprint[:16]}…"


def _distinct_settings(task: str, preset: str, overrides: Sequence[Override]) -> Iterator[tuple[str, str, Any]]:
    """Yields backbone, pattern and settings, once for patterns of one model whose settings are equal."""
    for backbone in task_declarations(task)["backbones"]:
        sites, seen = sites_of(task, backbone), []
        for pattern in sites:
            settings = resolve(task, backbone, preset, AttentionSpec(name=REFERENCE), overrides, pattern).settings
            if EVERY not in sites or settings not in seen:
                seen.append(settings)
                yield backbone, pattern, settings
