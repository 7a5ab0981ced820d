"""The note of a table on learning rates: which attention was trained at which, and how they were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.interface import REFERENCE
from benchmark.report.groups import Entry, Group, learning_rate
from benchmark.settings.tuned import Chosen, TunedFile


def rate_notes(group: Group, files: Iterable[TunedFile]) -> list[str]:
    """Returns a note on the learning rates of the attentions and of ``none``, as plain text; files: those of ``lavo-bench tune``.

    It says that there was one grid for all only if the files bear that out.
    """
    rates: dict[str, list[str]] = {}
    untuned: list[str] = []
    searches: dict[str, Chosen | None] = {}
    files = list(files)
    for entry in group.entries:
        rate = learning_rate(entry.completed[0]) if entry.completed else None
        if rate is None:
            continue
        rates.setdefault(f"{rate:g}", []).append(entry.label)
        if entry.completed[0].config.learning_rate_from == "tuned":
            searches[entry.label] = _search(group, entry, rate, files)
        else:
            untuned.append(entry.label)
    if not rates:
        return []
    if not searches and len(rates) == 1:
        return [f"All at one learning rate, {next(iter(rates))}: no attention was tuned."]
    chosen = "; ".join(f"{rate}: {', '.join(labels)}" for rate, labels in rates.items())
    if not searches:
        return [f"Learning rates: {chosen}."]
    exceptions = f" Not tuned: {', '.join(untuned)}." if untuned else ""
    return [f"Learning rates, chosen on validation data{_how(searches)}: {chosen}.{exceptions}"]


def _search(group: Group, entry: Entry, rate: float, files: Sequence[TunedFile]) -> Chosen | None:
    """Returns the search that gave this rate; of several files the last one counts."""
    attention = REFERENCE if entry.is_exact else entry.attention
    for file in reversed(files):
        for one in file.chosen if (file.task, file.preset) == (group.task, group.preset) else ():
            place = (one.backbone, one.attention, one.data, one.learning_rate)
            if place == (group.backbone, attention, group.data.sha256, rate) and group.pattern in one.sites:
                return one
    return None


def _how(searches: dict[str, Chosen | None]) -> str:
    known = {label: one for label, one in searches.items() if one is not None and one.grid}
    if len(known) < len(searches):
        return ""
    tried = {label: len(one.tried) for label, one in known.items()}
    if len({one.grid for one in known.values()}) == 1:
        fewest, most = min(tried.values()), max(tried.values())
        number = str(most) if fewest == most else f"{fewest} to {most}"
        return f" from one grid for all, which was extended where the best rate lay at its edge ({number} rates each)"
    shown = ", ".join(f"{label} {number}" for label, number in tried.items())
    return f" from different grids (rates tried: {shown})"
