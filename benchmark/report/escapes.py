"""Escapes plain text and markdown for LaTeX.  The result is ASCII, so that every engine and encoding takes it."""

from __future__ import annotations

import unicodedata
from functools import cache

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


def visible(text: str) -> str:
    """Returns the text as it is printed: characters that LaTeX's usual fonts lack are their codes.  Widths depend on it."""
    return "".join(
        found if found.startswith("[U+") else character if found else ""
        for character, found in ((one, _escaped(one)) for one in text)
    )


@cache
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


def breakable(text: str, *, every: int = 12) -> str:
    r"""Escapes text, and lets LaTeX break long words: after ``_``, ``/``, ``=`` and the like, and within a long run of letters."""
    return " ".join(_breakable(word, every) for word in escape_words(text))


def escape_words(text: str) -> list[str]:
    """Returns the words of a text; a non-breaking space stays within its word."""
    return text.replace("\n", " ").split(" ")


def _breakable(word: str, every: int) -> str:
    if len(visible(word)) <= every:
        return escape(word)
    parts, run = [], 0
    for character in word:
        length = len(visible(character))
        if run and run + length > every:
            parts.append(r"\allowbreak{}")
            run = 0
        run += length
        parts.append(escape(character))
        if character in "_/=.,;:·-+":
            parts.append(r"\allowbreak{}")
            run = 0
    return "".join(parts)


def inline_plain(text: str) -> str:
    """Escapes the text of a caption; long names may be broken."""
    return breakable(text, every=24)


def label_of(slug: str) -> str:
    """Returns a slug as LaTeX's labels and file names take it: ASCII letters, digits, ``-`` and ``_``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f"u{ord(c):x}" for c in slug)
