"""Writes tables for LaTeX (booktabs).  It escapes every special character that the tables use; pandas misses some."""

from __future__ import annotations

from benchmark.report.tables import Table

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
    # pdfLaTeX has no glyph for these, and the tables use them.
    "±": r"$\pm$",
    "−": r"$-$",
    "–": r"--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "µ": r"\textmu{}",
    "Δ": r"$\Delta$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "⁻": r"$^{-}$",
    **{superscript: rf"$^{digit}$" for digit, superscript in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}


def escape(text: str) -> str:
    """Escapes plain text for LaTeX, one character after another, so that no escape is escaped again."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    r"""Returns a ``table`` environment, which needs ``\usepackage{booktabs}`` and ``\usepackage{textcomp}``."""
    width = len(table.columns)
    lines = [
        "% \\usepackage{booktabs,textcomp}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{table.slug}}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, table.columns)) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and row.is_control and not table.rows[index - 1].is_control:
            lines.append(r"\midrule")
        if row.message is not None:
            printed = [rf"\multicolumn{{{width - 1}}}{{l}}{{\emph{{{escape(row.message)}}}}}"]
        else:
            printed = [rf"\textbf{{{escape(one.text)}}}" if one.bold else escape(one.text) for one in row.printed]
        lines.append(" & ".join([escape(row.label), *printed]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
