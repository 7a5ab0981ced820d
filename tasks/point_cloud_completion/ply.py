"""Reads the points and polygons of PLY files: ascii and binary, with polygons of any and of mixed numbers of corners."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.text_files import BYTE_ORDER_MARK, number_lines

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
POLYGONS = ("vertex_index", "vertex_indices")
NEEDED = ("x", "y", "z", *POLYGONS)  # other properties are passed over
MOST_OF_HEADER = 2**16


Columns = dict[str, Sequence[np.ndarray] | np.ndarray]  # property -> one value an item


class Property(NamedTuple):
    """A number of each item of an element, or a list of numbers with its own length."""

    name: str
    kind: str  # as in NumPy, without the order of bytes
    count_kind: str | None  # of the length of a list; None: a single number


class Element(NamedTuple):
    """What the header says of one table of the file."""

    name: str
    num_items: int
    properties: tuple[Property, ...]


def read_ply(content: bytes) -> tuple[np.ndarray, Sequence[np.ndarray] | np.ndarray]:
    """The points, float64 (V, 3), and the polygons, each int64 (corners,); a file without faces has no polygons.

    Raises ValueError with the fault: a header that is not one of PLY, too little or too much data, or coordinates that are
    not there.
    """
    elements, order, data = _header(content.removeprefix(BYTE_ORDER_MARK))
    tables = _ascii(elements, data) if order is None else _binary(elements, data, order)
    vertices = tables.get("vertex", {})
    if missing := [axis for axis in "xyz" if axis not in vertices]:
        raise ValueError(f"its vertices have no {', '.join(missing)}")
    points = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], axis=1)
    faces = tables.get("face", {})
    name = next((name for name in POLYGONS if name in faces), None)
    if name is None and any(element.name == "face" and element.num_items for element in elements):
        raise ValueError(f"its faces have no list {' or '.join(POLYGONS)}")
    return points, [] if name is None else faces[name]


def _header(content: bytes) -> tuple[list[Element], str | None, bytes]:
    """The elements, the order of bytes (None: ascii), and the data behind the header."""
    end = re.compile(rb"[\r\n]end_header[ \t]*(\r\n|\n|\r|\Z)").search(content, 0, MOST_OF_HEADER)
    lines = number_lines(content[: end.start() if end else 40])
    if end is None or lines[0].strip() != "ply":
        raise ValueError(f"it begins with {lines[0][:20]!r}, and has no header from ply to end_header")
    elements: list[Element] = []
    data_format = ""
    for number, line in enumerate(lines[1:], start=2):
        words = line.split()
        try:
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format":
                data_format = words[1]
            elif words[0] == "element":
                if (num_items := int(words[2])) < 0:
                    raise ValueError
                elements.append(Element(words[1], num_items, ()))
            elif words[0] == "property":
                last = elements[-1]
                elements[-1] = last._replace(properties=(*last.properties, _property(words[1:])))
            else:
                raise ValueError
        except (ValueError, IndexError, KeyError):
            raise ValueError(f"line {number} of its header, {line[:60]!r}, is none of PLY") from None
    for names in ([element.name for element in elements], *([item.name for item in e.properties] for e in elements)):
        if len(set(names)) < len(names):
            raise ValueError(f"its header has a name twice among {', '.join(names)[:80]}")
    if data_format != "ascii" and data_format not in ORDERS:
        raise ValueError(f"format {data_format[:30]!r}: ascii, {' and '.join(ORDERS)} are read")
    return [_with_polygons(element) for element in elements], ORDERS.get(data_format), content[end.end() :]


def _with_polygons(element: Element) -> Element:
    """The element; the only property of faces may have any name where it is a list."""
    if element.name != "face" or len(element.properties) != 1 or element.properties[0].count_kind is None:
        return element
    return element._replace(properties=(element.properties[0]._replace(name=POLYGONS[0]),))


def _property(words: Sequence[str]) -> Property:
    if words[0] == "list":
        return Property(words[3], TYPES[words[2]], TYPES[words[1]])
    return Property(words[1], TYPES[words[0]], None)


def _ascii(elements: Sequence[Element], data: bytes) -> dict[str, Columns]:
    """An item is a line."""
    lines = [words for line in number_lines(data) if (words := line.split())]
    if len(lines) != (wanted := sum(element.num_items for element in elements)):
        raise ValueError(f"{wanted} lines of data are announced, {len(lines)} follow")
    tables: dict[str, Columns] = {}
    first = 0
    for element in elements:
        columns: dict[str, list[np.ndarray]] = {item.name: [] for item in element.properties if item.name in NEEDED}
        for number, words in enumerate(lines[first : first + element.num_items], start=1):
            place = 0
            for item in element.properties:
                size = 1
                if item.count_kind is not None:
                    size, place = int(words[place]) if place < len(words) else 1, place + 1
                if size < 0 or place + size > len(words):
                    raise ValueError(f"{element.name} {number} has fewer numbers than the header announces")
                if item.name in columns:
                    columns[item.name].append(np.array(words[place : place + size], dtype=item.kind))
                place += size
            if place < len(words):
                raise ValueError(f"{element.name} {number} has {len(words)} numbers, {place} are announced")
        first += element.num_items
        tables[element.name] = {
            item.name: columns[item.name] if item.count_kind is not None else np.concatenate([*columns[item.name], []])
            for item in element.properties
            if item.name in columns
        }
    return tables


def _binary(elements: Sequence[Element], data: bytes, order: str) -> dict[str, Columns]:
    tables: dict[str, Columns] = {}
    start = 0
    for element in elements:
        tables[element.name], start = _binary_table(element, data, start, order)
    if rest := len(data[start:].strip(b"\0\r\n")):
        raise ValueError(f"{rest:,} bytes follow the data that its header announces")
    return tables


def _binary_table(element: Element, data: bytes, start: int, order: str) -> tuple[Columns, int]:
    """One element's columns, and the position behind it.

    Where all lists have the length that those of the first item have, the table is read at once, else item by item.
    """
    least = sum(np.dtype(item.count_kind or item.kind).itemsize for item in element.properties)
    if element.num_items * least > len(data) - start:
        raise ValueError(
            f"{element.num_items:,} items of {element.name} are announced, {len(data) - start:,} bytes follow: it ends early"
        )
    if not element.num_items or not element.properties:
        return {item.name: np.zeros(0) for item in element.properties}, start
    sizes, _ = _list_sizes(element, data, start, order)
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    for number, (item, size) in enumerate(zip(element.properties, sizes, strict=True)):
        if item.count_kind is not None:
            fields.append((f"count{number}", order + item.count_kind))
            fields.append((f"item{number}", order + item.kind, (size,)))
        else:
            fields.append((f"item{number}", order + item.kind))
    dtype = np.dtype(fields)
    if element.num_items * dtype.itemsize <= len(data) - start:
        rows = np.frombuffer(data, dtype, element.num_items, start)
        lists = [number for number, item in enumerate(element.properties) if item.count_kind is not None]
        if all((rows[f"count{number}"] == sizes[number]).all() for number in lists):
            columns: Columns = {item.name: rows[f"item{number}"] for number, item in enumerate(element.properties)}
            return columns, start + rows.nbytes
    found: dict[str, list[np.ndarray]] = {item.name: [] for item in element.properties}
    for _ in range(element.num_items):
        for item, size, place in zip(element.properties, *_list_sizes(element, data, start, order), strict=True):
            found[item.name].append(np.frombuffer(data, order + item.kind, size, place))
            start = place + size * np.dtype(item.kind).itemsize
    return {
        item.name: found[item.name] if item.count_kind is not None else np.concatenate(found[item.name])
        for item in element.properties
    }, start


def _list_sizes(element: Element, data: bytes, start: int, order: str) -> tuple[list[int], list[int]]:
    """How many numbers each property of the item at ``start`` has, and where they begin."""
    sizes, places = [], []
    for item in element.properties:
        size = 1
        if item.count_kind is not None:
            kind = np.dtype(order + item.count_kind)
            if start + kind.itemsize > len(data):
                raise ValueError(f"it ends early, within an item of {element.name}")
            size, start = int(np.frombuffer(data, kind, 1, start)[0]), start + kind.itemsize
        sizes.append(size)
        places.append(start)
        start += size * np.dtype(item.kind).itemsize
        if size < 0 or start > len(data):
            raise ValueError(f"it ends early, within an item of {element.name}")
    return sizes, places
