"""Records grouped as a table shows them: one group a table, one entry a row, one record a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmark.interface import PATTERNS, Metric
from benchmark.registry import ATTENTIONS, TASKS, attention_declarations, load_task, task_declarations

Record = Mapping[str, Any]
SHARED = ("data", "model", "eval", "train", "limit")
"""The settings that all cells of one table have in common; the rest of a record's ``config`` is the attention's own."""
OWN_TRAINING = ("learning_rate",)
"""Training settings that may be chosen for each attention without making its row another table's."""


@dataclass(frozen=True)
class Entry:
    """One row of a table: an attention with its options, over seeds."""

    label: str
    attention: str
    records: tuple[Record, ...]  # one a seed, in the order of seeds

    @property
    def completed(self) -> list[Record]:
        return [record for record in self.records if record["status"] == "completed"]

    @property
    def is_control(self) -> bool:
        return bool(declared(self.attention).get("control", False))

    @property
    def is_exact(self) -> bool:
        return bool(declared(self.attention).get("exact", False))

    def values(self, metric: str) -> dict[Any, float]:
        """Seed -> value, of the seeds that have one."""
        found = {}
        for record in self.completed:
            value = (record.get("metrics") or {}).get(metric, {}).get("value")
            if value is not None:
                found[record["cell"]["seed"]] = float(value)
        return found


@dataclass(frozen=True)
class Group:
    """The cells that may be compared: one task, backbone, pattern, preset, data and settings."""

    task: str
    backbone: str
    pattern: str
    preset: str
    data: Mapping[str, Any]
    settings: Mapping[str, Any]  # those of SHARED
    difference: str  # what tells it from other groups of its task, backbone and pattern; mostly ""
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        parts = [words(self.backbone), words(self.pattern), self.difference]
        return " · ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        parts = [self.task, self.backbone, self.pattern, self.difference]
        return "-".join("".join(c if c.isalnum() or c == "_" else "-" for c in part) for part in parts if part)

    @property
    def contenders(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.is_control]

    @property
    def records(self) -> list[Record]:
        return [record for entry in self.entries for record in entry.records]

    @property
    def reference(self) -> Entry | None:
        """The first exact attention that has results: what the others are held against."""
        return next((entry for entry in self.entries if entry.is_exact and entry.completed), None)

    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """Name -> one record's entry of it, the headline first."""
        found: dict[str, Mapping[str, Any]] = {}
        for record in self.records:
            for name, metric in (record.get("metrics") or {}).items():
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
            for control, metrics in (record.get("controls") or {}).items():
                for metric, value in metrics.items():
                    value = value.get("value") if isinstance(value, Mapping) else value
                    values = found.setdefault(control, {}).setdefault(metric, [])
                    if value is not None and float(value) not in values:
                        values.append(float(value))
        return found


@cache
def declared(attention: str) -> dict[str, Any]:
    """What an attention declares; nothing for a stranger's that isn't installed where the report is made."""
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
    for record in sorted(records, key=lambda record: str(record.get("started") or "")):
        latest[canonical([_entry_key(record), record["cell"]["seed"]])] = record
    return list(latest.values())


def _by_data(records: Sequence[Record]) -> list[list[Record]]:
    """Parted by the data's fingerprint; a cell that read none (an unsupported one) stands in every part."""
    fingerprints = list(dict.fromkeys(filter(None, map(_fingerprint, records))))
    if len(fingerprints) < 2:
        return [list(records)]
    return [[r for r in records if _fingerprint(r) in (wanted, None)] for wanted in fingerprints]


def _fingerprint(record: Record) -> str | None:
    return (record.get("data") or {}).get("sha256")


def words(name: str) -> str:
    """A name of the contract as a reader's words: noncausal_self -> noncausal self."""
    return name.replace("_", " ")


def canonical(value: Any) -> str:
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


