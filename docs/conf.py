"""Settings of Sphinx.  ``sphinx-build -W -c docs . site`` builds README.md, the pages of docs/ and the API from docstrings."""

from __future__ import annotations

from typing import Any

import benchmark

project = "lavo-bench"
release = benchmark.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "tasks/*/PROTOCOL.md",
    "reports/*/report.md",
]
suppress_warnings = ["myst.header"]  # a page may begin a part with a smaller heading

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes, which types don't say, stand in the docstrings
myst_heading_anchors = 3

html_theme = "furo"
html_show_copyright = False

CONTENTS = """
```{toctree}
:hidden:
:glob:

docs/install
docs/running
docs/lavo-in-your-model
docs/add-an-attention
docs/add-a-task
docs/lavo
docs/notation
docs/api
docs/*
tasks/*/PROTOCOL
docs/decisions/*
reports/*/report
CONTRIBUTING
CHANGELOG
```
"""


def _add_contents(_app: Any, name: str, source: list[str]) -> None:
    """Appends the list of all pages to the first one, whose text is also shown by sites that know nothing of Sphinx."""
    if name == root_doc:
        source[0] += CONTENTS


def _separate_indented(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Puts an empty line before and after indented lines, which reStructuredText needs and our docstrings lack."""
    separated: list[str] = []
    for line in lines:
        before = separated[-1] if separated else ""
        if line.strip() and before.strip() and _indentation(line) != _indentation(before):
            separated.append("")
        separated.append(line.replace("|", r"\|"))  # in our docstrings a bar is a sign of mathematics
    lines[:] = separated


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _separate_indented)
    app.connect("source-read", _add_contents)
