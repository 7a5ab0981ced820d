"""Records grouped as a table shows them: one group a table, one entry a row, one record a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from benchmark.interface import PATTERNS, Metric
from benchmark.registry import ATTENTIONS, TASKS, attention_declarations, load_task, task_declarations
from benchmark.results import CellConfig, DataSource, MetricValue, Record

OWN_TRAINING = ("learning_rate",)
"""Training settings that may be chosen for each attention: rows of one table may differ in them."""


@dataclass(frozen=True)
class Entry:
    """One row of a table: an attention with its options, over seeds."""

    label: str
    attention: str
    records: tuple[Record, ...]  # one a seed, in the order of seeds

    @property
    def completed(self) -> list[Record]:
        """The records that have metrics."""
        return [record for record in self.records if record.is_completed]

    @property
    def is_control(self) -> bool:
        """Whether the attention declares itself a control."""
        return bool(declared(self.attention).get("control", False))

    @property
    def is_exact(self) -> bool:
        """Whether the attention computes softmax attention exactly."""
        return bool(declared(self.attention).get("exact", False))

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> value, of the seeds that have one."""
        found = {record.cell.seed: record.value(metric) for record in self.completed}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class Group:
    """The cells that may be compared: one task, backbone, pattern, preset, data and settings."""

    task: str
    backbone: str
    pattern: str
    preset: str
    data: DataSource
    settings: CellConfig  # without those that are an attention's own
    difference: str  # what tells it from other groups of its task, backbone and pattern; mostly ""
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Backbone and pattern, and what tells it from other groups of these."""
        parts = [words(self.backbone), words(self.pattern), self.difference]
        return " · ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """The beginning of the names of its files."""
        parts = [self.task, self.backbone, self.pattern, self.difference]
        return "-".join("".join(c if c.isalnum() or c == "_" else "-" for c in part) for part in parts if part)

    @property
    def contenders(self) -> list[Entry]:
        """The rows that are no controls."""
        return [entry for entry in self.entries if not entry.is_control]

    @property
    def records(self) -> list[Record]:
        """Those of all rows."""
        return [record for entry in self.entries for record in entry.records]

    @property
    def seeds(self) -> list[int]:
        """All seeds of its records, in order."""
        return sorted({record.cell.seed for record in self.records})

    @property
    def reference(self) -> Entry | None:
        """The first exact attention that has results: what the others are compared with."""
        return next((entry for entry in self.entries if entry.is_exact and entry.completed), None)

    def metrics(self) -> dict[str, MetricValue]:
        """Name -> one record's value of it, for its unit and direction; the headline first."""
        found: dict[str, MetricValue] = {}
        for record in self.records:
            for name, metric in record.metrics.items():
                found.setdefault(name, metric)
        order = [name for name in task_metrics(self.task) if name in found]
        return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}

    def rules(self) -> dict[str, dict[str, list[float]]]:
        """The controls that are trivial rules."""
        return {name: values for name, values in self.controls().items() if name not in floors(self.task)}

    def controls(self) -> dict[str, dict[str, list[float]]]:
        """Control -> metric -> its distinct values over the records (a rule without randomness has one)."""
        found: dict[str, dict[str, list[float]]] = {}
        for record in self.records:
            for control, metrics in record.controls.items():
                for metric, value in metrics.items():
                    values = found.setdefault(control, {}).setdefault(metric, [])
                    if value is not None and value not in values:
                        values.append(value)
        return found


@cache
def declared(attention: str) -> dict[str, Any]:
    """What an attention declares; nothing for one that isn't installed where the report is made."""
    try:
        return attention_declarations(attention)
    except (ValueError, ImportError):
        return {}


@cache
def task_metrics(task: str) -> Mapping[str, Metric]:
    """The task's metrics with their cards; none where the task isn't installed."""
    try:
        metrics: Mapping[str, Metric] = load_task(task).metrics
        return metrics
    except (ValueError, ImportError):
        return {}


@cache
def floors(task: str) -> tuple[str, ...]:
    """Controls that are the best possible, not trivial rules; none where the task isn't installed."""
    try:
        return tuple(task_declarations(task).get("floors", ()))
    except (ValueError, ImportError):
        return ()


def group_records(records: Iterable[Record]) -> list[Group]:
    """Groups in the order of the registries; within one the attentions, the exact ones first."""
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        by_settings.setdefault(_settings_key(record), []).append(record)
    members = [newest(part) for group in by_settings.values() for part in _by_data(group)]
    members.sort(key=lambda group: _order(group[0]))
    return [_group(group, _siblings(group, members)) for group in members]


def newest(records: Iterable[Record]) -> list[Record]:
    """One record an entry and seed: of several (found twice, or of another version) the one that started last."""
    latest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.started or ""):
        latest[canonical([_entry_key(record), record.cell.seed])] = record
    return list(latest.values())


