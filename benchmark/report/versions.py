"""Finds the versions of the code that made each record, so that no row and no table mixes two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product

from benchmark.interface import REFERENCE
from benchmark.registry import attention_declarations, included_digest, task_declarations
from benchmark.results import Record, Versions
from benchmark.settings.cell import digest, hash_of_record

Key = tuple[int | str, ...]


def with_versions(records: Iterable[Record]) -> list[Record]:
    """Returns the records with the versions of the code that made each, None where they can't be told.

    Records of before don't hold them, but their hash covers them.  Versions are therefore tried until the hash comes out: those
    of other records of the attention, then those of here and all lower ones.
    """
    found = list(records)
    fingerprints = fingerprints_of(found)
    tried: dict[tuple[str, str], list[Versions]] = {}
    for record in found:
        if record.versions is not None:
            tried.setdefault((record.cell.task, record.cell.attention), []).append(record.versions)
    candidates = {
        key: list(dict.fromkeys([*tried.get(key, ()), *_up_to_here(*key)]))
        for key in {(record.cell.task, record.cell.attention) for record in found if record.versions is None}
    }

    def completed(record: Record) -> Record:
        if record.versions is not None:
            return record
        own = record.data.sha256
        data = [own] if own is not None else sorted(fingerprints.get(data_key(record), ()))
        for versions, fingerprint in product(candidates[record.cell.task, record.cell.attention], data):
            if hash_of_record(record, versions, fingerprint) == record.cell.hash:
                return replace(record, versions=versions)
        return record

    return [completed(record) for record in found]


def fingerprints_of(records: Iterable[Record]) -> dict[str, set[str]]:
    """Returns for each data set, by task and settings (``data_key``), the fingerprints in the completed records.

    Records of cells that did not complete have none of their own.
    """
    found: dict[str, set[str]] = {}
    for record in records:
        if record.data.sha256 is not None:
            found.setdefault(data_key(record), set()).add(record.data.sha256)
    return found


def data_key(record: Record) -> str:
    """Returns a text that is equal for records of one task with equal settings of the data."""
    return digest([record.cell.task, dict(record.config.data)])


def _up_to_here(task: str, attention: str) -> list[Versions]:
    """Returns the versions of here and all lower ones, the highest first; none if task or attention aren't installed."""
    try:
        here = [int(task_declarations(task)["version"])]
        here += [int(attention_declarations(name)["version"]) for name in (attention, REFERENCE)]
    except (ValueError, ImportError, KeyError):
        return []
    source = included_digest(attention)
    lower = product(*(range(version, 0, -1) for version in here))
    return [Versions(of_task, own, reference, source) for of_task, own, reference in lower]


def of_table(versions: Versions) -> Key:
    """Returns the versions that all cells of a table must share."""
    return versions.task, versions.reference


def of_row(versions: Versions) -> Key:
    """Returns the versions that all cells of a row must share besides."""
    return versions.attention, versions.source or ""


def newest(records: Sequence[Record], key: Callable[[Versions], Key]) -> tuple[list[Record], list[Record]]:
    """Divides records into those of the newest version, and those of others.

    key: ``of_table`` or ``of_row``.  The newest is that with the highest numbers; of several files of one version, that of the cell
    which started last.  Unknown versions count as the oldest.  A cell that didn't complete and whose version is unknown has no
    figures that could be mixed, so it stays.
    """
    keys = {id(record): None if record.versions is None else key(record.versions) for record in records}
    judged = [record for record in records if record.is_completed or record.versions is not None]
    started: dict[Key | None, str] = {}
    for record in judged:
        own = keys[id(record)]
        started[own] = max(started.get(own, ""), record.started or "")
    if len(started) < 2:
        return list(records), []

    def rank(own: Key | None) -> tuple[bool, list[int], str]:
        return own is not None, [number for number in own or () if isinstance(number, int)], started[own]

    chosen = max(started, key=rank)
    left_out = [record for record in judged if keys[id(record)] != chosen]
    return [record for record in records if all(record is not other for other in left_out)], left_out


def in_words(own: Versions | None, shown: Versions | None) -> str:
    """Returns how the versions of a record differ from those that a table shows; "" if they don't, or one is unknown."""
    if own is None or shown is None:
        return ""
    return "; ".join(_differences(own, shown, "version {0} of {name}, not {1}"))


def changes(first: Versions, second: Versions, *, of_attention: bool) -> list[str]:
    """Returns what changed from one record's versions to another's.

    of_attention: whether both are of the same attention, whose versions are compared then.
    """
    if not of_attention:
        first = replace(first, attention=second.attention, source=second.source)
    return _differences(first, second, "version {0} -> {1} of {name}")


def _differences(first: Versions, second: Versions, form: str) -> list[str]:
    names = {"task": "the task", "attention": "the attention", "reference": "softmax"}
    pairs = {name: (getattr(first, key), getattr(second, key)) for key, name in names.items()}
    found = [form.format(one, other, name=name) for name, (one, other) in pairs.items() if one != other]
    return found + (["another file of the attention"] if first.source != second.source else [])
