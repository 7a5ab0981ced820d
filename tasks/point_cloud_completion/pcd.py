"""Reads the coordinates of Point Cloud Data files (.pcd), version 0.7, ascii or binary."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tasks.text_files import BYTE_ORDER_MARK, number_lines

LINE_END = re.compile(rb"\r\n|\n|\r")
TYPES = {"F": "f", "I": "i", "U": "u"}
SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
NEEDED = ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA")


def read_pcd(path: Path) -> np.ndarray:
    """The fields x, y and z, float64 (points, 3); other fields are ignored.  Raises ValueError with the fault."""
    content = path.read_bytes()
    header, start = _header(content)
    dtype = _dtype(header)
    (points,) = _numbers(header, "POINTS", 1)
    kind = header["DATA"][0]
    if kind == "ascii":
        rows = _ascii(content[start:], dtype, points)
    elif kind == "binary":
        wanted, rest = points * dtype.itemsize, len(content) - start
        if rest < wanted or content[start + wanted :].strip(b"\0\r\n"):
            raise ValueError(
                f"{'it ends early' if rest < wanted else 'it goes on'}: {points} points of {dtype.itemsize} bytes are "
                f"announced, {rest} bytes follow"
            )
        rows = np.frombuffer(content, dtype, count=points, offset=start)
    else:
        raise ValueError(f"DATA {kind}: ascii and binary are read; convert with `pcl_convert_pcd_ascii_binary`")
    return np.stack([rows[axis].astype(np.float64) for axis in "xyz"], axis=1)


def _header(content: bytes) -> tuple[dict[str, list[str]], int]:
    """The header as key -> words, and the position at which the data begin."""
    header: dict[str, list[str]] = {}
    start = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    while "DATA" not in header:
        end = LINE_END.search(content, start, start + 4096)
        if end is None:
            raise ValueError(f"its header has no {', '.join(key for key in NEEDED if key not in header)}")
        words = content[start : end.start()].decode("ascii", errors="replace").partition("#")[0].split()
        if words:
            header[words[0].upper()] = words[1:]
        start = end.end()
    missing = [key for key in NEEDED if not header.get(key)]
    if missing:
        raise ValueError(f"its header has no {', '.join(missing)}")
    return header, start


def _dtype(header: dict[str, list[str]]) -> np.dtype:
    """The type of one point, little-endian like the files."""
    fields = header["FIELDS"]
    sizes = _numbers(header, "SIZE", len(fields))
    counts = _numbers(header, "COUNT", len(fields)) if "COUNT" in header else [1] * len(fields)
    types = header["TYPE"]
    if len(types) != len(fields):
        raise ValueError(f"TYPE has {len(types)} entries for {len(fields)} FIELDS")
    if not {"x", "y", "z"} <= set(fields):
        raise ValueError(f"FIELDS {' '.join(fields)}: x, y and z are needed")
    parts = []
    for number, (field, size, kind, count) in enumerate(zip(fields, sizes, types, counts, strict=True)):
        if size not in SIZES.get(kind, ()):
            raise ValueError(f"TYPE {kind} of SIZE {size}: F is 4 or 8 bytes, I and U are 1, 2, 4 or 8")
        if field in "xyz" and count != 1:
            raise ValueError(f"COUNT {count} of {field}: a coordinate is one number")
        # Several padding fields may share the name "_", so only the coordinates keep their names.
        parts.append((field if field in ("x", "y", "z") else f"other{number}", f"<{TYPES[kind]}{size}", (count,)))
    return np.dtype([(name, kind) if shape == (1,) else (name, kind, shape) for name, kind, shape in parts])


def _ascii(content: bytes, dtype: np.dtype, points: int) -> np.ndarray:
    """The coordinates of text rows.  A field with a count of n takes n words of its row."""
    lines = [line for line in number_lines(content) if line.strip()]
    if len(lines) != points:
        fault = "it ends early" if len(lines) < points else "it goes on"
        raise ValueError(f"{fault}: {points} points are announced, {len(lines)} lines follow")
    names = dtype.names or ()
    widths = [int(np.prod(dtype[name].shape, dtype=int)) for name in names]
    places = dict(zip(names, np.cumsum([0, *widths[:-1]]).tolist(), strict=True))
    rows = np.zeros(points, [(axis, "f8") for axis in "xyz"])
    for number, line in enumerate(lines[:points]):
        words = line.split()
        if len(words) != sum(widths):
            raise ValueError(f"point {number + 1} has {len(words)} numbers instead of {sum(widths)}")
        rows[number] = tuple(float(words[places[axis]]) for axis in "xyz")
    return rows


def _numbers(header: dict[str, list[str]], key: str, count: int) -> list[int]:
    words = header[key]
    if len(words) != count or not all(word.isdigit() for word in words):
        raise ValueError(f"{key} {' '.join(words)[:40]}: {count} whole number{'s' if count > 1 else ''} needed")
    return [int(word) for word in words]
