"""Reads the records for a report, and computes the digests that show whether a report is up to date."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from benchmark.files import write_bytes
from benchmark.measuring.peaks import peak_files
from benchmark.registry import TASKS
from benchmark.report import parquet
from benchmark.report.by_task import PARTS, module_file
from benchmark.report.claims.files import DEFAULT as claims_file
from benchmark.report.published import LEDGER as ledger_file
from benchmark.report.speed import sweep_files
from benchmark.results import ATTACHMENTS, CURVES_SUFFIX, EXAMPLES_SUFFIX, Record, record_files, records
from benchmark.settings.tuned import tuned_files
from benchmark.settings.varied import varied_files

FILE_NAME = "inputs.json"  # beside the report; says from what it was built


class Readable(NamedTuple):
    """The records of some folders."""

    records: list[Record]
    damaged: list[str]  # one line for each file that can't be read, with its name


def read(directories: Sequence[Path]) -> Readable:
    """Reads all records but the damaged ones.  If the curves of a record can't be read, it is used without them.

    Raises ValueError for a folder that isn't there.
    """
    logging.getLogger(__name__).info("reading records")
    damaged: list[str] = []
    found = [_with_readable_curves(record, damaged) for record in records(directories, damaged=damaged.append)]
    return Readable(found, [_published(line, directories) for line in damaged])


def _with_readable_curves(record: Record, damaged: list[str]) -> Record:
    try:
        len(record.curves)  # reads the file, and keeps its content for all figures
    except ValueError as error:
        damaged.append(str(error))
        return replace(record, curves_file=None)
    return record


def _published(line: str, directories: Iterable[Path]) -> str:
    """Returns the line without folders of this machine, because reports are published."""
    for directory in directories:
        line = line.replace(f"{directory}/", f"{shown_path(directory)}/")
    return line


def shown_path(path: Path) -> str:
    """Returns the path relative to the working folder, or its name if it lies elsewhere, because reports are published."""
    path = path.resolve()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


class State(NamedTuple):
    """From what a report was built, and what failed on the way."""

    inputs: dict[str, str]
    faults: list[str]
    damaged: list[str]


def write_state(output: Path, state: State) -> None:
    """Writes ``inputs.json`` into the folder of the report."""
    write_bytes(output / FILE_NAME, (json.dumps(state._asdict(), indent=1, sort_keys=True) + "\n").encode())


def read_state(output: Path) -> State | None:
    """Reads ``inputs.json``.  Returns None if the folder has none, or a damaged one."""
    try:
        content = (output / FILE_NAME).read_text(encoding="utf-8")
        return TypeAdapter(State).validate_json(content, strict=True)
    except (OSError, ValueError):
        return None


def digests(directories: Sequence[Path], claims: Path | None = None, tuned: Path | None = None) -> dict[str, str]:
    """Returns the SHA-256 of every file on which the report depends: records, files beside them, sweeps, tuning, claims, and code.

    Raises ValueError for a folder that isn't there.
    """
    files = {}
    for directory in directories:
        if not directory.is_dir():
            raise ValueError(f"{directory}: no such folder of results")
        patterns = (f"*/*{EXAMPLES_SUFFIX}", f"*/*{CURVES_SUFFIX}", f"*/{ATTACHMENTS}/*")
        beside = sorted(file for pattern in patterns for file in directory.glob(pattern) if file.is_file())
        name = shown_path(directory)
        others = [*sweep_files([directory]), *peak_files([directory]), *varied_files([directory])]
        for file in [*record_files(directory), *beside, *others]:
            files[f"{name}/{file.relative_to(directory).as_posix()}"] = file
    for file in sorted(Path(__file__).parent.rglob("*")):
        if file.suffix in (".py", ".jinja", ".css", ".js"):
            files[f"benchmark/report/{file.relative_to(Path(__file__).parent).as_posix()}"] = file
    files |= {f"configs/tuned/{file.name}": file for file in tuned_files(tuned)}
    beside_code = {"claims": claims or claims_file, "published figures": ledger_file}
    files |= {name: file for name, file in beside_code.items() if file.is_file()}
    for task in TASKS:
        for part in PARTS:
            own = module_file(task, part)
            if own is not None:
                files[f"{part} of {task}"] = own
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    forms = "with Parquet" if parquet.is_available() else "without Parquet"
    return found | {"version of lavo-bench": package_version(), "forms": forms}


def package_version() -> str:
    """Returns the installed version of this project."""
    try:
        return version("lavo-bench")
    except PackageNotFoundError:  # the checkout was never installed
        return "not installed"
