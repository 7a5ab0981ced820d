"""The table ``efficiency.csv``, with one row for each point.  The report reads it, so this file does not import torch."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import only_process, write_bytes

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
    # From here on, what older files lack.
    together: str | None = None  # points with the same text here were timed in the same rounds
    threads: int | None = None  # of torch
    processor: str | None = None  # its model, or that of the GPU
    kernel_version: str | None = None  # of the libraries that the kernels come from
    code: str | None = None  # digest of the attention's code and options (identity.py)
    cpu_share: float | None = (
        None  # CPU seconds of the process per second of the clock, in the timed rounds of this point
    )
    load_average: float | None = None  # of the machine, over the minute before the timed rounds
    cores: int | None = None  # of the machine


COLUMNS = Point._fields
FIRST_COLUMNS = COLUMNS[: COLUMNS.index("together")]  # what every file has; columns are only ever added at the end
_KEY = COLUMNS[: COLUMNS.index("kernel")]  # two rows that agree in these columns are the same point
_WHOLE = {
    *("batch", "length", "num_heads", "head_dim", "rounds", "base_bytes", "peak_bytes", "flops", "moved_bytes"),
    *("threads", "cores"),
}
_DECIMAL = {"seconds", "seconds_low", "seconds_high", "compile_seconds", "cpu_share", "load_average"}
_STATUSES = ("completed", "unsupported", "over_budget", "out_of_memory", "failed")
# With ":" and "@", for an attention with options, as ``lavo:learned``.
_NAME = ("[a-z0-9_:@]{1,64}", "lower-case letters, digits, _, : and @")
_TEXTS = {  # what a column of text may hold; a reason is an exception's, so any
    **dict.fromkeys(("mode", "pattern", "attention", "dtype"), _NAME),
    "status": ("|".join(_STATUSES), f"one of {', '.join(_STATUSES)}"),
    **dict.fromkeys(
        ("device", "kernel", "processor", "kernel_version"), (".{1,150}", "at most 150 printable characters")
    ),
    **dict.fromkeys(("together", "code"), ("[0-9a-f]{1,64}", "hexadecimal digits")),
}


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Writes the whole table to this file in one step, so that a reader never sees half of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in point] for point in points)
    write_bytes(path, text.getvalue().encode())


def read_points(path: Path) -> list[Point]:
    """Returns the rows of a table, checked.  A file of an older version lacks some of the last columns.

    Raises a ValueError that names the file, and the line and column of a wrong value.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = tuple(next(reader, ()))
            if len(header) < len(FIRST_COLUMNS) or header != COLUMNS[: len(header)]:
                raise _NotATable(f"columns {', '.join(header)[:60] or 'none'}; expected {', '.join(COLUMNS)}"[:200])
            return [_point(header, row, reader.line_num) for row in reader]
    except (ValueError, csv.Error) as error:
        where = path if isinstance(error, _NotATable) else f"{path}: not a table of points"
        raise ValueError(f"{where}: {error}") from error


class _NotATable(ValueError):
    """A fault of a table whose message is complete but for the name of the file."""


def _point(header: Sequence[str], row: Sequence[str], line: int) -> Point:
    if len(row) != len(header):
        raise _NotATable(f"line {line}: {len(row)} columns; {len(header)} are wanted")
    values = {}
    for column, text in zip(header, row, strict=True):
        try:
            values[column] = _parse(column, text)
        except ValueError as error:
            shown = text if len(text) <= 60 else f"{text[:57]}…"
            raise _NotATable(f"line {line}: {column} = {shown!r}: {error}") from None
    point = Point(**values)
    if point.status == "completed" and point.seconds is None:
        raise _NotATable(f"line {line}: seconds is empty; a completed point has them")
    return point


def _parse(column: str, text: str) -> Any:
    if text == "":
        if column in _KEY or column == "status":
            raise ValueError("is empty")
        return None
    if column in _WHOLE:
        return _number(text, int, "a whole number from 0")
    if column in _DECIMAL:
        return _number(text, float, "a number from 0")
    wanted, words = _TEXTS.get(column, (None, ""))
    if wanted is not None and not (re.fullmatch(wanted, text) and text.isprintable()):
        raise ValueError(f"must be {words}")
    return text


def _number(text: str, kind: type[int] | type[float], wanted: str) -> float:
    try:
        value = kind(text) if len(text) <= 40 else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e30:  # so that sums and ratios stay finite
        raise ValueError(f"must be {wanted}")
    return value


def merge(earlier: Sequence[Point], rows: Sequence[Point], references: Collection[str] = ()) -> list[Point]:
    """Returns the earlier rows whose points were not measured again, followed by the new rows.

    references: attentions with which others are compared.  Their earlier rows are kept as long as they were timed in the same rounds
    as a row that still counts, because only times of the same rounds are compared.  ``latest`` says which row counts.
    """
    both = list({(key_of(point), point.together): point for point in [*earlier, *rows]}.values())
    counting = latest(both)
    rounds = {_rounds(point) for point in counting if point.attention not in references}
    kept = {(key_of(point), point.together) for point in counting}
    return [
        point
        for point in both
        if (key_of(point), point.together) in kept or (point.attention in references and _rounds(point) in rounds)
    ]


def add_points(path: Path, rows: Sequence[Point], references: Collection[str] = ()) -> None:
    """Adds rows to the table in this file (``merge``), which is made if it is missing; other processes may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_process(path.parent):
        earlier = read_points(path) if path.exists() else []
        write_points(path, merge(earlier, rows, references))


def latest(points: Iterable[Point]) -> list[Point]:
    """Returns the last row of each point, in the order of the rows."""
    rows = list(points)
    places = {key_of(point): place for place, point in enumerate(rows)}
    return [rows[place] for place in sorted(places.values())]


def key_of(point: Point) -> tuple[Any, ...]:
    """Returns what two rows of the same point have in common."""
    return tuple(getattr(point, name) for name in _KEY)


def in_same_rounds(point: Point, points: Iterable[Point], attention: str) -> Point | None:
    """Returns the row of this attention that was timed in the same rounds as ``point``, or None if there is none."""
    return next((one for one in points if one.attention == attention and _rounds(one) == _rounds(point)), None)


def _rounds(point: Point) -> tuple[Any, ...]:
    """Returns what rows of the same rounds have in common.  Rows of older files count as timed together."""
    return key_of(point._replace(attention="")), point.together
