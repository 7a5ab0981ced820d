"""Finds the versions, device and commit for a record.  Records are published, so nothing here names a person or a place."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from benchmark.measuring.hardware import hardware_name
from benchmark.results import Environment

PACKAGES = ("lavo-bench", "torch", "numpy", "accelerate", "tokenizers", "einops")


def environment(device: str) -> Environment:
    """Returns the versions, device, number of threads and commit of this process."""
    import torch

    revision, dirty = commit()
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=versions(),
        device=hardware_name(device),
        threads=torch.get_num_threads(),
        commit=revision,
        dirty=dirty,
    )


@cache
def versions() -> dict[str, str]:
    """Returns the installed versions of the packages on which figures depend."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> tuple[str | None, bool | None]:
    """Returns the commit of this code, and whether files were changed since; (None, None) if it is not in a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        """Returns what git prints, or None if it fails or is not installed."""
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside another project's checkout, whose commit says nothing about this code.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/results", ":!/reports")
    return git("rev-parse", "HEAD"), bool(changes)
