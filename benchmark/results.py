"""Records of cells (one training and evaluation each): JSON files, checked when they are read, and loaded as a table."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from benchmark.files import as_machine_fault, files_below, names_in, write_bytes
from benchmark.interface import Attachment
from benchmark.plain import plain

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # version 1 has the curves inside the record
Status = Literal["completed", "failed", "out_of_memory", "unsupported"]
EXAMPLES_SUFFIX = ".examples.csv.gz"
CURVES_SUFFIX = ".curves.json.gz"
ATTACHMENTS = "attachments"  # folder beside the records for the files to which curves refer; cells may share them
SOURCES = "sources"  # folder of the results with copies of attentions that were given as Python classes

_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # what opening a path raises where no file is
_FINITE = ConfigDict(allow_inf_nan=False)
# The name of a file beside the record.  It has no slash, so it can't lead to another folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=255)]


# Names of cells become parts of file names, commands and pages, so a record with any other text in them is damaged.
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]


@dataclass(frozen=True)
class CellName:
    """The names that identify the cell of a record."""

    task: Name
    backbone: Name
    pattern: Name
    attention: Name
    preset: Name
    seed: int
    hash: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")]
    variant: Name | None = None  # what tables call the attention; None if that is the attention's name
    # In whose tables the record stands: exact softmax is trained once for all.  Empty in records of before: their own pattern.
    sites: tuple[Name, ...] = ()

    @property
    def label(self) -> str:
        """What tables call the attention."""
        return self.variant or self.attention


@dataclass(frozen=True)
class CellConfig:
    """All settings that the cell was run with."""

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    eval: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the attention
    learning_rate_from: Literal["preset", "set", "tuned"] | None = None  # None in records of before
    limit: int | None = None  # number of validation and test examples used; None: all


@dataclass(frozen=True)
class Versions:
    """What the hash of a cell covers of the code."""

    task: int
    attention: int
    reference: int  # of exact softmax, which stays at the backbone's other sites
    source: str | None = None  # SHA-256 of the included file that registered the attention


@dataclass(frozen=True)
class MetricValue:
    """One figure of a table; ``n`` is the number of test examples that it is made of."""

    __pydantic_config__ = _FINITE

    value: float | None
    n: int
    higher_is_better: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Efficiency:
    """Speed, memory and size of the training."""

    __pydantic_config__ = _FINITE

    tokens_per_second: float | None = None
    examples_per_second: float | None = None
    train_seconds: float | None = None
    steps: int | None = None
    best_step: int | None = None
    base_bytes: int | None = None  # memory before the training
    peak_bytes: int | None = None  # most memory during it
    parameters: int | None = None
    extra_parameters: int | None = None  # those of the replaced attentions themselves
    replaced_layers: int | None = None
    kernels: Sequence[str] = ()
    attention_bytes_sent_per_step: float | None = None  # only if sequences were split over processes


@dataclass(frozen=True)
class DataSource:
    """The data of a cell; ``details`` holds what the task says about them (sizes, columns, conversions)."""

    name: str | None = None
    embedded: bool | None = None
    sha256: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Versions, device and commit, on which figures depend; nothing in it names a person or a place."""

    python: str | None = None
    system: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    threads: int | None = None
    commit: str | None = None
    dirty: bool | None = None
    processes: int | None = None  # number that trained the cell together; None for one
    parallel: str | None = None  # how they shared the work, "data", "fsdp" or "sequence"; None for one process


