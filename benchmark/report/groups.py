"""Groups records as tables show them: a group is a table, an entry is a row, with one record for each seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

from benchmark.interface import EVERY, NOTHING, PATTERNS, Metric
from benchmark.registry import ATTENTIONS, TASKS, attention_declarations, load_task, task_declarations
from benchmark.report import versions
from benchmark.report.versions import with_versions
from benchmark.results import CellConfig, DataSource, MetricValue, Record, Versions

OWN_TRAINING = ("learning_rate",)
"""Training settings in which the rows of one table may differ, because they may be tuned for each attention."""


@dataclass(frozen=True)
class Entry:
    """One row of a table: an attention with its options, for all seeds."""

    label: str
    attention: str
    records: tuple[Record, ...]  # one for each seed, in the order of seeds
    outdated: tuple[Record, ...] = ()  # of seeds that only another version of the code has run

    @property
    def completed(self) -> list[Record]:
        """The records that have metrics."""
        return [record for record in self.records if record.is_completed]

    @property
    def asked(self) -> int:
        """Number of seeds, with those of other versions, which must be run again."""
        return len(self.records) + len(self.outdated)

    @property
    def versions(self) -> Versions | None:
        """The versions of the code that made the row; None if they aren't known."""
        return next((record.versions for record in self.records if record.versions is not None), None)

    @property
    def is_control(self) -> bool:
        """Whether the attention declares itself a control."""
        return bool(declared(self.attention).get("control", False))

    @property
    def is_exact(self) -> bool:
        """Whether the attention computes softmax attention exactly."""
        return bool(declared(self.attention).get("exact", False))

    def values(self, metric: str) -> dict[int, float]:
        """Returns seed -> value, for the seeds that have a value."""
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
    settings: CellConfig  # without options, and without OWN_TRAINING
    difference: str  # in which preset, data or settings it differs from groups of the same title; mostly ""
    entries: tuple[Entry, ...]
    left_out: tuple[Record, ...] = ()  # of attentions that only another version of the task or of softmax has run

    @property
    def title(self) -> str:
        """Backbone and pattern, and in what it differs from other groups with these."""
        parts = [words(self.backbone), words(self.pattern), self.difference]
        return " · ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """The text with which the names of its files begin."""
        parts = [self.task, self.backbone, self.pattern, self.difference]
        return "-".join("".join(c if c.isalnum() or c == "_" else "-" for c in part) for part in parts if part)

    @property
    def contenders(self) -> list[Entry]:
        """The rows that are not controls."""
        return [entry for entry in self.entries if not entry.is_control]

    @property
    def compared(self) -> list[Entry]:
        """The contenders without further exact attentions: those compute the same function as the reference, and tell its noise."""
        reference = self.reference
        return [entry for entry in self.contenders if not entry.is_exact or entry is reference or reference is None]

    @property
    def records(self) -> list[Record]:
        """The records of all rows."""
        return [record for entry in self.entries for record in entry.records]

    @property
    def seeds(self) -> list[int]:
        """All seeds of its records, in order."""
        return sorted({record.cell.seed for record in self.records})

    @property
    def reference(self) -> Entry | None:
        """The first exact attention that has results; the others are compared with it."""
        return next((entry for entry in self.entries if entry.is_exact and entry.completed), None)

    @property
    def nothing(self) -> Entry | None:
        """The control ``none``, if it has results."""
        return next((entry for entry in self.entries if entry.attention == NOTHING and entry.completed), None)

    def metrics(self) -> dict[str, MetricValue]:
        """Returns metric -> its value in one record, for unit and direction; the task's first metric comes first."""
        found: dict[str, MetricValue] = {}
        for record in self.records:
            for name, metric in record.metrics.items():
                found.setdefault(name, metric)
        order = [name for name in task_metrics(self.task) if name in found]
        return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}

    def rules(self) -> dict[str, dict[str, list[float]]]:
        """Returns the controls that are trivial rules, and not bounds."""
        return {name: values for name, values in self.controls().items() if name not in floors(self.task)}

    def controls(self) -> dict[str, dict[str, list[float]]]:
        """Returns control -> metric -> its distinct values over the records (one, if the control isn't random)."""
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
    """Returns what an attention declares; nothing if it isn't installed where the report is made."""
    try:
        return attention_declarations(attention)
    except (ValueError, ImportError):
        return {}


