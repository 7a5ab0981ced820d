"""The names of the processor and the GPU, as records and points store them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def hardware_name(device: str) -> str:
    """Returns the model of the GPU, or of the processor."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
