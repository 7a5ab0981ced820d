"""Reads a table of dated numbers as a regular series; messages name the line and the column of a fault."""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import math
import re
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmark.settings.messages import shortened
from tasks.array_files import MOST_BYTES
from tasks.folders import files_in
from tasks.text_files import decoded, read_content, split_lines

Missing = Literal["refuse", "interpolate", "forward_fill"]
Duplicates = Literal["refuse", "first", "mean"]

EMPTY = {"", "nan", "na", "n/a", "null", "none"}
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_STEP = 27 * UNITS["d"]
ALLOWED_STEPS = "steps of one length, from 1 second to 27 days (calendar months differ in length)"
UNDATED_START = np.datetime64("1990-01-01T00:00:00", "s")


class Series(NamedTuple):
    """A regular series: row i has the time dates[0] + i steps."""

    values: np.ndarray  # float64 (rows, columns), NaN for a value that is filled in later
    dates: np.ndarray  # datetime64[s] (rows,)
    columns: tuple[str, ...]
    step: int  # seconds
    fingerprint: str  # SHA-256 of the file's bytes
    notes: dict[str, int | str | bool]  # for the record: what was inserted, merged or converted


class Table(NamedTuple):
    """The rows of a file, unchanged."""

    stamps: np.ndarray  # int64 (rows,), seconds since 1970
    values: np.ndarray  # float64 (rows, columns)
    columns: tuple[str, ...]
    lines: np.ndarray  # int64 (rows,), line numbers from 1 on
    notes: dict[str, int | str | bool]  # for the record: what was left out or converted


def parse_step(text: str) -> int:
    """The seconds of a step such as ``1h``, ``15min`` or ``1d``.  Raises ValueError that says what is allowed."""
    match = re.fullmatch(r"([1-9]\d*)(s|min|h|d|w)", text)
    if match is None or int(match[1]) * UNITS[match[2]] > LONGEST_STEP:
        raise ValueError(
            f"step {text!r} is not a number and a unit of {', '.join(UNITS)}, as in 1h or 15min; {ALLOWED_STEPS}"
        )
    return int(match[1]) * UNITS[match[2]]


