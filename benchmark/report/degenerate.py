"""Finds cells that completed and yet show nothing: no utterance stopped, every summary empty, or a loss that diverged.

Their figures stand in the tables with a mark.  A table leaves the averages across tables only if softmax or ``none`` is degenerate in it,
because the scale of its scores is then undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.interface import NOTHING
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
    """Returns a note for each row of a table with a degenerate seed, and what it means for averages across tables."""
    reference = next((entry for entry in entries if entry.is_exact and entry.completed), None)
    found = []
    for entry in entries:
        by_reason: dict[str, list[str]] = {}
        for seed, reason in faults(entry).items():
            by_reason.setdefault(reason, []).append(str(seed))
        consequence = "" if entry.is_control else "; its figure enters averages across tables as it stands"
        if entry is reference or entry.attention == NOTHING:
            consequence = "; the table enters no average across tables, because its scale is undefined"
        found += [
            f"{MARK} {entry.label}, seed {', '.join(seeds)}: degenerate, {reason}{consequence}."
            for reason, seeds in by_reason.items()
        ]
    return found


def has_broken_scale(group: Group) -> bool:
    """Returns whether softmax or ``none``, the ends of the scale of scores, has a degenerate seed."""
    return any(faults(entry) for entry in (group.reference, group.nothing) if entry is not None)


def has_broken_rival(group: Group, attention: str) -> bool:
    """Returns whether another attention than this one has a degenerate seed, or the control ``none``, which is the zero of the scores.

    The attention's own degenerate cells count against it like any other figure, so that it doesn't gain by failing.
    """
    entries = [entry for entry in (*group.contenders, group.nothing) if entry is not None]
    return any(faults(entry) for entry in entries if entry.attention != attention)


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
