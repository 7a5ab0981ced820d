"""The tables that the commands print."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from benchmark.interface import PATTERNS, PRESETS
from benchmark.registry import SHORT_NAMES, TASKS, attention_declarations, attention_names, task_declarations

PRESET_PURPOSE = {
    "smoke": "CI: seconds a cell",
    "quick": "the default of run_all.sh: minutes for everything",
    "small": "minutes a cell on 2 cores: the smallest at which differences between attentions can be resolved",
    "gpu": "minutes a cell on one large GPU",
    "paper": "the published protocol",
}


def tasks() -> Table:
    """Returns the table of tasks, with their short names, backbones and patterns."""
    short = {long: name for name, long in SHORT_NAMES.items()}
    table = Table("task", "short", "backbone", "patterns", title="tasks")
    for task in TASKS:
        for backbone, patterns in task_declarations(task)["backbones"].items():
            table.add_row(task, short.get(task, ""), backbone, ", ".join(patterns))
    return table


def attentions() -> Table:
    """Returns the table of attentions, with the patterns that they support, and the reasons against the others."""
    table = Table("attention", *PATTERNS, "state", "why not", title="attentions")
    for name in attention_names():
        declared = attention_declarations(name)
        unsupported = declared.get("unsupported", {})
        marks = ["no" if pattern in unsupported else "yes" for pattern in PATTERNS]
        reasons = "; ".join(f"{pattern}: {reason}" for pattern, reason in unsupported.items())
        table.add_row(name, *marks, "constant" if declared.get("linear_state") else "grows", reasons)
    return table


def presets() -> Table:
    """Returns the table of presets, and what each is for."""
    table = Table("preset", "for", title="presets")
    for name in PRESETS:
        table.add_row(name, PRESET_PURPOSE[name])
    return table


def results(directory: Path, *, damaged: Callable[[str], None] = warnings.warn) -> Table:
    """Returns a table that counts the records below a folder, by folder, task and status; empty if there is no folder.

    damaged: called with one line for each record that can't be read; it isn't counted.
    Raises ValueError if ``directory`` is a file.
    """
    from benchmark.results import load

    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: is a file, not a folder of results")
    title = f"results in {directory}" if directory.exists() else f"no folder {directory} yet, so no results"
    table = Table("folder", "task", "cells", "completed", "other", title=title)
    if not directory.exists():
        return table
    folders = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    lines: list[str] = []
    for folder in folders:
        cells = load(folder, damaged=lines.append)
        for task, group in cells.groupby("task") if len(cells) else []:
            completed = int((group["status"] == "completed").sum())
            table.add_row(str(folder), str(task), str(len(group)), str(completed), str(len(group) - completed))
    for line in dict.fromkeys(lines):  # once: it is found below ``directory``, and again below its own subfolder
        damaged(line)
    return table


def sites(directory: Path, *, damaged: Callable[[str], None] = warnings.warn) -> Table:
    """Returns the table of site cards of the records below a folder.  Parameters and exceptions as ``results``."""
    from benchmark.report.cards import card_of, card_table
    from benchmark.report.groups import group_records
    from benchmark.results import records
    from benchmark.settings.tuned import read_rates

    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: is a file, not a folder of results")
    title = f"sites in {directory}" if directory.exists() else f"no folder {directory} yet, so no results"
    files = read_rates().files
    folders = [directory, *sorted(path for path in directory.glob("*") if path.is_dir())] if directory.exists() else []
    table: Table | None = None
    for folder in folders:
        groups = group_records(records([folder], damaged=damaged))
        shown = card_table([(group, card) for group in groups if (card := card_of(group, files)) is not None])
        table = table or Table("folder", *shown.columns, title=title)
        for row in shown.rows:
            table.add_row(str(folder), row.label, *(one.text for one in row.printed))
    return table or Table("folder", "site", "verdict", title=title)


def checks(title: str, found: Sequence[tuple[Any, str]]) -> Table:
    """Returns a table of results of the conformance suite.

    found: a result, and which cells can't be run or trusted because of it, or "".
    """
    table = Table("check", "pattern", "outcome", "detail", title=title)
    for result, consequence in found:
        style = {"passed": "green", "failed": "bold red", "missing": "yellow"}.get(result.outcome, "dim")
        detail = escape(f"{result.detail}; {consequence}" if consequence else result.detail)
        table.add_row(result.check, result.pattern, f"[{style}]{result.outcome}[/{style}]", detail)
    return table


def plain(table: Any, *, title: str) -> Table:
    """Returns a table of the report for the terminal, within 80 columns if its figures are."""
    shown = Table(*table.columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for row in table.rows:
        texts = [f"[dim]{escape(row.message)}[/dim]"] if row.message else [escape(one.text) for one in row.printed]
        shown.add_row(escape(row.label), *texts)
    return shown
