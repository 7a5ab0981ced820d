"""Records: one JSON file a cell, written whole or not at all, and read back as a table."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from benchmark.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SCHEMA_VERSION = 1
Status = Literal["completed", "failed", "out_of_memory", "unsupported"]
CELL_NAMES = ("task", "backbone", "pattern", "attention", "preset", "seed", "hash")  # which no record's cell lacks
EXAMPLES_SUFFIX = ".examples.csv.gz"


def write_record(path: Path, record: Mapping[str, Any], columns: Mapping[str, np.ndarray] | None = None) -> None:
    """The record as strict JSON, its examples first, so that a record never names a file that isn't there."""
    record = dict(record)
    if columns:
        examples = path.with_name(path.stem + EXAMPLES_SUFFIX)
        write_bytes(examples, examples_csv(columns))
        record["examples"] = examples.name
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def examples_csv(columns: Mapping[str, np.ndarray]) -> bytes:
    """One row an example, a column a metric; the same bytes for the same values."""
    import pandas as pd

    text = pd.DataFrame(dict(columns)).to_csv(index_label="example", float_format="%.9g", lineterminator="\n")
    return gzip.compress(text.encode(), mtime=0)


def plain(value: Any) -> Any:
    """JSON's own types: tensors and arrays as lists, what isn't finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None  # numpy's double is a float too, and no plain one
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def read_record(path: Path) -> dict[str, Any]:
    """One record.  Raises ValueError that names the file where it isn't one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a record: {error}") from error
    if not isinstance(record, dict) or "cell" not in record or "status" not in record:
        raise ValueError(f"{path}: not a record: it lacks 'cell' or 'status'")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version {record.get('schema_version')!r}; this version reads {SCHEMA_VERSION}"
        )
    if (fault := _fault(record)) is not None:
        raise ValueError(f"{path}: not a record: {fault}")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; what isn't finite is null")


def _fault(record: Mapping[str, Any]) -> str | None:
    """What is missing of that which every reader counts on."""
    cell, metrics = record["cell"], record.get("metrics") or {}
    lacking = [name for name in CELL_NAMES if not isinstance(cell, Mapping) or name not in cell]
    if lacking:
        return f"its cell lacks {', '.join(lacking)}"
    if record["status"] not in get_args(Status):
        return f"status {record['status']!r}; allowed: {', '.join(get_args(Status))}"
    for name, metric in metrics.items() if isinstance(metrics, Mapping) else [("metrics", metrics)]:
        if not isinstance(metric, Mapping) or not {"value", "n"} <= set(metric):
            return f"{name} = {metric!r}: a metric has value and n"
    return None


def record_files(directory: Path) -> list[Path]:
    """All records below a folder, in order; what begins with a dot is work in progress."""
    files = sorted(directory.glob("*/*.json"))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(directory).parts)]


def records(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """All records of these folders, each with its ``path``.  Raises ValueError for a folder that isn't there."""
    found: list[dict[str, Any]] = []
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise ValueError(f"{directory}: no such folder of results")
        found += [{**read_record(file), "path": file} for file in record_files(directory)]
    return found


def read_examples(record: Mapping[str, Any]) -> pd.DataFrame:
    """The values by example that belong to a record as ``records`` gives it."""
    import pandas as pd

    return pd.read_csv(Path(record["path"]).with_name(record["examples"]), index_col="example")


def load(directories: Iterable[str | Path] | str | Path) -> pd.DataFrame:
    """One row a cell.

    Columns: those of ``cell`` (task, backbone, pattern, attention, variant, preset, seed, hash), ``status``, ``reason``,
    ``data``, ``embedded``, ``metric.NAME`` for every metric, ``n``, and ``efficiency.NAME``; ``path`` of the record.
    """
    import pandas as pd

    if isinstance(directories, str | Path):
        directories = [directories]
    return pd.DataFrame([_row(record) for record in records(Path(directory) for directory in directories)])


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    metrics = record.get("metrics") or {}
    data = record.get("data") or {}
    return {
        **record["cell"],
        "status": record["status"],
        "reason": record.get("reason"),
        "data": data.get("name"),
        "embedded": data.get("embedded"),
        **{f"metric.{name}": metric["value"] for name, metric in metrics.items()},
        "n": next((metric["n"] for metric in metrics.values()), None),
        **{f"efficiency.{name}": value for name, value in (record.get("efficiency") or {}).items()},
        "seconds": record.get("seconds"),
        "path": str(record["path"]),
    }