def _by_data(records: Sequence[Record]) -> list[list[Record]]:
    """Parted by the data's fingerprint; a cell that read no data, because it is unsupported, stands in every part."""
    fingerprints = list(dict.fromkeys(record.data.sha256 for record in records if record.data.sha256))
    if len(fingerprints) < 2:
        return [list(records)]
    return [[record for record in records if record.data.sha256 in (wanted, None)] for wanted in fingerprints]


def words(name: str) -> str:
    """A name of the contract as a reader's words: noncausal_self -> noncausal self."""
    return name.replace("_", " ")


def canonical(value: Any) -> str:
    """A text that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, default=str)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``data.horizon`` -> value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def settings_by_name(settings: CellConfig) -> dict[str, Any]:
    """What a table's cells have in common, as ``flat`` has it: ``data.horizon`` -> value."""
    return flat({part.name: getattr(settings, part.name) for part in fields(settings) if part.name != "options"})


def _shared_settings(record: Record) -> CellConfig:
    train = {key: value for key, value in record.config.train.items() if key not in OWN_TRAINING}
    return replace(record.config, train=train, options={})


def own_settings(record: Record) -> dict[str, Any]:
    """The attention's options, and the training settings that were chosen for it."""
    train = record.config.train
    return {"options": record.config.options, **{key: train[key] for key in OWN_TRAINING if key in train}}


def learning_rate(record: Record) -> float | None:
    """None where the record has none that is a number."""
    rate = record.config.train.get("learning_rate")
    return float(rate) if isinstance(rate, int | float) else None


def _settings_key(record: Record) -> str:
    cell = record.cell
    settings = settings_by_name(_shared_settings(record))
    return canonical([cell.task, cell.backbone, cell.pattern, cell.preset, settings])


def _entry_key(record: Record) -> str:
    return canonical([record.cell.attention, record.cell.label, own_settings(record)])


def _order(record: Record) -> tuple[Any, ...]:
    cell = record.cell
    tasks, patterns = list(TASKS), [str(pattern) for pattern in PATTERNS]
    task = tasks.index(cell.task) if cell.task in tasks else len(tasks)
    pattern = patterns.index(cell.pattern) if cell.pattern in patterns else len(patterns)
    return task, cell.task, cell.backbone, pattern, cell.preset, _settings_key(record)


def _siblings(group: Sequence[Record], groups: Sequence[Sequence[Record]]) -> list[Record]:
    """The first record of every group that has the same task, backbone and pattern."""

    def site(record: Record) -> tuple[str, str, str]:
        return record.cell.task, record.cell.backbone, record.cell.pattern

    return [other[0] for other in groups if site(other[0]) == site(group[0])]


def _group(records: Sequence[Record], siblings: Sequence[Record]) -> Group:
    cell = records[0].cell
    data = next((record.data for record in records if record.data != DataSource()), DataSource())
    return Group(
        cell.task,
        cell.backbone,
        cell.pattern,
        cell.preset,
        data,
        _shared_settings(records[0]),
        _difference(records[0], siblings),
        tuple(_entries(records)),
    )


def _difference(record: Record, siblings: Sequence[Record]) -> str:
    """What of preset, data and settings isn't the same in all siblings."""

    def describe(other: Record) -> dict[str, Any]:
        names = {"preset": other.cell.preset, "data": other.data.name}
        return names | settings_by_name(_shared_settings(other))

    mine, others = describe(record), [describe(other) for other in siblings]
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
    return ", ".join(f"{key} {mine[key]}" for key in differing[:4]) + (", …" if len(differing) > 4 else "")


def _entries(records: Sequence[Record]) -> list[Entry]:
    by_entry: dict[str, list[Record]] = {}
    for record in records:
        by_entry.setdefault(_entry_key(record), []).append(record)
    groups = [sorted(group, key=lambda record: record.cell.seed) for group in by_entry.values()]
    entries = [Entry(_label(group[0], groups), group[0].cell.attention, tuple(group)) for group in groups]
    return sorted(entries, key=lambda entry: (entry.is_control, not entry.is_exact, _rank(entry), entry.label))


def _rank(entry: Entry) -> int:
    names = list(ATTENTIONS)
    return names.index(entry.attention) if entry.attention in names else len(names)


def _label(record: Record, groups: Sequence[Sequence[Record]]) -> str:
    """What the cell is called, with the settings that tell it from other rows of that name."""
    name = record.cell.label
    same = [flat(own_settings(group[0])) for group in groups if group[0].cell.label == name]
    mine = flat(own_settings(record))
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in same)]
    details = ", ".join(f"{key.rpartition('.')[2]} {mine[key]}" for key in differing)
    return f"{name} ({details})" if details else name
