"""Checks the folders that a report or a comparison shall read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.measuring.points import FILE_NAME
from benchmark.results import record_files
from benchmark.settings.messages import ConfigError


def check_folders(directories: Sequence[Path], *, sweeps: bool = True) -> None:
    """Raises ConfigError for a folder without records.  With ``sweeps``, a table of efficiency is enough."""
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory}: no such folder of results")
        if not record_files(directory) and not (sweeps and (directory / FILE_NAME).is_file()):
            inside = [path.name for path in sorted(directory.iterdir()) if path.is_dir() and record_files(path)]
            instead = f"; name one of its folders {', '.join(inside)}" if inside else "; lavo-bench run -o writes some"
            raise ConfigError(f"{directory}: has no records{instead}")
