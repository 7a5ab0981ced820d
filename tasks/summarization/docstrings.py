"""The embedded data: functions and classes of the running interpreter's standard library, and their docstrings.

A source is the body of a function or class without any docstring in it; its summary is the first sentence of its own
docstring.  On request the ``def`` or ``class`` line stands before the body: its names often say half of the summary.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from tasks.language_modeling.data import Sources
from tasks.summarization.pairs import Pair

Target = Literal["sentence", "paragraph", "docstring"]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# A sentence ends with . ! or ? before white space and a capital, digit, quote or bracket, or at the end of the text.
# "e.g.", "i.e.", "etc." and "vs." end no sentence.
SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<=[.!?])[)\"'`]*\s+(?=[A-Z0-9\"'`(])|\Z")
MIN_WORDS = 3  # a shorter "sentence" says nothing, or begins a table


def find_definitions(
    modules: Sources, target: Target, limits: Mapping[str, int | None], *, signature: bool = False
) -> dict[str, tuple[Pair, ...]]:
    """The pairs of each part.

    modules: what ``find_modules`` of the language-modelling task found; its split is kept, so each module lies in one
    part.  Equal code is kept once, so no code is in two parts.  limits: the number of pairs of a part, None for all;
    modules are taken in the order of a digest of their names.
    """
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[bytes] = set()
    parts = {}
    # Test first: of code that occurs twice, the copy for scoring is kept and the one for training left out.
    for part in ("test", "validation", "train"):
        kept: list[Pair] = []
        limit = limits[part]
        for document in sorted(
            modules.parts[part], key=lambda document: hashlib.sha256(document.name.encode()).digest()
        ):
            if limit is not None and len(kept) >= limit:
                break
            name = document.path.relative_to(root).as_posix()
            for pair in pairs_of_module(name, document.path.read_text(encoding="utf-8"), target, signature=signature):
                digest = hashlib.sha256(pair.documents[0].encode()).digest()
                if digest not in seen:
                    seen.add(digest)
                    kept.append(pair)
        parts[part] = tuple(kept[:limit])
    return parts


def pairs_of_module(name: str, text: str, target: Target = "sentence", *, signature: bool = False) -> Iterator[Pair]:
    """The pairs of one module.  name: the module's path, for the names of the pairs.

    A definition gives no pair where its body is nothing but a docstring, or where both stand on one line.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules have escapes that Python now warns of
        try:
            tree = ast.parse(text)
        except SyntaxError:  # lib2to3, for one, has templates that are not Python
            return
    lines = _without_docstrings(tree, text)
    for node in ast.walk(tree):
        if isinstance(node, Definition) and (summary := summary_of(ast.get_docstring(node) or "", target)):
            body = node.body[1:]
            if not body or body[0].lineno == node.body[0].end_lineno:
                continue
            first = _first_line(node if signature else body[0])
            code = "\n".join(line for line in lines[first - 1 : node.end_lineno] if line is not None)
            yield Pair(f"{name}:{node.lineno} {node.name}", (textwrap.dedent(code).strip(),), (summary,))


def _first_line(node: ast.stmt) -> int:
    """The line on which a statement begins; a definition begins with its first decorator."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def _without_docstrings(tree: ast.AST, text: str) -> list[str | None]:
    """The lines of a module, None for a line that held nothing but a docstring."""
    lines: list[bytes | None] = [line.encode() for line in re.split(r"\r\n|\r|\n", text)]  # the parser's own lines
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.Module) and (found := _docstring(node)) is not None:
            start, stop = found.lineno - 1, (found.end_lineno or found.lineno) - 1
            before = (lines[start] or b"")[: found.col_offset]  # the parser counts columns in bytes
            after = (lines[stop] or b"")[found.end_col_offset :]
            lines[start : stop + 1] = [(before + after).rstrip() or None, *[None] * (stop - start)]
    return [None if line is None else line.decode() for line in lines]


def _docstring(node: Definition | ast.Module) -> ast.Constant | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.value
    return None


def summary_of(docstring: str, target: Target = "sentence") -> str:
    """The first sentence of a docstring, its first paragraph, or all of it; empty below ``MIN_WORDS`` words."""
    text = inspect.cleandoc(docstring)
    if target != "docstring":
        text = " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split())
    if target == "sentence" and (end := SENTENCE_END.search(text)):
        text = text[: end.start()].rstrip()
    return text if len(re.findall(r"[A-Za-z]{2,}", text)) >= MIN_WORDS else ""
