"""Chooses how a table is set on paper: in one column of the page or in both, in which size, divided or not.

Widths are measured with a font that has the metrics of Times, in points (72.27 to the inch, as TeX counts them).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from benchmark.report.escapes import visible
from benchmark.report.tables import Row, Table

COLUMN, PAGE, HEIGHT = 3.3 * 72.27, 7.0 * 72.27, 8.4 * 72.27
"""The widths of a two-column paper, and the height that a table may have with its caption."""

_SLACK = 1.05  # other fonts of papers, such as Computer Modern, are a little wider than Times
_SIZES = ((r"\small", 9.0, 4.0), (r"\footnotesize", 8.0, 3.0))  # command, points, half the space between columns
_NUMBER = re.compile(r"[\[(<]?\s*[+−-]?\d[\d,]*")
_UNITS = re.compile(r"(?<=\d)[ ]?(ms|s|µs|min|h|KiB|MiB|GiB|B|K|M)\b")
_WORD = 62.0  # points: the least width of a column of prose
_LONGEST = 40  # characters of a figure; what is longer is words
_NOTE = 8.0  # points, the size of notes and captions
_LINE = 1.25  # leading, with what booktabs adds


class Layout(Enum):
    """How the cells of a column are set."""

    words = "l"
    right = "r"
    centred = "c"
    decimal = "r@{}l"  # aligned at the decimal point
    wrapped = "p"  # a paragraph


class Column(NamedTuple):
    """A column of the table: its place among the figures of a row, and how it is set.

    place    in ``Row.printed``; -1 for the labels
    heading  its lines
    width    of a paragraph in points; 0 for all other layouts
    lead     points before the widest figure, which bring a column under the middle of a wider heading
    """

    place: int
    heading: tuple[str, ...]
    layout: Layout
    natural: float
    width: float = 0.0
    lead: float = 0.0

    @property
    def cells(self) -> int:
        """How many columns of LaTeX it takes."""
        return 2 if self.layout is Layout.decimal else 1

    @property
    def preamble(self) -> str:
        """The column's part of the argument of ``tabular``."""
        if self.layout is Layout.wrapped:
            return rf">{{\raggedright\arraybackslash}}p{{{self.width:.1f}pt}}"
        lead = rf">{{\hspace{{{self.lead:.1f}pt}}}}" if self.lead else ""
        return lead + self.layout.value

    @staticmethod
    def split(text: str) -> tuple[str, str] | None:
        """Divides a figure before its decimal point; None for words and dashes."""
        found = _NUMBER.match(text)
        return None if found is None else (text[: found.end()], text[found.end() :])


class Part(NamedTuple):
    """Columns that stand beside each other; the labels are repeated before each part."""

    columns: tuple[Column, ...]
    message_width: float  # points, for the reason why a row has no figures


class Fit(NamedTuple):
    """How a table is set."""

    is_wide: bool  # ``table*``
    size: str  # command of the type's size
    padding: float  # points, half the space between columns
    label: Column
    parts: tuple[Part, ...]  # below each other
    rows: tuple[tuple[int, int], ...]  # first row and end, for each float
    note_width: float


def fit(table: Table) -> Fit:
    """Returns the narrowest way to set the table whole; if it has none, columns are wrapped or stand in parts."""
    long_notes = sum(map(len, table.notes)) > 900  # in one column they would be longer than most tables
    for limit in (PAGE,) if long_notes else (COLUMN, PAGE):
        for size, points, padding in _SIZES:
            columns = _columns(table, points)
            if _total(columns, padding) * _SLACK <= limit:
                return _fitted(table, columns, limit, (size, points, padding))
    return _divided(table)


