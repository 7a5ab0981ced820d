"""What an attention can be used for now, from the results of its checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.checking.conformance import CONTRACT, CheckResult
from benchmark.registry import TASKS, streamed_patterns, task_declarations

_STREAMING = ("streaming", "branching", "select", "state_size")
_CONTRACT = tuple(check.__name__ for check in CONTRACT)


def is_contract(row: CheckResult) -> bool:
    """Returns whether the row is about what the engine relies on, and not about the function itself."""
    return row.check in _CONTRACT


def sites_with(pattern: str, *, streamed: bool | None = None) -> list[str]:
    """Returns the sites of a pattern as ``backbone.pattern``.

    streamed: only those that are read piece by piece when they are evaluated, or only the others; None: both.
    """
    found = []
    for task in TASKS:
        for backbone, patterns in task_declarations(task)["backbones"].items():
            is_streamed = pattern in streamed_patterns(task, backbone)
            if pattern in patterns and streamed in (None, is_streamed):
                found.append(f"{backbone}.{pattern}")
    return found


def consequence(row: CheckResult) -> str:
    """Returns which cells can't be run, or would be wrong, because of a row that failed or has something missing; else ""."""
    if row.outcome not in ("failed", "missing") or not is_contract(row):
        return ""
    sites = sites_with(row.pattern, streamed=True if row.check in _STREAMING else None)
    if not sites:
        return ""
    return f"{'can’t be run' if row.outcome == 'missing' else 'not to be trusted'}: {', '.join(sites)}"


def sentence(name: str, results: Sequence[CheckResult]) -> str:
    """Returns one sentence on what the attention can be used for now."""
    usable: list[str] = []
    parts: list[str] = []
    lacking: list[str] = []
    for pattern in dict.fromkeys(row.pattern for row in results):
        rows = [row for row in results if row.pattern == pattern]
        failed = [row for row in rows if row.outcome == "failed"]
        if rows[0].check == "pattern":
            parts.append(f"{pattern} is declared unsupported")
        elif any(not is_contract(row) for row in failed):
            parts.append(f"{pattern} computes something else than it says ({_names(failed)} failed)")
        elif failed:
            parts.append(f"{pattern} breaks the contract ({_names(failed)} failed)")
        else:
            is_missing = any(row.outcome == "missing" for row in rows)
            usable += sites_with(pattern, streamed=False if is_missing else None)
            lacking += sites_with(pattern, streamed=True) if is_missing else []
    if lacking:
        parts.append(f"{_by_backbone(lacking)} would need its streaming, which it lacks")
    first = f"{name} can be used in {_by_backbone(usable)}" if usable else f"{name} can’t be used yet"
    return "; ".join([first, *parts]) + "."


def _by_backbone(sites: Sequence[str]) -> str:
    """Returns a list as "gpt, informer (noncausal self)": a backbone alone has all of its sites among these."""
    shown = []
    for task in TASKS:
        for backbone, patterns in task_declarations(task)["backbones"].items():
            found = [pattern for pattern in patterns if f"{backbone}.{pattern}" in sites]
            if found:
                some = ", ".join(found).replace("_", " ")
                shown.append(backbone if len(found) == len(patterns) else f"{backbone} ({some})")
    return ", ".join(shown)


def _names(rows: Iterable[CheckResult]) -> str:
    return ", ".join(row.check for row in rows)