def describe_step(seconds: int) -> str:
    """A step in words: ``1 hour``, ``10 minutes``, ``2 days``."""
    for size, unit in ((604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(seconds)


def read_series(
    path: Path,
    *,
    label: str | None = None,
    date: str = "date",
    date_format: str | None = None,
    columns: Sequence[str] | None = None,
    step: int | None = None,
    missing: Missing = "refuse",
    duplicates: Duplicates = "refuse",
) -> Series:
    """A regular series from a file.

    ``.csv`` and ``.csv.gz``: UTF-8, commas, a header, a column of dates; all other columns are numbers.  A first column
    without a name, the index that pandas writes, is left out, and the notes say so.
    ``.txt`` and ``.txt.gz``: only numbers and commas.  The columns are called c1, c2, …, and the dates are made: from
    1990-01-01 on, ``step`` apart, by default a day.  Endings may be in capitals.

    label       the file's name in messages; None: without its folders
    date, date_format  name of the date column, and its strptime format (None: ISO 8601)
    columns     names of the columns to read; None: all but the date
    step        seconds between rows; None: the most frequent distance
    missing     ``refuse``: an empty cell or a missing time stamp is an error.  Otherwise an empty cell becomes NaN, and a
                row of NaN is inserted for a missing time stamp; ``fill`` in data.py replaces NaN afterwards
    duplicates  a time stamp that occurs twice: ``refuse`` it, keep the ``first`` row, or take the ``mean`` of the rows

    Raises ValueError of one line: file, line, column, fault, and what is allowed.
    """
    label = label or path.name
    text, fingerprint = _read_text(path, label)
    if _suffix(path) == ".txt":
        if date != "date" or date_format is not None:
            raise ValueError(f"{label}: a .txt series has no dates, so data.date and data.date_format can't be given")
        table = _parse_undated(label, text, columns, step or UNITS["d"], missing)
    else:
        table = _parse_dated(label, text, date, date_format, columns, missing)
    if len(table.stamps) < 3:
        raise ValueError(f"{label}: {len(table.stamps)} rows of data; a series has at least 3")
    values, stamps, step, notes = _regular(label, table, step, missing, duplicates)
    notes |= table.notes
    return Series(values, stamps.astype("datetime64[s]"), table.columns, step, fingerprint, notes)


def _suffix(path: Path) -> str:
    return Path(path.stem if _is_packed(path) else path).suffix.lower()


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _read_text(path: Path, label: str) -> tuple[str, str]:
    """The file's text, and the SHA-256 of its bytes."""
    if not path.is_file():
        there = ", ".join(file.name for file in files_in(path.parent)[:10]) or "no file"
        raise ValueError(f"{label}: no such file; its folder has {shortened(there, 120)}")
    if _suffix(path) not in (".csv", ".txt"):
        raise ValueError(f"{label}: a series is read from .csv, .csv.gz, .txt or .txt.gz, not {path.suffix or 'this'}")
    content = read_content(path, label)
    fingerprint = hashlib.sha256(content).hexdigest()
    if _is_packed(path):
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{label}: not a whole gzip file ({error})") from error
        if len(content) > MOST_BYTES:
            raise ValueError(f"{label}: holds more than {MOST_BYTES:,} bytes of text; allowed are as many")
    return decoded(content, label), fingerprint


def _parse_dated(
    label: str, text: str, date: str, date_format: str | None, columns: Sequence[str] | None, missing: Missing
) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # any of the three line ends
    try:
        header = [name.strip() for name in next(reader, [])]
        names = _check_header(label, header, date, columns)
        date_index, indices = header.index(date), [header.index(name) for name in names]
        stamps, values, lines = [], [], []
        zoned: bool | None = None
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()):  # a blank line
                continue
            line = reader.line_num
            if len(row) != len(header):
                raise ValueError(f"{label}, line {line}: {len(row)} cells, the header has {len(header)} columns")
            moment = _parse_date(label, line, date, row[date_index].strip(), date_format)
            if zoned is not None and zoned != (moment.tzinfo is not None):
                raise ValueError(
                    f"{label}, line {line}, column {date!r}: {row[date_index]!r} "
                    f"{'has no' if zoned else 'has an'} offset from UTC, the rows before {'have one' if zoned else 'have none'}"
                )
            zoned = moment.tzinfo is not None
            stamps.append(int(moment.timestamp() if zoned else moment.replace(tzinfo=UTC).timestamp()))
            values.append([_parse_number(label, line, header[i], row[i], missing) for i in indices])
            lines.append(line)
    except csv.Error as error:
        raise ValueError(f"{label}, line {reader.line_num}: {error}; cells are separated by commas") from error
    array = np.array(values, dtype=np.float64).reshape(len(values), len(names))
    notes: dict[str, int | str | bool] = {"converted_to_utc": True} if zoned else {}
    if not header[0]:
        notes["left_out"] = "the first column, which has no name (an index?)"
    return Table(np.array(stamps, dtype=np.int64), array, names, np.array(lines, dtype=np.int64), notes)


def _check_header(label: str, header: list[str], date: str, columns: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the columns to read."""
    if not header:
        raise ValueError(f"{label}: the file is empty; its first line must be a header with a column {date!r}")
    if len(header) == 1 and (separator := next((s for s in ";\t|" if s in header[0]), None)):
        raise ValueError(f"{label}, line 1: cells are separated by {separator!r}; allowed is the comma alone")
    for index, name in enumerate(header):
        if not name and index > 0:
            raise ValueError(f"{label}, line 1: column {index + 1} has no name")
        if name in header[:index]:
            raise ValueError(f"{label}, line 1: two columns are called {name!r}")
    check_known(f"{label}, line 1", (date, *(columns or ())), header)
    names = tuple(columns) if columns is not None else tuple(name for name in header if name not in (date, ""))
    if not names or date in names:
        raise ValueError(f"{label}, line 1: no column of numbers beside the date column {date!r}")
    return names


def check_known(where: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    """Raises ValueError for a name that is not there."""
    for name in wanted:
        if not name or name not in there:
            near = difflib.get_close_matches(name, there, 1)
            raise ValueError(
                f"{where}: no column {shortened(repr(name))}{f' (did you mean {near[0]!r}?)' if near else ''}; "
                f"there are {shortened(', '.join(there), 120)}"
            )


def _parse_date(label: str, line: int, column: str, cell: str, date_format: str | None) -> datetime:
    try:
        moment = datetime.strptime(cell, date_format) if date_format else datetime.fromisoformat(cell)
    except ValueError as error:
        wanted = f"of the format {date_format!r}" if date_format else "like 2016-07-01 or 2016-07-01 13:00:00"
        raise ValueError(
            f"{label}, line {line}, column {column!r}: {cell!r} is not an existing date {wanted}"
            f"{'' if date_format else ' (other formats: data.date_format)'}"
        ) from error
    if moment.microsecond:
        raise ValueError(f"{label}, line {line}, column {column!r}: {cell!r} has parts of a second; {ALLOWED_STEPS}")
    return moment


def _parse_number(label: str, line: int, column: str, cell: str, missing: Missing) -> float:
    """The number, or NaN for an empty cell that is to be filled."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and "_" not in cell:  # float() would accept 1_000
        return value
    empty = cell.strip().lower() in EMPTY
    if empty and missing != "refuse":
        return math.nan
    fault = "the cell is empty" if not cell.strip() else f"{cell.strip()[:40]!r} is not a finite number"
    allowed = (
        "allowed is a number, or data.missing=interpolate or forward_fill"
        if empty
        else "allowed is a number with a decimal point (leave a column of text out with data.columns)"
    )
    raise ValueError(f"{label}, line {line}, column {column!r}: {fault}; {allowed}")


def _parse_undated(label: str, text: str, columns: Sequence[str] | None, step: int, missing: Missing) -> Table:
    rows = [(line, row.split(",")) for line, row in enumerate(split_lines(text), start=1) if row.strip()]
    width = len(rows[0][1]) if rows else 0
    there = [f"c{i + 1}" for i in range(width)]
    names = tuple(there if columns is None else columns)
    check_known(label, names, there)
    if rows and not names:
        raise ValueError(f"{label}: data.columns names no column; there are {shortened(', '.join(there), 120)}")
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{label}, line {line}: {len(cells)} cells, the first line has {width}")
    indices = [there.index(name) for name in names]
    values = [[_parse_number(label, line, there[i], cells[i], missing) for i in indices] for line, cells in rows]
    stamps = UNDATED_START.astype(np.int64) + step * np.arange(len(rows), dtype=np.int64)
    lines = np.array([line for line, _ in rows], dtype=np.int64)
    return Table(stamps, np.array(values, dtype=np.float64).reshape(len(rows), len(names)), names, lines, {})


def _regular(
    label: str, table: Table, step: int | None, missing: Missing, duplicates: Duplicates
) -> tuple[np.ndarray, np.ndarray, int, dict[str, int | str | bool]]:
    """Values and stamps with one row a step, the step, and notes for the record.

    Rows with one time stamp are merged, and missing rows inserted, if the options allow it.
    """
    stamps, first, group = np.unique(table.stamps, return_index=True, return_inverse=True)
    step = step or _frequent_step(label, stamps)
    said = f"the expected step is {describe_step(step)}"
    _check_order(label, table, first, said)
    repeats = np.setdiff1d(np.arange(len(table.stamps)), first)
    if len(repeats) and duplicates == "refuse":
        row = repeats[0]
        raise ValueError(
            f"{label}, line {table.lines[row]}: time stamp {_shown(table.stamps[row])} is already on line "
            f"{table.lines[first[group[row]]]} (a repeated hour, as when summer time ends?); {said}; allowed is "
            "each time stamp once, or data.duplicates=first or mean"
        )
    _check_gaps(label, table, stamps, first, step, said, missing)
    merged = table.values[first] if duplicates != "mean" else _group_means(table.values, group, len(stamps))
    rows = (stamps - stamps[0]) // step
    values = np.full((int(rows[-1]) + 1, merged.shape[1]), np.nan)
    values[rows] = merged
    notes: dict[str, int | str | bool] = {
        "rows_inserted": len(values) - len(rows),
        "rows_merged": len(repeats),
        "cells_filled": int(np.isnan(values).sum()),
    }
    return values, stamps[0] + step * np.arange(len(values), dtype=np.int64), step, notes


def _frequent_step(label: str, stamps: np.ndarray) -> int:
    """The most frequent distance of neighbours, in seconds.  Raises ValueError if it is no regular step."""
    if len(stamps) < 3:
        raise ValueError(f"{label}: {len(stamps)} different time stamps; a series has at least 3")
    distances, counts = np.unique(np.diff(stamps), return_counts=True)
    step, count, total = int(distances[counts.argmax()]), int(counts.max()), int(counts.sum())
    if 2 * count < total or step > LONGEST_STEP:
        raise ValueError(
            f"{label}: no regular step: the most frequent one, {describe_step(step)}, is that of {count} in {total} "
            f"rows; allowed are {ALLOWED_STEPS}"
        )
    return step


def _check_order(label: str, table: Table, first: np.ndarray, said: str) -> None:
    """Raises ValueError for a new time stamp that is earlier than the one before it; repeated ones are not looked at."""
    order = np.sort(first)  # rows of the file without repeats
    back = np.flatnonzero(np.diff(table.stamps[order]) < 0)
    if len(back):
        before, row = int(order[back[0]]), int(order[back[0] + 1])
        raise ValueError(
            f"{label}, line {table.lines[row]}: time stamp {_shown(table.stamps[row])} comes after "
            f"{_shown(table.stamps[before])} of line {table.lines[before]}; {said}; rows must be in order of time"
        )


def _check_gaps(
    label: str, table: Table, stamps: np.ndarray, first: np.ndarray, step: int, said: str, missing: Missing
) -> None:
    """Raises ValueError for a time stamp between two steps, and for a gap that may not be filled or is too long."""
    distances = np.diff(stamps)
    off = np.flatnonzero((stamps - stamps[0]) % step)
    gaps = np.flatnonzero(distances > step)
    if len(off) and (not len(gaps) or off[0] <= gaps[0] + 1 or missing != "refuse"):
        row = int(off[0])
        raise ValueError(
            f"{label}, line {table.lines[first[row]]}: time stamp {_shown(stamps[row])} lies between two steps; {said} "
            f"from {_shown(stamps[0])} on; allowed are {ALLOWED_STEPS}"
        )
    if not len(gaps):
        return
    row, inserted = int(gaps[0]) + 1, int((distances[gaps] // step - 1).sum())
    if missing == "refuse":
        count = int(distances[gaps[0]]) // step - 1
        raise ValueError(
            f"{label}, line {table.lines[first[row]]}: time stamp {_shown(stamps[row])} follows "
            f"{_shown(stamps[row - 1])}, so {_shown(stamps[row - 1] + step)} is missing ({count} "
            f"row{'s' if count > 1 else ''}; a skipped hour, as when summer time begins?); {said}; allowed is every "
            "step, or data.missing=interpolate or forward_fill"
        )
    if inserted > len(stamps):
        row = int(distances.argmax()) + 1
        raise ValueError(
            f"{label}, line {table.lines[first[row]]}: {inserted} rows are missing, more than the {len(stamps)} there "
            f"are; the longest gap ends with {_shown(stamps[row])}; {said}"
        )


def _group_means(values: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """The mean of each group's rows, without its empty cells; a group of one row stays bit for bit."""
    known = ~np.isnan(values)
    sums, counts = np.zeros((2, num_groups, values.shape[1]))
    np.add.at(sums, group, np.where(known, values, 0.0))
    np.add.at(counts, group, known)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _shown(stamp: int | np.integer) -> str:
    return str(np.datetime64(int(stamp), "s")).replace("T", " ")