def _fitted(
    table: Table, columns: Sequence[Column], limit: float, style: tuple[str, float, float], cut: Sequence[int] = ()
) -> Fit:
    """Returns the fit.  cut: the places of the columns, labels excluded, at which another part begins."""
    size, points, padding = style
    label, own = columns[0], list(columns[1:])
    ends = [*cut, len(own)]
    parts = []
    for start, end in zip([0, *cut], ends, strict=True):
        chosen = tuple(own[start:end])
        room = limit / _SLACK - _total([label], padding) - 2 * padding
        natural = _total(chosen, padding)
        parts.append(Part(chosen, max(min(room, natural), min(room, 150.0))))
    is_wide = limit > COLUMN
    note_width = (
        limit
        if not is_wide
        else min(limit, max(COLUMN * 1.4, 1.02 * max(_total([label, *part.columns], padding) for part in parts)))
    )
    heights = [sum(_lines(row, [label, *part.columns], points) for part in parts) for row in table.rows]
    rows = _shares(heights, _lines_a_float(table, points, len(parts), note_width))
    return Fit(is_wide, size, padding, label, tuple(parts), rows, note_width)


def _lines_a_float(table: Table, points: float, parts: int, width: float) -> int:
    """Returns how many lines of rows a float can have, beside its caption and notes."""
    prose = [table.caption, *table.notes]
    lines = sum(1 + int(text_width(text, _NOTE) / (0.95 * width)) for text in prose if text)
    left = HEIGHT - lines * _NOTE * _LINE - parts * 4 * points * _LINE
    return max(8, int(left / (points * _LINE)))


def _lines(row: Row, columns: Sequence[Column], points: float) -> float:
    """Returns the height of a row in lines: that of its longest paragraph, and the space between such rows."""
    wrapped = [column for column in columns if column.layout is Layout.wrapped]
    most = 1
    for column in wrapped:
        text = row.label if column.place < 0 else row.printed[column.place].text if row.printed else ""
        most = max(most, math.ceil(1.15 * text_width(text, points) / column.width))
    if row.message is not None:
        most = max(most, math.ceil(text_width(row.message, points) / 150))
    return most + (0.3 if wrapped else 0.0)


def _shares(heights: Sequence[float], most: float) -> tuple[tuple[int, int], ...]:
    """Divides rows into floats of about the same height, none higher than ``most`` unless a single row is."""
    pieces = max(1, math.ceil(sum(heights) / most))
    while True:
        goal, bounds, used = sum(heights) / pieces, [0], 0.0
        for place, height in enumerate(heights):
            if used and (used + height > most or used + height / 2 > goal) and len(bounds) < pieces:
                bounds.append(place)
                used = 0.0
            used += height
        if used <= most or pieces >= len(heights):
            return tuple(pairwise([*bounds, len(heights)]))
        pieces += 1


def _divided(table: Table) -> Fit:
    """Returns the fit of a table that is wider than the page: words are wrapped, figures stand in parts."""
    style = _SIZES[-1]
    _, points, padding = style
    columns = _columns(table, points)
    if any(column.layout is Layout.words and column.natural > 2 * _WORD for column in columns[1:]):
        return _fitted(table, _wrapped(columns, PAGE / _SLACK, padding), PAGE, style)
    if columns[0].natural > 0.4 * PAGE:
        columns[0] = columns[0]._replace(layout=Layout.wrapped, width=0.35 * PAGE, natural=0.35 * PAGE)
    room = PAGE / _SLACK - _total(columns[:1], padding)
    return _fitted(table, columns, PAGE, style, _cuts(table, columns[1:], room, padding))


def _cuts(table: Table, columns: Sequence[Column], room: float, padding: float) -> list[int]:
    """Returns where to divide the columns: before the differences, if that suffices, else into parts of like width."""
    first = next((place for place, column in enumerate(columns) if " − " in table.columns[column.place + 1]), None)
    if first and all(_total(part, padding) <= room for part in (columns[:first], columns[first:])):
        return [first]
    for parts in range(2, len(columns) + 1):
        goal = sum(_total([column], padding) for column in columns) / parts
        cuts: list[int] = []
        used = 0.0
        for place, column in enumerate(columns):
            wide = _total([column], padding)
            if place and used and (used + wide > room or (used + wide / 2 > goal and len(cuts) < parts - 1)):
                cuts.append(place)
                used = 0.0
            used += wide
        if len(cuts) < parts:
            return cuts
    return list(range(1, len(columns)))


