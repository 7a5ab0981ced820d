"""Where a record comes from: versions, device, commit.  Nothing that names a person or a place: records are published."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("lavo-bench", "torch", "numpy", "accelerate", "tokenizers", "einops")


def environment(device: str) -> dict[str, Any]:
    """Versions, device, threads, commit."""
    import torch

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
        "device": hardware_name(device),
        "threads": torch.get_num_threads(),
        **commit(),
    }


@cache
def versions() -> dict[str, str]:
    """Installed versions of what figures depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def hardware_name(device: str) -> str:
    """The model of the GPU, or of the processor."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def commit() -> dict[str, Any]:
    """The commit of this code and whether it has changes besides; null where it is no checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside some other checkout, whose commit says nothing of this code.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/results", ":!/reports")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
