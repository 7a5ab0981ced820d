r"""Writes tables for LaTeX: booktabs, columns aligned at the decimal point, notes below, and no wider than a paper's page.

A file needs ``\usepackage{array,booktabs,textcomp}`` and holds ASCII only, so that every engine compiles it.  ``fitting.py``
chooses between ``table`` and ``table*``, the size of the type, and where a table is divided.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.report import numbers
from benchmark.report.escapes import breakable, escape, inline, inline_plain, label_of
from benchmark.report.fitting import Column, Fit, Layout, Part, fit
from benchmark.report.tables import Row, Table

_NOTHING = ("", numbers.MISSING)
NEEDS = r"% \usepackage{array,booktabs,textcomp}"


def to_latex(table: Table) -> str:
    """Returns the table as one float or several; its label is ``tab:SLUG``."""
    chosen = fit(table)
    floats = [_float(table, chosen, index) for index in range(len(chosen.rows))]
    return "\n".join([NEEDS, *floats])


def _float(table: Table, chosen: Fit, index: int) -> str:
    name = "table*" if chosen.is_wide else "table"
    is_last = index == len(chosen.rows) - 1
    start, stop = chosen.rows[index]
    caption = rf"\caption{{{inline_plain(table.caption)}}}"
    label = [rf"\label{{tab:{label_of(table.slug)}}}"]
    if index:  # the same number as its beginning
        caption, label = rf"\caption{{{inline_plain(table.caption)} (continued)}}", []
    lines = [rf"\begin{{{name}}}[tbp]"]
    lines += [r"\addtocounter{table}{-1}"] if index else []
    lines += [r"\centering", caption, *label, chosen.size, rf"\setlength{{\tabcolsep}}{{{chosen.padding:g}pt}}"]
    for number, part in enumerate(chosen.parts):
        lines += [r"\par\medskip"] if number else []
        lines += _tabular(chosen, part, table.rows[start:stop], is_first=number == 0)
    notes = [inline(note) for note in table.notes if note] if is_last else []
    if notes:
        lines += [
            rf"\par\smallskip\begin{{minipage}}{{{chosen.note_width:.0f}pt}}",
            r"\footnotesize\raggedright",
            *(rf"{note}\par" for note in notes),
            r"\end{minipage}",
        ]
    return "\n".join([*lines, rf"\end{{{name}}}"]) + "\n"


def _tabular(chosen: Fit, part: Part, rows: Sequence[Row], *, is_first: bool) -> list[str]:
    """Returns the lines of one ``tabular``: the labels, and the part's columns."""
    columns = [chosen.label, *part.columns]
    lines = [
        rf"\begin{{tabular}}{{@{{}}{''.join(column.preamble for column in columns)}@{{}}}}",
        r"\toprule",
        " & ".join(_heading(column) for column in columns) + r" \\",
        r"\midrule",
    ]
    if not is_first:  # what is measured there alone; dashes say nothing
        rows = [
            row
            for row in rows
            if any(row.printed[column.place].text not in _NOTHING for column in part.columns if row.printed)
        ]
    has_paragraphs = any(column.layout is Layout.wrapped for column in columns)
    for index, row in enumerate(rows):
        if index and row.is_control and not rows[index - 1].is_control:
            lines.append(r"\midrule")
        elif index and has_paragraphs:
            lines.append(r"\addlinespace[2pt]")
        label = breakable(row.label) if chosen.label.width else escape(row.label)
        if row.message is not None:
            span = sum(column.cells for column in part.columns)
            text = rf"\raggedright\emph{{{breakable(row.message)}}}\arraybackslash"
            printed = [rf"\multicolumn{{{span}}}{{p{{{part.message_width:.0f}pt}}@{{}}}}{{{text}}}"]
        else:
            printed = [
                _cell(row.printed[column.place].text, row.printed[column.place].bold, column) for column in part.columns
            ]
        lines.append(" & ".join([label, *printed]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _heading(column: Column) -> str:
    if column.layout is Layout.wrapped:
        return breakable(" ".join(column.heading), every=8)
    lines = [escape(line) for line in column.heading]
    side = "l" if column.layout in (Layout.words, Layout.wrapped) else "r" if column.layout is Layout.right else "c"
    broken = r" \\ ".join(lines)
    body = lines[0] if len(lines) == 1 else rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{broken}\end{{tabular}}"
    return rf"\multicolumn{{2}}{{c}}{{{body}}}" if column.layout is Layout.decimal else body


def _cell(text: str, bold: bool, column: Column) -> str:
    if column.layout is Layout.decimal:
        split = column.split(text)
        if split is None:
            return rf"\multicolumn{{2}}{{c}}{{{_bold(escape(text), bold)}}}"
        head, tail = (escape(part) for part in split)
        tail = tail.replace(" ", "~", 1) if tail.startswith(" ") else tail  # LaTeX drops a space after &
        return "&".join(_bold(part, bold) if part else "" for part in (head, tail))
    return _bold(breakable(text) if column.layout is Layout.wrapped else escape(text), bold)


def _bold(text: str, bold: bool) -> str:
    return rf"\textbf{{{text}}}" if bold else text
