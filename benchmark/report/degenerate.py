"""Finds cells that completed and yet show nothing: no utterance stopped, every summary empty, or a loss that diverged.

Their figures stand in the tables with a mark, and the tables in which one stands enter no average across tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.report.groups import Entry, Group
from benchmark.results import Record

MARK = "‡"
_END = (
    10  # the loss at the end is the mean over the last tenth of the steps, that at the beginning over the first tenth
)


def fault_of(record: Record) -> str | None:
    """Returns why a completed cell is degenerate; None if it isn't."""
    if not record.is_completed:
        return None
    unstopped = record.metrics.get("unstopped")
    if unstopped is not None and unstopped.value is not None and unstopped.n and unstopped.value >= unstopped.n:
        return "no utterance stopped by itself"
    if _only_empty(record.curves.get("examples"), record.value("rouge1")):
        return "every summary is empty"
    return _divergence(record.curves.get("training"))


def faults(entry: Entry) -> dict[int, str]:
    """Returns seed -> why it is degenerate, for the row's seeds that are."""
    return {record.cell.seed: fault for record in entry.completed if (fault := fault_of(record)) is not None}


def notes(entries: Sequence[Entry]) -> list[str]:
    """Returns a note for each row with a degenerate seed."""
    found = []
    for entry in entries:
        by_reason: dict[str, list[str]] = {}
        for seed, reason in faults(entry).items():
            by_reason.setdefault(reason, []).append(str(seed))
        found += [
            f"{MARK} {entry.label}, seed {', '.join(seeds)}: degenerate, {reason}; the table enters no average across tables."
            for reason, seeds in by_reason.items()
        ]
    return found


def is_degenerate(group: Group) -> bool:
    """Returns whether an attention of the table has a degenerate seed, or the control ``none``, which is the zero of its scores."""
    return any(faults(entry) for entry in (*group.contenders, group.nothing) if entry is not None)


def _only_empty(examples: Any, rouge: float | None) -> bool:
    if not examples or rouge is None or not isinstance(examples, list):
        return False
    return rouge == 0 and all(not str(example.get("summary", "x")).strip() for example in examples)


def _divergence(training: Any) -> str | None:
    losses = [] if not training else [np.nan if loss is None else loss for loss in training.get("loss") or []]
    if len(losses) < 2 * _END:
        return None
    tenth = len(losses) // _END
    first, last = np.array(losses[:tenth], dtype=float), np.array(losses[-tenth:], dtype=float)
    if not np.isfinite(last).all():
        return "the training loss is not finite at the end"
    return "the training loss is higher at the end than at the beginning" if last.mean() > np.nanmax(first) else None
