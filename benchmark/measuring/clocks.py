"""The clock, temperature and power of a GPU while a sweep runs, and its reasons for slowing down: ``clocks.csv``."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

QUERY = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active")
COLUMNS = ("mode", "pattern", "length", "sm_mhz", "max_sm_mhz", "celsius", "watts", "throttle_reasons")
FILE_NAME = "clocks.csv"


def read_clocks(index: int) -> list[str] | None:
    """Returns the values that nvidia-smi reports for this GPU now, in the order of QUERY, or None if it gives no answer.

    The last value is a bit mask of reasons for slowing down, in hexadecimal: 0x1 is idle, 0x4 a power cap, 0x20 and 0x40 heat
    (NVML's constants).  index: the number of the GPU.
    """
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in said.strip().split(",")]
    return values if len(values) == len(QUERY) else None


def record_clocks(directory: Path, mode: str, pattern: str, length: int, index: int) -> None:
    """Appends a row for the points that were just timed to ``clocks.csv`` in this folder, if nvidia-smi gives an answer."""
    values = read_clocks(index)
    if values is None:
        return
    path = directory / FILE_NAME
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerow([mode, pattern, length, *values])
