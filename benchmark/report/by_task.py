"""Calls a task's own ``figures.py`` and ``exhibits.py`` with the records of a group (one table of the report)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.interface import Exhibit
from benchmark.registry import TASKS
from benchmark.report.groups import Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("figures", "exhibits")


def task_figures(group: Group) -> Mapping[str, Figure | None]:
    """Returns the task's own figures of this group by name, in the report's colours."""
    from benchmark.report.style import recolour, style_of

    figures: Mapping[str, Figure | None] = _made_by_task(group, "figures") or {}
    styles = {entry.label: style_of(entry.label) for entry in group.entries}
    for figure in figures.values():
        if figure is not None:
            recolour(figure, styles)
    # The pattern is left out of the names, because the group's slug and title contain it.
    return {name.replace(f"_{group.pattern}", ""): figure for name, figure in figures.items()}


def task_exhibits(group: Group) -> Sequence[Exhibit]:
    """Returns the task's outputs that can be read or listened to, if it has any."""
    return _made_by_task(group, "exhibits") or ()


def _made_by_task(group: Group, part: str) -> Any:
    """Calls the function of a part (figures or exhibits) with the completed records; None without the part or records."""
    completed = [record for record in group.records if record.is_completed]
    if group.task not in TASKS or not completed or _spec(group.task, part) is None:
        return None
    return getattr(importlib.import_module(_module(group.task, part)), part)(completed)


def module_file(task: str, part: str) -> Path | None:
    """Returns the file of the task's ``figures`` or ``exhibits``, or None if the task has none."""
    spec = _spec(task, part)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _module(task: str, part: str) -> str:
    return f"{TASKS[task].partition(':')[0].rpartition('.')[0]}.{part}"


def _spec(task: str, part: str) -> Any:
    package = _module(task, part).rpartition(".")[0]
    return importlib.util.find_spec(_module(task, part)) if importlib.util.find_spec(package) is not None else None
