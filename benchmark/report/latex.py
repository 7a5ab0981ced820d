r"""Writes tables for LaTeX: booktabs, columns aligned at the decimal point, notes below, and no wider than a paper's page.

A file needs ``\usepackage{array,booktabs,textcomp}`` and holds ASCII only, so that every engine compiles it.  ``fitting.py``
chooses between ``table`` and ``table*``, the size of the type, and where a table is divided.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from benchmark.report import numbers
from benchmark.report.fitting import Column, Fit, Layout, Part, fit
from benchmark.report.tables import Row, Table

_NOTHING = ("", numbers.MISSING)
NEEDS = r"% \usepackage{array,booktabs,textcomp}"
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\`{}",
    "'": "'",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u00a0": "~",
    # LaTeX's text fonts have no glyph for these.
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "≈": r"$\approx$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "µ": r"\textmu{}",
    "μ": r"\textmu{}",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "°": r"\textdegree{}",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "ł": r"\l{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ε": r"$\epsilon$",
    "λ": r"$\lambda$",
    "π": r"$\pi$",
    "σ": r"$\sigma$",
    "φ": r"$\phi$",
    "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$",
    "⁻": r"$^{-}$",
    **{superscript: rf"$^{digit}$" for digit, superscript in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{subscript: rf"$_{digit}$" for digit, subscript in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}
_ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v"}
_ACCENTS |= {"\u0327": "c", "\u0328": "k", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H"}


def escape(text: str) -> str:
    """Escapes plain text for LaTeX, one character after another, so that no escape is escaped again.

    The result is ASCII.  A character that LaTeX's usual fonts lack, such as a Cyrillic letter, becomes its code: ``[U+0416]``.
    """
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if " " <= character <= "\x7e":
        return character
    if character.isspace():
        return " "
    base, *marks = list(unicodedata.normalize("NFD", character))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return "" if unicodedata.category(character).startswith("C") else f"[U+{ord(character):04X}]"


def inline(markdown: str) -> str:
    """Returns a paragraph of markdown as LaTeX: emphasis, code, links and text; markup of HTML is text."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": False}).parseInline(markdown)[0].children or []
    opening = {"strong_open": r"\textbf{", "em_open": r"\emph{", "strong_close": "}", "em_close": "}"}
    parts = []
    for token in tokens:
        if token.type == "code_inline":
            parts.append(rf"\texttt{{{breakable(token.content)}}}")
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        else:  # of a link, the words alone
            parts.append(opening.get(token.type, breakable(token.content)))
    return "".join(parts)


def breakable(text: str, *, every: int = 16) -> str:
    r"""Escapes text, and lets LaTeX break long words: after ``_``, ``/``, ``=`` and the like, and within a long run of letters."""
    return " ".join(_breakable(word, every) for word in escape_words(text))


def escape_words(text: str) -> list[str]:
    """Returns the words of a text; a non-breaking space stays within its word."""
    return text.replace("\n", " ").split(" ")


def _breakable(word: str, every: int) -> str:
    if len(word) <= every:
        return escape(word)
    parts, run = [], 0
    for character in word:
        run += 1
        parts.append(escape(character))
        if character in "_/=.,;:·-+" or run == every:
            parts.append(r"\allowbreak{}")
            run = 0
    return "".join(parts)


def to_latex(table: Table) -> str:
    """Returns the table as one float or several; its label is ``tab:SLUG``."""
    chosen = fit(table)
    floats = [_float(table, chosen, index) for index in range(len(chosen.rows))]
    return "\n".join([NEEDS, *floats])


def label_of(slug: str) -> str:
    """Returns a slug as LaTeX's labels and file names take it: ASCII letters, digits, ``-`` and ``_``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f"u{ord(c):x}" for c in slug)


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


def inline_plain(text: str) -> str:
    """Escapes the text of a caption; long names may be broken."""
    return breakable(text, every=24)


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
    for index, row in enumerate(rows):
        if index and row.is_control and not rows[index - 1].is_control:
            lines.append(r"\midrule")
        label = breakable(row.label, every=24) if chosen.label.width else escape(row.label)
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