def _wrapped(columns: Sequence[Column], limit: float, padding: float) -> list[Column]:
    """Returns the columns with the widest ones of words as paragraphs, all no wider than the limit together."""
    fixed = [c.natural for c in columns if c.layout is not Layout.words]
    free = [c.natural for c in columns if c.layout is Layout.words]
    left = limit - sum(fixed) - 2 * padding * (len(columns) - 1)
    cap = _WORD
    for step in range(int(_WORD), int(limit)):
        if sum(min(natural, step) for natural in free) > left:
            break
        cap = float(step)
    return [
        c._replace(layout=Layout.wrapped, width=cap, natural=cap) if c.layout is Layout.words and c.natural > cap else c
        for c in columns
    ]


def _total(columns: Sequence[Column], padding: float) -> float:
    """Returns the width of columns beside each other, with the space between them."""
    return sum(column.natural + 2 * padding for column in columns)


def _columns(table: Table, points: float) -> list[Column]:
    """Returns the labels' column and those of the figures, in their natural widths."""
    labels = [row.label for row in table.rows]
    heads = _broken(table.columns[0], max((text_width(text, points) for text in labels), default=0.0), points)
    widest = max((text_width(text, points) for text in [*labels, *heads]), default=0.0)
    columns = [Column(-1, heads, Layout.words, widest)]
    for index, heading in enumerate(table.columns[1:]):
        cells = [row.printed[index] for row in table.rows if row.message is None]
        texts = [one.text for one in cells]
        columns.append(_column(index, heading, texts, points, table.is_prose, any(one.bold for one in cells)))
    return columns


def _column(index: int, heading: str, texts: Sequence[str], points: float, is_prose: bool, has_bold: bool) -> Column:
    layout = _layout(texts, is_prose)

    def wide(text: str) -> float:
        return text_width(text, points, bold=has_bold)

    if layout is Layout.decimal:
        found = [split for text in texts if (split := Column.split(text)) is not None]
        own = max(wide(head) for head, _ in found) + max(wide(tail) for _, tail in found)
        own = max(own, *(wide(text) for text in texts if Column.split(text) is None), 0.0)
    else:
        own = max(map(wide, texts), default=0.0)
    lines = _broken(heading, own, points)
    above = max(text_width(line, points) for line in lines)
    lead = max(0.0, (above - own) / 2) if layout is Layout.decimal else 0.0
    return Column(index, lines, layout, max(own, above), lead=lead)


def _layout(texts: Sequence[str], is_prose: bool) -> Layout:
    """Returns the layout of a column, judging by its texts: figures in one unit are aligned at the decimal point."""
    numeric = [text for text in texts if _NUMBER.match(text)]
    is_prose = is_prose or max(map(len, texts), default=0) > _LONGEST
    if is_prose or 2 * len(numeric) < len([text for text in texts if text not in ("–", "")]) or not texts:
        return Layout.words
    if any(text.startswith("[") for text in numeric):
        return Layout.centred
    units = {unit for text in numeric for unit in _UNITS.findall(text)}
    if len(units) < 2 and any((Column.split(text) or ("", ""))[1] for text in numeric):
        return Layout.decimal
    return Layout.right


def _broken(heading: str, room: float, points: float) -> tuple[str, ...]:
    """Breaks a heading into lines, so that it is not much wider than the column's cells."""
    words = re.findall(r"− [^ _]+|[^ _]+_?|_", heading)
    joints = ["" if one.endswith("_") else " " for one in words]
    whole = text_width(heading, points)
    room = max(room, whole / 2.5, max((text_width(word, points) for word in words), default=0.0))
    if whole <= 1.25 * room:
        return (heading,)
    lines, line = [], ""
    for word, joint in zip(words, ["", *joints], strict=False):
        if line and (word.startswith("(") or text_width(line + joint + word, points) > room) and word not in "↑↓":
            lines.append(line)
            line = word
        else:
            line = line + joint + word if line else word
    return (*lines, line)


@cache
def _font(bold: bool) -> Any:
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    name = "STIXGeneralBol.ttf" if bold else "STIXGeneral.ttf"  # the metrics of Times
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), 100)


@cache
def text_width(text: str, points: float, *, bold: bool = False) -> float:
    """Returns the width of a text in this size, in points."""
    # Labels of records may hold line breaks and control characters, at which the font's layout fails.
    printable = "".join(one if one.isprintable() else " " for one in visible(text))
    return float(_font(bold).getlength(printable)) * points / 100
