"""The table ``efficiency.csv``, with one row for each point.  The report reads it, so this file does not import torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import write_bytes

FILE_NAME = "efficiency.csv"
BY_TOKEN = ("decode", "generation")  # modes in which one call computes one token
WHOLE_MODEL = ("training", "checkpointed", "generation")  # modes that measure a whole gpt instead of one attention


class Point(NamedTuple):
    """A point: one row of the table.  Its fields are the columns of the file, in this order.  None is an empty cell."""

    mode: str
    pattern: str
    batch: int
    length: int
    num_heads: int
    head_dim: int
    attention: str
    dtype: str
    device: str
    kernel: str | None = None
    rounds: int | None = None
    seconds: float | None = None  # seconds of one call, the median over rounds; low and high: its interval
    seconds_low: float | None = None
    seconds_high: float | None = None
    compile_seconds: float | None = None  # the time of the first call beyond the median
    base_bytes: int | None = None  # parameters, buffers, inputs and, in modes of one token, the state
    peak_bytes: int | None = None  # base_bytes plus the most that a call holds on top of them
    flops: int | None = None  # operations of matrix products (operations.py says which)
    moved_bytes: int | None = None  # that one call must at least read and write: inputs, outputs, gradients, state
    status: str = "completed"  # completed, unsupported, over_budget, out_of_memory, failed
    reason: str | None = None


COLUMNS = Point._fields
_KEY = COLUMNS[: COLUMNS.index("kernel")]  # two rows that agree in these columns are the same point
_WHOLE = {"batch", "length", "num_heads", "head_dim", "rounds", "base_bytes", "peak_bytes", "flops", "moved_bytes"}
_DECIMAL = {"seconds", "seconds_low", "seconds_high", "compile_seconds"}


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Writes the whole table to this file in one step, so that a reader never sees half of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in point] for point in points)
    write_bytes(path, text.getvalue().encode())


def read_points(path: Path) -> list[Point]:
    """Returns the rows of a table.  Raises a ValueError that names the file if it has other columns."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            raise ValueError(f"{path}: columns {', '.join(header) or 'none'}; expected {', '.join(COLUMNS)}")
        return [Point(*map(_parse, COLUMNS, row)) for row in reader]


def _parse(column: str, text: str) -> Any:
    if text == "":
        return None
    if column in _WHOLE:
        return int(text)
    return float(text) if column in _DECIMAL else text


def merge(earlier: Sequence[Point], rows: Sequence[Point]) -> list[Point]:
    """Returns the earlier rows whose points were not measured again, followed by the new rows."""
    measured = {_key(point) for point in rows}
    return [*(point for point in earlier if _key(point) not in measured), *rows]


def _key(point: Point) -> tuple[Any, ...]:
    return tuple(getattr(point, name) for name in _KEY)