@cache
def task_metrics(task: str) -> Mapping[str, Metric]:
    """Returns the task's metrics with their descriptions; none if the task isn't installed."""
    try:
        metrics: Mapping[str, Metric] = load_task(task).metrics
        return metrics
    except (ValueError, ImportError):
        return {}


@cache
def floors(task: str) -> tuple[str, ...]:
    """Returns the names of the controls that are bounds, not trivial rules; none if the task isn't installed."""
    try:
        return tuple(task_declarations(task).get("floors", ()))
    except (ValueError, ImportError):
        return ()


def in_order(attentions: Iterable[str]) -> list[str]:
    """Returns the names once each, as tables have them: exact ones, others in the registry's order, strangers, controls."""
    names = list(ATTENTIONS)

    def rank(name: str) -> tuple[bool, bool, int]:
        known = declared(name)
        return (
            known.get("control", False),
            not known.get("exact", False),
            names.index(name) if name in names else len(names),
        )

    return sorted(dict.fromkeys(attentions), key=rank)


def group_records(records: Iterable[Record]) -> list[Group]:
    """Returns groups in the order of the registries; in each group the exact attentions come first, controls last."""
    by_settings: dict[str, list[Record]] = {}
    for record in with_versions(records):
        for copy in at_each_site(record):
            by_settings.setdefault(_settings_key(copy), []).append(copy)
    members = [_by_version(part) for group in by_settings.values() for part in _by_data(group)]
    members.sort(key=lambda member: _order(member.shown[0]))
    return [_group(member, _siblings(member.shown, [other.shown for other in members])) for member in members]


def at_each_site(record: Record) -> list[Record]:
    """Returns the record once for each site that it serves, with that site as its pattern."""
    sites = record.cell.sites or (record.cell.pattern,)
    return [replace(record, cell=replace(record.cell, pattern=site, sites=(site,))) for site in sites]


class _Member(NamedTuple):
    """The records of a table: those that it shows, and those of seeds that only another version of the code has run."""

    shown: list[Record]
    outdated: list[Record]


def _by_version(records: Sequence[Record]) -> _Member:
    """Divides the records of a table, so that it shows one version of task and softmax, and each row one of its attention."""
    # An attention from a file of before, which records did not name: nothing says that its task or softmax were others.
    untold = [record for record in records if record.versions is None and record.cell.attention not in ATTENTIONS]
    told = [record for record in records if all(record is not other for other in untold)]
    of_table, outdated = versions.newest(told, versions.of_table)
    shown: list[Record] = []
    for row in _by_entry([*of_table, *untold]):
        of_row, others = versions.newest(row, versions.of_row)
        shown += of_row
        outdated += others
    latest = _latest(shown)
    return _Member(list(latest.values()), [one for key, one in _latest(outdated).items() if key not in latest])


def _latest(records: Iterable[Record]) -> dict[str, Record]:
    """Returns one record for each entry and seed: the one that started last, if there are copies."""
    ordered = sorted(records, key=lambda record: record.started or "")
    return {canonical([_entry_key(record), record.cell.seed]): record for record in ordered}


def _by_entry(records: Iterable[Record]) -> list[list[Record]]:
    by_entry: dict[str, list[Record]] = {}
    for record in records:
        by_entry.setdefault(_entry_key(record), []).append(record)
    return list(by_entry.values())


def _by_data(records: Sequence[Record]) -> list[list[Record]]:
    """Divides records by the fingerprint of their data.  Unsupported cells read no data, so they go into every part."""
    fingerprints = list(dict.fromkeys(record.data.sha256 for record in records if record.data.sha256))
    if len(fingerprints) < 2:
        return [list(records)]
    return [[record for record in records if record.data.sha256 in (wanted, None)] for wanted in fingerprints]


def selection(task: str) -> str | None:
    """Returns the metric by which weights are selected on validation data; None if the task isn't installed."""
    try:
        name: str = load_task(task).selection
        return name
    except (ValueError, ImportError):
        return None


