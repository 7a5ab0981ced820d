"""The table of a group's costs: parameters, time and memory of its cells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from benchmark.report import numbers
from benchmark.report.groups import Entry, Group, words
from benchmark.report.tables import Printed, Row, Table

COSTS: Mapping[
    str, tuple[str, Callable[[float | None], str]]
] = {  # field of ``Efficiency`` -> heading, and the function that writes it
    "parameters": ("parameters", numbers.count),
    "extra_parameters": ("extra", numbers.count),
    "train_seconds": ("training", numbers.duration),
    "tokens_per_second": ("tokens/s", numbers.count),
    "examples_per_second": ("examples/s", numbers.significant),
    "base_bytes": ("memory before", numbers.size),
    "peak_bytes": ("peak memory", numbers.size),
}


def cost_table(group: Group) -> Table | None:
    """Returns the table of the cells' parameters, time and memory (medians over seeds); None if none are known."""
    entries = [entry for entry in group.entries if entry.completed]
    keys = [key for key in COSTS if any(_cost(entry, key) is not None for entry in entries)]
    if not keys:
        return None
    columns = ["attention", "kernel", *(COSTS[key][0] for key in keys)]
    rows, values = [], []
    for entry in entries:
        kernels = ", ".join(_kernels(entry)) or numbers.MISSING
        printed = [Printed(kernels)]
        for key in keys:
            value = _cost(entry, key)
            printed.append(Printed(COSTS[key][1](value) + (_share(entry) if key == "extra_parameters" else "")))
        rows.append(Row(entry.label, tuple(printed), is_control=entry.is_control))
        values.append({"attention": entry.label, "kernel": kernels, **{key: _cost(entry, key) for key in keys}})
    caption = f"Cost of {words(group.task)}, {group.title}: medians over seeds."
    notes = [
        "Extra: parameters that the attention adds to the backbone, and their share of it; the benchmark's limit is 10 %."
    ]
    return Table(f"{group.slug}-cost", caption, columns, rows, values, notes)


def _cost(entry: Entry, key: str) -> float | None:
    found = [getattr(record.efficiency, key) for record in entry.completed]
    known = [float(value) for value in found if value is not None]
    return statistics.median(known) if known else None


def _kernels(entry: Entry) -> list[str]:
    return list(dict.fromkeys(kernel for record in entry.completed for kernel in record.efficiency.kernels))


def _share(entry: Entry) -> str:
    extra, total = _cost(entry, "extra_parameters"), _cost(entry, "parameters")
    if not extra or not total or total <= extra:
        return ""
    return f" ({numbers.significant(100 * extra / (total - extra), 2)} %)"
