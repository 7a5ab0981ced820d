"""The work of ``lavo-bench prepare``: downloads, checks and tokenises the data of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.interface import NamesSources
from benchmark.registry import load_task, task_folder
from benchmark.running.downloads import fetch_missing
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve


def prepare_data(
    task: str, preset: str, overrides: Sequence[Override], data_root: Path | None, cache: Path
) -> Iterator[str]:
    """Downloads the files that the settings need and the data root lacks, and reads and tokenises the data.

    Yields a line to print for each downloaded file and each backbone.
    """
    cls: Any = load_task(task)
    for backbone in cls.backbones:
        resolved = resolve(task, backbone, preset, AttentionSpec(name="softmax"), overrides)
        prepared = cls(resolved.settings, backbone=backbone)
        if data_root is not None:
            wanted = prepared.sources(data_root) if isinstance(prepared, NamesSources) else None
            for path in fetch_missing(task_folder(task) / "sources.yaml", data_root, wanted):
                yield f"{task}: fetched {path}"
        splits = prepared.load_data(data_root, cache)
        sizes = ", ".join(f"{part} {len(getattr(splits, part))}" for part in ("train", "validation", "test"))
        yield f"{task}/{backbone}: {splits.name}, {sizes} examples, SHA-256 {splits.fingerprint[:16]}…"
