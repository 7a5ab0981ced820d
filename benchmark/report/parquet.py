"""Writes a report's figures as Parquet, for readers who work on with them: all metrics of all cells, and each table's values."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.files import write_bytes
from benchmark.report.groups import learning_rate
from benchmark.report.tables import Table
from benchmark.results import Record

if TYPE_CHECKING:
    import pandas as pd

ENGINE: Literal["pyarrow"] = "pyarrow"
MISSING_EXTRA = "no Parquet files: pyarrow is missing; pip install 'lavo-bench[parquet]' brings it"


def is_available() -> bool:
    """Returns whether Parquet can be written here."""
    return find_spec(ENGINE) is not None


def write_records(output: Path, records: Sequence[Record]) -> None:
    """Writes ``records.parquet`` into the folder of a report."""
    _write(output / "records.parquet", tidy(records))


def write_table(folder: Path, table: Table) -> None:
    """Writes the table's values as ``SLUG.parquet``; nothing if it has none."""
    if table.values:
        _write(folder / f"{table.slug}.parquet", values_of(table))


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """Returns one row for each cell and metric; a cell without metrics has one row, in which ``metric`` is missing.

    Beside the metric's ``value``, ``unit``, ``higher_is_better`` and ``n``: the cell's names, status and reason, its data, what its
    training cost, and where it ran.
    """
    import pandas as pd

    columns = {"seed": "Int64", "n": "Int64", "higher_is_better": "boolean", "embedded": "boolean", "threads": "Int64"}
    columns |= dict.fromkeys(("parameters", "extra_parameters", "peak_bytes"), "Int64")
    columns |= dict.fromkeys(("value", "seconds", "train_seconds", "tokens_per_second", "learning_rate"), "Float64")
    frame = pd.DataFrame([row for record in records for row in _rows(record)], columns=_COLUMNS)
    return frame.astype({name: columns.get(name, "string") for name in _COLUMNS})


_COLUMNS = [
    *("task", "backbone", "pattern", "sites", "attention", "label", "preset", "seed", "hash", "status", "reason"),
    *("metric", "value", "unit", "higher_is_better", "n"),
    *("data", "embedded", "data_sha256", "learning_rate", "device", "threads", "commit", "started", "seconds"),
    *("train_seconds", "tokens_per_second", "peak_bytes", "parameters", "extra_parameters"),
]


def _rows(record: Record) -> list[dict[str, Any]]:
    cell, cost, environment = record.cell, record.efficiency, record.environment
    shared = {
        "task": cell.task,
        "backbone": cell.backbone,
        "pattern": cell.pattern,
        "sites": ",".join(cell.sites or (cell.pattern,)),
        "attention": cell.attention,
        "label": cell.label,
        "preset": cell.preset,
        "seed": cell.seed,
        "hash": cell.hash,
        "status": record.status,
        "reason": record.reason,
        "data": record.data.name,
        "embedded": record.data.embedded,
        "data_sha256": record.data.sha256,
        "learning_rate": learning_rate(record),
        "device": environment.device,
        "threads": environment.threads,
        "commit": environment.commit,
        "started": record.started,
        "seconds": record.seconds,
        "train_seconds": cost.train_seconds,
        "tokens_per_second": cost.tokens_per_second,
        "peak_bytes": cost.peak_bytes,
        "parameters": cost.parameters,
        "extra_parameters": cost.extra_parameters,
    }
    measured = [
        {
            "metric": name,
            "value": metric.value,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "n": metric.n,
        }
        for name, metric in record.metrics.items()
    ]
    return [shared | one for one in measured or [{}]]


def values_of(table: Table) -> pd.DataFrame:
    """Returns the table's values; a column that mixes texts and numbers becomes one of texts, because a Parquet column has one type."""
    import pandas as pd

    frame = pd.DataFrame(table.values).convert_dtypes()
    mixed = [name for name in frame if frame[name].dtype == object]
    return frame.astype(dict.fromkeys(mixed, "string"))


def _write(path: Path, frame: pd.DataFrame) -> None:
    write_bytes(path, frame.to_parquet(engine=ENGINE, index=False))
