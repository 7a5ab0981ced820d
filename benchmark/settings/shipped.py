"""Finds the files of ``configs/``: in a checkout beside the packages, in an installation from a wheel inside this one."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

IS_INSTALLED = (_PACKAGE / "configs").is_dir()
"""Whether this code was installed from a wheel.  A checkout, also one in editable mode, is False."""

CONFIGS = (_PACKAGE if IS_INSTALLED else _PACKAGE.parent) / "configs"
"""The folder of run files and tuned rates that came with this code."""


def run_file(path: Path) -> Path:
    """Returns the path of a run file; for ``configs/NAME.yaml``, if the current folder has none, that which came with this code."""
    if path.exists() or path.is_absolute() or path.parent != Path("configs"):
        return path
    shipped = CONFIGS / path.name
    return shipped if shipped.is_file() else path