def words(name: str) -> str:
    """Returns a name as readers see it: noncausal_self -> noncausal self."""
    return name.replace("_", " ")


def canonical(value: Any) -> str:
    """Returns a text that is equal for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, default=str)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as ``data.horizon`` -> value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def settings_by_name(settings: CellConfig) -> dict[str, Any]:
    """Returns the settings that the cells of a table share, as ``data.horizon`` -> value."""
    left_out = ("options", "learning_rate_from")
    return flat({part.name: getattr(settings, part.name) for part in fields(settings) if part.name not in left_out})


def _shared_settings(record: Record) -> CellConfig:
    train = {key: value for key, value in record.config.train.items() if key not in OWN_TRAINING}
    return replace(record.config, train=train, options={}, learning_rate_from=None)


def own_settings(record: Record) -> dict[str, Any]:
    """Returns the attention's options, and the training settings that may be tuned for it."""
    train = record.config.train
    return {"options": record.config.options, **{key: train[key] for key in OWN_TRAINING if key in train}}


def learning_rate(record: Record) -> float | None:
    """Returns the learning rate, or None if the record has no number for it."""
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
    tasks, patterns = list(TASKS), [*PATTERNS, EVERY]
    task = tasks.index(cell.task) if cell.task in tasks else len(tasks)
    pattern = patterns.index(cell.pattern) if cell.pattern in patterns else len(patterns)
    return task, cell.task, cell.backbone, pattern, cell.preset, _settings_key(record)


def _siblings(group: Sequence[Record], groups: Sequence[Sequence[Record]]) -> list[Record]:
    """Returns the first record of each group that has the same task, backbone and pattern."""

    def site(record: Record) -> tuple[str, str, str]:
        return record.cell.task, record.cell.backbone, record.cell.pattern

    return [other[0] for other in groups if site(other[0]) == site(group[0])]


def _group(member: _Member, siblings: Sequence[Record]) -> Group:
    records = member.shown
    cell, entries = records[0].cell, {_entry_key(record) for record in records}
    data = next((record.data for record in records if record.data != DataSource()), DataSource())
    return Group(
        cell.task,
        cell.backbone,
        cell.pattern,
        cell.preset,
        data,
        _shared_settings(records[0]),
        _difference(records[0], siblings),
        tuple(_entries(member)),
        tuple(record for record in member.outdated if _entry_key(record) not in entries),
    )


def _difference(record: Record, siblings: Sequence[Record]) -> str:
    """Returns in which preset, data and settings this record differs from a sibling."""

    def describe(other: Record) -> dict[str, Any]:
        names = {"preset": other.cell.preset, "data": other.data.name}
        return names | settings_by_name(_shared_settings(other))

    mine, others = describe(record), [describe(other) for other in siblings]
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
    return ", ".join(f"{key} {mine[key]}" for key in differing[:4]) + (", …" if len(differing) > 4 else "")


def _entries(member: _Member) -> list[Entry]:
    groups = [sorted(group, key=lambda record: record.cell.seed) for group in _by_entry(member.shown)]
    outdated = {_entry_key(group[0]): tuple(group) for group in _by_entry(member.outdated)}
    entries = [
        Entry(_label(group[0], groups), group[0].cell.attention, tuple(group), outdated.get(_entry_key(group[0]), ()))
        for group in groups
    ]
    return sorted(entries, key=lambda entry: (entry.is_control, not entry.is_exact, _rank(entry), entry.label))


def _rank(entry: Entry) -> int:
    names = list(ATTENTIONS)
    return names.index(entry.attention) if entry.attention in names else len(names)


def _label(record: Record, groups: Sequence[Sequence[Record]]) -> str:
    """Returns the name of a row, with the settings in which it differs from other rows of that name."""
    name = record.cell.label
    same = [flat(own_settings(group[0])) for group in groups if group[0].cell.label == name]
    mine = flat(own_settings(record))
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in same)]
    details = ", ".join(f"{key.rpartition('.')[2]} {mine[key]}" for key in differing)
    return f"{name} ({details})" if details else name