def _shared_settings(record: Record) -> dict[str, Any]:
    config = record.get("config") or {}
    shared = {key: config[key] for key in SHARED if key in config}
    if isinstance(shared.get("train"), Mapping):
        shared["train"] = {key: value for key, value in shared["train"].items() if key not in OWN_TRAINING}
    return shared


def own_settings(record: Record) -> dict[str, Any]:
    """The attention's options, and the training settings that were chosen for it."""
    config = record.get("config") or {}
    own = {key: value for key, value in config.items() if key not in (*SHARED, *record["cell"])}
    train = config.get("train") or {}
    return own | {key: train[key] for key in OWN_TRAINING if key in train}


def _settings_key(record: Record) -> str:
    cell = record["cell"]
    return canonical([cell["task"], cell["backbone"], cell["pattern"], cell["preset"], _shared_settings(record)])


def _entry_key(record: Record) -> str:
    return canonical([record["cell"]["attention"], variant(record), own_settings(record)])


def variant(record: Record) -> str:
    return record["cell"].get("variant") or record["cell"]["attention"]


def _order(record: Record) -> tuple[Any, ...]:
    cell = record["cell"]
    tasks = list(TASKS)
    task = tasks.index(cell["task"]) if cell["task"] in tasks else len(tasks)
    pattern = PATTERNS.index(cell["pattern"]) if cell["pattern"] in PATTERNS else len(PATTERNS)
    return task, cell["task"], cell["backbone"], pattern, cell["preset"], _settings_key(record)


def _siblings(group: Sequence[Record], groups: Sequence[Sequence[Record]]) -> list[Record]:
    """The first record of every group that has the same task, backbone and pattern."""
    names = ("task", "backbone", "pattern")
    return [other[0] for other in groups if all(other[0]["cell"][name] == group[0]["cell"][name] for name in names)]


def _group(records: Sequence[Record], siblings: Sequence[Record]) -> Group:
    cell = records[0]["cell"]
    data: Mapping[str, Any] = next((record["data"] for record in records if record.get("data")), {})
    return Group(
        cell["task"],
        cell["backbone"],
        cell["pattern"],
        cell["preset"],
        data,
        _shared_settings(records[0]),
        _difference(records[0], siblings),
        tuple(_entries(records)),
    )


def _difference(record: Record, siblings: Sequence[Record]) -> str:
    """What of preset, data and settings isn't the same in all siblings."""

    def describe(other: Record) -> dict[str, Any]:
        data = other.get("data") or {}
        names = {"preset": other["cell"]["preset"], "data": data.get("name")}
        return names | flat(_shared_settings(other))

    mine, others = describe(record), [describe(other) for other in siblings]
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
    return ", ".join(f"{key} {mine[key]}" for key in differing[:4]) + (", …" if len(differing) > 4 else "")


def _entries(records: Sequence[Record]) -> list[Entry]:
    by_entry: dict[str, list[Record]] = {}
    for record in records:
        by_entry.setdefault(_entry_key(record), []).append(record)
    groups = [sorted(group, key=lambda record: record["cell"]["seed"]) for group in by_entry.values()]
    entries = [Entry(_label(group[0], groups), group[0]["cell"]["attention"], tuple(group)) for group in groups]
    return sorted(entries, key=lambda entry: (entry.is_control, not entry.is_exact, _rank(entry), entry.label))


def _rank(entry: Entry) -> int:
    names = list(ATTENTIONS)
    return names.index(entry.attention) if entry.attention in names else len(names)


def _label(record: Record, groups: Sequence[Sequence[Record]]) -> str:
    """The variant's name, with the settings that tell it from other rows of that name."""
    name = variant(record)
    same = [flat(own_settings(group[0])) for group in groups if variant(group[0]) == name]
    mine = flat(own_settings(record))
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in same)]
    details = ", ".join(f"{key.rpartition('.')[2]} {mine[key]}" for key in differing)
    return f"{name} ({details})" if details else name
