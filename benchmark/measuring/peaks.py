"""What a machine can do at most, measured: products of matrices and copies of memory; the roof of the roofline.

Written beside a sweep as ``machine.json``: the report holds each point against it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.files import write_bytes

if TYPE_CHECKING:
    import torch

FILE_NAME = "machine.json"
_SECONDS = 0.3  # of each measurement, after warming up
_SIZES = {"cpu": (2048, 1 << 27), "cuda": (8192, 1 << 30)}  # side of the matrices, bytes copied: far beyond the caches


class Peaks(NamedTuple):
    """The best of repeated calls, so that a busy neighbour lowers it least."""

    device: str  # as in the sweep's rows
    dtype: str
    threads: int
    flops_per_second: float  # multiplications and additions of a square product
    bytes_per_second: float  # read and written by a copy


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Some two seconds."""
    import torch

    from benchmark.measuring.shape import device_name

    side, size = _SIZES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product = _best_seconds(lambda: torch.mm(a, b, out=out), device)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = _best_seconds(lambda: target.copy_(source), device)
    name = str(dtype).removeprefix("torch.")
    return Peaks(device_name(device), name, torch.get_num_threads(), 2 * side**3 / product, 2 * size / copy)


def _best_seconds(call: Callable[[], Any], device: torch.device) -> float:
    import torch

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    samples, begin = [once()], time.perf_counter()
    while len(samples) < 5 or time.perf_counter() - begin < _SECONDS:
        samples.append(once())
    return min(samples)


def write_peaks(directory: Path, peaks: Peaks) -> None:
    """Beside those of other devices and dtypes that the folder's file holds."""
    kept = [known for known in read_peaks([directory]) if (known.device, known.dtype) != (peaks.device, peaks.dtype)]
    content = [known._asdict() for known in [*kept, peaks]]
    write_bytes(directory / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def peak_files(directories: Iterable[Path]) -> list[Path]:
    return [directory / FILE_NAME for directory in directories if (directory / FILE_NAME).is_file()]


def read_peaks(directories: Iterable[Path]) -> list[Peaks]:
    """Raises ValueError that names a file which holds something else."""
    found: dict[tuple[str, str], Peaks] = {}
    for file in peak_files(directories):
        try:
            rows = [Peaks(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: not the measured peaks of a machine ({error}); remove it") from None
        found |= {(row.device, row.dtype): row for row in rows}
    return list(found.values())