@dataclass(frozen=True)
class Record:
    """The outcome of one cell.

    Values by example and curves lie in compressed files beside the record; ``examples`` and ``curves`` read them on first
    use.  ``controls`` holds what trivial rules score: rule -> metric -> value.
    """

    __pydantic_config__ = _FINITE

    cell: CellName
    status: Status
    config: CellConfig = field(default_factory=CellConfig)
    reason: str | None = None
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    examples_file: Annotated[FileName | None, Field(alias="examples")] = None
    controls: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    # In schema version 1, these are the curves themselves.
    curves_file: Annotated[FileName | Mapping[str, Any] | None, Field(alias="curves")] = None
    efficiency: Efficiency = field(default_factory=Efficiency)
    data: DataSource = field(default_factory=DataSource)
    environment: Environment = field(default_factory=Environment)
    versions: Versions | None = None  # None in records of before; a report finds them by the hash
    started: str | None = None
    seconds: float | None = None
    path: Path | None = None  # of the record itself; not part of the file

    @property
    def is_completed(self) -> bool:
        """Whether the cell completed, so that there are metrics."""
        return self.status == "completed"

    def value(self, metric: str) -> float | None:
        """Returns the value of a metric, or None if the cell has none."""
        found = self.metrics.get(metric)
        return None if found is None else found.value

    @cached_property
    def examples(self) -> pd.DataFrame:
        """One row for each test example, one column for each value.  Raises ValueError that names an unreadable file."""
        import pandas as pd

        path = self._beside(self.examples_file)
        try:
            return pd.read_csv(path, index_col="example")
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not the values by example of a record: {error}") from error

    @cached_property
    def curves(self) -> Mapping[str, Any]:
        """Data for figures and exhibits, by name; empty if there are none.  Raises ValueError that names an unreadable file."""
        if not isinstance(self.curves_file, str):
            return self.curves_file or {}
        path = self._beside(self.curves_file)
        try:
            content = json.loads(gzip.decompress(path.read_bytes()), parse_constant=_refuse_constant)
        except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
            raise ValueError(f"{path}: not the curves of a record: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: not the curves of a record: a mapping is wanted")
        return content

    def attachment(self, reference: Any) -> bytes | None:
        """Returns the bytes to which a value in ``curves`` refers, or None if the file is missing (sounds are not published)."""
        name = reference.get("attachment") if isinstance(reference, Mapping) else None
        if not isinstance(name, str) or Path(name).name != name or self.path is None:
            return None
        path = self.path.parent / ATTACHMENTS / name
        return path.read_bytes() if path.is_file() else None

    def _beside(self, name: Any) -> Path:
        if self.path is None or not isinstance(name, str):
            raise ValueError(f"{self.cell.task} {self.cell.hash}: the record names no such file")
        return self.path.with_name(name)


def as_json(record: Record) -> dict[str, Any]:
    """Returns the record's content as the file stores it, with the keys in the file's order."""
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(record)}
    del content["path"]
    renamed = {"examples_file": "examples", "curves_file": "curves"}
    content = {renamed.get(key, key): value for key, value in content.items()}
    if not record.is_completed:
        content["efficiency"], content["data"] = {}, {}
    optional = [(content["efficiency"], "attention_bytes_sent_per_step"), (content, "versions")]
    optional += [(content["environment"], name) for name in ("processes", "parallel")]
    for group, name in optional:  # written only if it applies
        if group.get(name, 0) is None:
            del group[name]
    return plain(content)


