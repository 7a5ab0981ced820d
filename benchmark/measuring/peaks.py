"""The peak rates of a machine, measured: operations a second in matrix products, bytes a second in copies of memory.

They are written to ``machine.json`` in the folder of a sweep.  The report compares each point with them (a roofline plot).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.files import write_bytes

if TYPE_CHECKING:
    import torch

FILE_NAME = "machine.json"
_SECONDS = 0.3  # the time that each measurement takes, after warming up
# The side of the matrices, and the bytes that are copied.  Both are much larger than the caches.
_SIZES = {"cpu": (2048, 1 << 27), "cuda": (8192, 1 << 30)}


class Peaks(NamedTuple):
    """The peak rates, each from the fastest of repeated calls, because other work on the machine disturbs that one least."""

    device: str  # as in the column ``device`` of the sweep's rows
    dtype: str
    threads: int
    flops_per_second: float  # multiplications and additions in a product of two square matrices
    bytes_per_second: float  # bytes read and bytes written by a copy, added up


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """Measures the peak rates of this device, which takes about two seconds."""
    import torch  # not at the top, because the report reads peaks without torch

    from benchmark.measuring.shape import device_column

    side, size = _SIZES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product = _best_seconds(lambda: torch.mm(a, b, out=out), device)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = _best_seconds(lambda: target.copy_(source), device)
    name = str(dtype).removeprefix("torch.")
    return Peaks(device_column(device), name, torch.get_num_threads(), 2 * side**3 / product, 2 * size / copy)


def _best_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Returns the seconds of the fastest of repeated calls."""
    from benchmark.measuring.timing import rounds_within, wall_seconds

    wall_seconds(call, device)  # warms up
    return min(wall_seconds(call, device) for _ in rounds_within(_SECONDS, least=5))


def write_peaks(directory: Path, peaks: Peaks) -> None:
    """Writes the peaks to the file in this folder, and replaces only those of the same device and dtype."""
    kept = [known for known in read_peaks([directory]) if (known.device, known.dtype) != (peaks.device, peaks.dtype)]
    content = [known._asdict() for known in [*kept, peaks]]
    write_bytes(directory / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def peak_files(directories: Iterable[Path]) -> list[Path]:
    """Returns the paths of the files of peaks that exist in these folders."""
    return [directory / FILE_NAME for directory in directories if (directory / FILE_NAME).is_file()]


def read_peaks(directories: Iterable[Path]) -> list[Peaks]:
    """Returns the peaks in these folders.  If several are of the same device and dtype, the last one counts.

    Raises a ValueError that names the file if its content is not a list of peaks.
    """
    found: dict[tuple[str, str], Peaks] = {}
    for file in peak_files(directories):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, list):
                raise ValueError("a list is wanted")
            rows = [_checked(**row) for row in content]
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{file}: not the measured peaks of a machine ({str(error)[:100]}); remove it") from None
        found |= {(row.device, row.dtype): row for row in rows}
    return list(found.values())


def _checked(**row: Any) -> Peaks:
    peaks = Peaks(**row)
    for name, value in peaks._asdict().items():
        if name in ("device", "dtype"):
            fine = isinstance(value, str) and len(value) <= 200
        else:
            fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30
        if not fine:
            raise ValueError(f"{name} is {repr(value)[:40]}")
    return peaks
