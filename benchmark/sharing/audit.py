"""The checks of records that need no training: names, hashes, the means of the values by example, and seeds.

They hold for a folder that is to be packed and for a pack of anyone's, because they run no code of the records.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.interface import REFERENCE, Metric
from benchmark.registry import ATTENTIONS, TASKS, attention_declarations, load_task, sites_of, task_declarations
from benchmark.report.groups import Entry, Group, group_records
from benchmark.report.versions import data_key, fingerprints_of
from benchmark.results import Record, Versions
from benchmark.settings.cell import hash_of_record
from benchmark.settings.messages import shortened
from benchmark.settings.resolve import presets

MOST_EXAMPLE_BYTES = 64 * 2**20  # of the values by example of one cell, unpacked
_RELATIVE = 1e-5  # allowed between a metric and its recomputation: the values by example have nine digits


class Attention(NamedTuple):
    """What the hash of a cell covers of its attention: the version, and the SHA-256 of its file if it has one."""

    version: int
    source: str | None


def task_version(task: str) -> int:
    """Returns the version of a task here."""
    return int(task_declarations(task)["version"])


def reference_version() -> int:
    """Returns the version here of exact softmax, which every cell keeps at its other sites."""
    return int(attention_declarations(REFERENCE)["version"])


def cell_hash(record: Record, attention: Attention, fingerprint: str | None) -> str:
    """Returns the hash that a cell of this configuration has with this version of the attention and these data.

    The versions of the task and of softmax are those of here.
    """
    versions = Versions(task_version(record.cell.task), attention.version, reference_version(), attention.source)
    return hash_of_record(record, versions, fingerprint)


def faults_of_names(record: Record) -> Iterator[str]:
    """Yields faults in the names of a record: of the file, and of task, backbone and pattern."""
    cell, path = record.cell, record.path
    stem = f"{cell.backbone}.{cell.pattern}.{cell.attention}.s{cell.seed}.{cell.hash}"
    if path is None or path.name != f"{stem}.json" or path.parent.name != cell.task:
        yield f"its file should be {cell.task}/{stem}.json"
    if cell.task not in TASKS:
        yield f"task {cell.task}: not known here"
    elif cell.backbone not in task_declarations(cell.task)["backbones"]:
        yield f"backbone {cell.backbone}: {cell.task} has none of this name"
    elif not {cell.pattern, *cell.sites} <= {*sites_of(cell.task, cell.backbone), "every"}:
        yield f"sites {', '.join(cell.sites or (cell.pattern,))}: {cell.backbone} has no such"


def faults_of_hash(record: Record, attention: Attention, known: Mapping[str, set[str]]) -> Iterator[str]:
    """Yields a fault if the hash is not that of the record's own configuration, data and versions.

    known: of ``fingerprints_of``, for a record without its own.
    """
    own = record.data.sha256
    candidates = [own] if own is not None else sorted(known.get(data_key(record), ()))
    if own is None and record.is_completed:
        yield "has no fingerprint of its data"
    elif candidates and not any(cell_hash(record, attention, one) == record.cell.hash for one in candidates):
        yield (
            f"hash {record.cell.hash} is not that of its configuration, data and versions (task {task_version(record.cell.task)}, "
            f"{record.cell.attention} {attention.version}): changed afterwards, or of an earlier version"
        )


def faults_of_metrics(record: Record) -> Iterator[str]:
    """Yields faults in the metrics: names, units and directions, and figures that the values by example don't give."""
    if not record.is_completed:
        if record.metrics:
            yield f"is {record.status}, but has metrics"
        return
    metrics: Mapping[str, Metric] = load_task(record.cell.task).metrics
    if not record.metrics or record.examples_file is None:
        yield "has no metrics, or no values by example"
        return
    try:
        columns = _columns(record)
    except ValueError as error:
        yield str(error)
        return
    for name, found in record.metrics.items():
        metric = metrics.get(name)
        if metric is None:
            yield f"metric {name!r:.40}: {record.cell.task} has none of this name"
        elif (metric.higher_is_better, metric.unit) != (found.higher_is_better, found.unit):
            yield f"metric {name}: unit or direction is not that of {record.cell.task}"
        else:
            yield from _faults_of_value(name, metric, found.value, found.n, columns)