def write_record(
    path: Path,
    record: Record,
    columns: Mapping[str, np.ndarray] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> Record:
    """Writes a record and the files beside it, whatever is there.  Returns the record with the names of these files.

    columns: one value for each example.  curves: JSON values and attachments.
    The files beside it are written first, so that a record never names a missing file.  A completed record is never replaced
    by one that isn't, so a second run that fails leaves the figures of the first.
    """
    if not record.is_completed and is_completed(path):
        return replace(record, path=path)
    record, files = contents(path, record, columns, curves)
    for file, content in files.items():
        write_bytes(file, content)
    return record


def contents(
    path: Path,
    record: Record,
    columns: Mapping[str, np.ndarray] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> tuple[Record, dict[Path, bytes]]:
    """Returns the record with the names of the files beside it, and the bytes of these files and, last, of the record.

    Attachments are written, because their names are their digests: there is no other content that could be there.
    """
    examples_file = curves_file = None
    files = {}
    if columns:
        examples_file = path.stem + EXAMPLES_SUFFIX
        files[path.with_name(examples_file)] = examples_csv(columns)
    if curves:
        curves_file = path.stem + CURVES_SUFFIX
        text = json.dumps(plain(_attached(curves, path.parent / ATTACHMENTS)), allow_nan=False, ensure_ascii=False)
        files[path.with_name(curves_file)] = gzip.compress(text.encode(), mtime=0)
    record = replace(record, examples_file=examples_file, curves_file=curves_file, path=path)
    text = json.dumps(as_json(record), indent=1, allow_nan=False, ensure_ascii=False)
    files[path] = (text + "\n").encode()
    return record, files


def record_at(path: Path) -> Record | None:
    """Returns the record in this file, or None if there is none or it is damaged, so that the cell must be run.

    Raises MachineFault if the file is there and can't be read: it may be the record of a completed cell, whose figures must stay.
    """
    try:
        return read_record(path)
    except ValueError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, _NO_FILE):
            raise as_machine_fault(cause, str(path)) from error
        return None


def is_completed(path: Path) -> bool:
    """Returns whether the file is the record of a completed cell.  Raises MachineFault as ``record_at`` does."""
    return (record := record_at(path)) is not None and record.is_completed


def _attached(value: Any, folder: Path) -> Any:
    """Writes every attachment to a file named by its digest.  Returns the value with references in their place."""
    if isinstance(value, Attachment):
        name = f"{hashlib.sha256(value.content).hexdigest()[:24]}.{value.ending}"
        if not (folder / name).exists():
            write_bytes(folder / name, value.content)
        return {"attachment": name}
    if isinstance(value, Mapping):
        return {key: _attached(inner, folder) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_attached(inner, folder) for inner in value]
    return value


def examples_csv(columns: Mapping[str, np.ndarray]) -> bytes:
    """Returns a compressed CSV file with one row for each example; equal values give equal bytes."""
    import pandas as pd

    text = pd.DataFrame(dict(columns)).to_csv(index_label="example", float_format="%.9g", lineterminator="\n")
    return gzip.compress(text.encode(), mtime=0)


class NotARecord(ValueError):
    """Raised for JSON that is not a record, such as a manifest or another program's file."""


def read_record(path: Path) -> Record:
    """Reads one record and checks it, so that its types can be relied on.

    Raises NotARecord for JSON of another kind, ValueError for a damaged record; both name the file, the key and the fault.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a record: {error}") from error
    try:
        return replace(from_json(content), path=path)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error


def from_json(content: Any) -> Record:
    """Checks JSON values and returns the record.  Raises the exceptions of ``read_record``."""
    if not isinstance(content, Mapping) or "cell" not in content or "status" not in content:
        raise NotARecord("not a record: it lacks 'cell' or 'status'")
    version = content.get("schema_version")
    if version not in READABLE_VERSIONS:
        allowed = ", ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"schema_version {str(version)[:40]!r}; this version reads {allowed}")
    known = {key: value for key, value in content.items() if key != "path" and value is not None}
    try:
        # Strict, so that "3" is not a number.  Only from JSON text does strict validation turn mappings into dataclasses.
        return _adapter().validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])[:80]
        key = key if key.isprintable() else ascii(key)[1:81]
        value = repr(fault.get("input"))
        shown = value if len(value) <= 60 else value[:57] + "…"
        raise ValueError(f"not a record: {key} = {shown}: {fault['msg'][:120]}") from error


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; infinities and NaN are written as null")


def record_files(directory: Path) -> list[Path]:
    """Returns the record files of a folder of results, in order, without names that begin with a dot (work in progress)."""
    folders = [directory / name for name in names_in(directory) if not name.startswith(".")]
    names = ((folder, name) for folder in folders for name in names_in(folder))
    return [folder / name for folder, name in names if name.endswith(".json") and not name.startswith(".")]


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)


def records(directories: Iterable[Path], *, damaged: Callable[[str], None] = _warn) -> list[Record]:
    """Returns all records of these folders.

    damaged: called with one line for each file that can't be read; the other records are still returned.
    Raises ValueError for a folder that isn't there.
    """
    return [record for directory in directories for record in _read(record_files(_existing(directory)), damaged)]


def _existing(directory: Path) -> Path:
    if not Path(directory).is_dir():
        raise ValueError(f"{directory}: no such folder of results")
    return Path(directory)


def _read(files: Iterable[Path], damaged: Callable[[str], None]) -> Iterable[Record]:
    for file in files:
        try:
            yield read_record(file)
        except ValueError as error:
            if not isinstance(error, NotARecord) or _has_record_name(file):
                damaged(str(error))


def _has_record_name(path: Path) -> bool:
    """Returns whether the file's name is that of a record: backbone.pattern.attention.sSEED.HASH.json."""
    parts = path.name.split(".")
    return len(parts) == 6 and parts[3][:1] == "s" and parts[3][1:].isdigit()


def load(directories: Iterable[str | Path] | str | Path, *, damaged: Callable[[str], None] = _warn) -> pd.DataFrame:
    """Returns a table with one row for each record below these folders.  Other files, such as sweeps, are skipped.

    Columns: those of ``cell`` (task, backbone, pattern, sites, attention, variant, preset, seed, hash), ``status``, ``reason``,
    ``data``, ``embedded``, ``metric.NAME`` for every metric, ``n``, and ``efficiency.NAME``; ``path`` of the record.

    damaged: called with one line for each damaged record; by default it warns.
    Raises ValueError for a folder that isn't there.
    """
    found: list[Record] = []
    for directory in map(Path, [directories] if isinstance(directories, str | Path) else directories):
        files = files_below(_existing(directory), hidden=False)
        found += _read(sorted(file for file in files if file.suffix == ".json"), damaged)
    return as_table(found)


def as_table(found: Iterable[Record]) -> pd.DataFrame:
    """Returns the table of ``load`` for records that were read already."""
    import pandas as pd

    return pd.DataFrame([_row(record) for record in found])


def _row(record: Record) -> dict[str, Any]:
    return {
        **dataclasses.asdict(record.cell),
        "status": record.status,
        "reason": record.reason,
        "data": record.data.name,
        "embedded": record.data.embedded,
        **{f"metric.{name}": metric.value for name, metric in record.metrics.items()},
        "n": next((metric.n for metric in record.metrics.values()), None),
        **{f"efficiency.{name}": value for name, value in as_json(record)["efficiency"].items()},
        "seconds": record.seconds,
        "path": str(record.path),
    }