def _columns(record: Record) -> dict[str, np.ndarray]:
    """Returns the values by example, unpacked up to a limit.  Raises ValueError in one line."""
    import pandas as pd

    path = None if record.path is None else record.path.with_name(str(record.examples_file))
    name = shortened(str(record.examples_file))
    try:
        with gzip.open(path or Path(name)) as file:
            content = file.read(MOST_EXAMPLE_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise ValueError(f"{name}: missing, or not a gzip file") from None
    if len(content) > MOST_EXAMPLE_BYTES:
        raise ValueError(f"{name}: more than {MOST_EXAMPLE_BYTES // 2**20} MiB when unpacked")
    try:
        frame = pd.read_csv(io.BytesIO(content), index_col="example")
    except (ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{name}: not values by example: {shortened(str(error))}") from None
    wrong = [str(column) for column in frame.columns if frame[column].dtype.kind not in "biuf"]
    if wrong or not len(frame):
        raise ValueError(f"{name}: {f'column {wrong[0]!r:.40} is not of numbers' if wrong else 'no examples'}")
    return {str(column): values.to_numpy() for column, values in frame.items()}


def _faults_of_value(
    name: str, metric: Metric, value: float | None, n: int, columns: Mapping[str, np.ndarray]
) -> Iterator[str]:
    try:
        with np.errstate(all="ignore"):
            computed, count = float(metric.value(columns)), int(metric.n(columns))
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        yield f"metric {name}: the values by example don't give it ({type(error).__name__}: {shortened(str(error))})"
        return
    if count != n:
        yield f"metric {name}: n is {n}, but there are {count} examples"
    both = value is not None and math.isfinite(computed)
    if (value is None) == math.isfinite(computed) or (
        both and not math.isclose(computed, value or 0.0, rel_tol=_RELATIVE, abs_tol=1e-9)
    ):
        yield f"metric {name}: is {value}, but its values by example give {computed:.9g}"


def faults_of_seeds(records: Iterable[Record]) -> Iterator[str]:
    """Yields a fault for each row of a table that lacks a seed of its preset."""
    for group in group_records(records):
        for entry in group.entries:
            wanted = _seeds_of_preset(group, entry)
            lacking = [seed for seed in wanted if seed not in {record.cell.seed for record in entry.records}]
            if lacking:
                yield (
                    f"{group.task}/{group.backbone}.{group.pattern}, {entry.label}: lacks seed {', '.join(map(str, lacking))} of preset "
                    f"{group.preset}"
                )


def _seeds_of_preset(group: Group, entry: Entry) -> list[int]:
    pattern = None if group.pattern == "every" else group.pattern
    seeds = list(presets(group.task, group.preset, group.backbone, pattern).get("seeds", [0]))
    # A second exact attention shows how much rounding changes, for which a run takes one seed.
    return seeds[:1] if entry.is_exact and entry.attention != REFERENCE else seeds


def faults(
    records: list[Record], attentions: Mapping[str, Attention], *, damaged: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Returns all faults of these records: the record's place, and the fault.

    attentions: name -> version and source.  damaged: lines on files that could not be read.
    """
    found = [("", line) for line in damaged]
    known = fingerprints_of(records)
    for record in records:
        where = _place(record)
        own = list(faults_of_names(record))
        if not own:
            attention = attentions.get(record.cell.attention)
            if attention is None:
                own.append(f"attention {record.cell.attention}: not known here, and there is no source of it")
            else:
                own += faults_of_hash(record, attention, known)
            own += faults_of_metrics(record)
        found += [(where, line) for line in own]
    # A faulty record is no seed of its row, so a line on the row would only repeat the fault.
    return found or [("", line) for line in faults_of_seeds(records)]


def _place(record: Record) -> str:
    path = record.path
    return "" if path is None else f"{path.parent.name}/{path.name}"


def built_in(name: str) -> Attention | None:
    """Returns the version of an attention of this project; None for any other."""
    return Attention(int(attention_declarations(name)["version"]), None) if name in ATTENTIONS else None
