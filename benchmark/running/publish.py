"""Publishes the record of an attempt at a cell: once, whole, and only if no other attempt has published one.

An attempt writes its files into a folder of its own, its *stage*, ``.claims/HASH.TOKEN/TASK/``.  Then one system call decides: a hard
link to the staged record at the record's place, which fails where a record is.  What lies beside the record is moved to its place
afterwards.  If the process is killed in between, any later process finds a stage whose record is published and moves the rest
(``settle``): at no moment do files of two attempts mix.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import MachineFault, write_bytes
from benchmark.results import CURVES_SUFFIX, EXAMPLES_SUFFIX, Record, contents, is_completed, read_record
from benchmark.running.claims import FOLDER, LostClaim, Ticket, holds

_BESIDE = (EXAMPLES_SUFFIX, CURVES_SUFFIX)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def publish(
    output: Path,
    record: Record,
    ticket: Ticket,
    path: Path,
    columns: Mapping[str, np.ndarray] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> Record:
    """Publishes a record and the files beside it, and returns it; if another attempt was earlier, returns the record of that one.

    output: the folder of results.  path: the place of the record in it.  columns, curves: as for ``write_record``.
    Raises LostClaim if another process has the cell, MachineFault if the files can't be written.
    """
    cell = record.cell.hash
    if not holds(output, cell, ticket.token):
        raise LostClaim(record.cell.hash)
    if ticket.replaces and not record.is_completed and is_completed(path):
        return record  # a second run that fails leaves the figures of the first
    stage = _stage(output, cell, ticket.token)
    if _finish(output, stage):  # the worker of this attempt was killed after it had published its record
        return read_record(path)
    shutil.rmtree(stage, ignore_errors=True)  # what it left if it was killed before
    record, files = contents(path, record, columns, curves)
    try:
        for file, content in files.items():
            write_bytes(stage / file.relative_to(output), content)
        if not holds(output, cell, ticket.token):  # the last moment at which a process that was stopped can find out
            raise LostClaim(record.cell.hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _commit(stage / path.relative_to(output), path, replaces=ticket.replaces):
            shutil.rmtree(stage, ignore_errors=True)
            return read_record(path)
        _finish(output, stage)
    except FileNotFoundError as error:  # whoever took the cell has removed the stage
        raise LostClaim(record.cell.hash) from error
    except OSError as error:
        if isinstance(error, MachineFault) and holds(output, cell, ticket.token):
            raise
        if not holds(output, cell, ticket.token):
            raise LostClaim(record.cell.hash) from error
        raise MachineFault(f"{path}: can't be written: {error.strerror or error}") from error
    return record


def _stage(output: Path, cell: str, token: str) -> Path:
    return output / FOLDER / f"{cell}.{token}"


def _commit(staged: Path, path: Path, *, replaces: bool) -> bool:
    """Puts the staged record into its place, in one system call.  Returns False if there is one that may not be replaced."""
    second = staged.with_name(f"{staged.name}.link")
    try:
        if replaces:
            os.link(staged, second)  # the staged name must stay, because ``_finish`` knows the record by it
            os.replace(second, path)
        else:
            os.link(staged, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists() and not replaces:
            return False
        for file in staged.parent.iterdir():  # a file system without hard links: what lies beside the record goes first
            if file.name.endswith(_BESIDE):
                os.replace(file, path.with_name(file.name))
        os.replace(staged, path)
    return True


def _finish(output: Path, stage: Path) -> bool:
    """Moves what lies beside a published record to its place, and removes the stage.  Returns False if it isn't published.

    Several processes may do so at once, each finding some files already moved.
    """
    published = [file for file in stage.glob("*/*.json") if _is_at_its_place(output, stage, file)]
    for record in published:
        for file in record.parent.iterdir():
            if file.name.endswith(_BESIDE):
                with suppress(FileNotFoundError):
                    os.replace(file, output / file.relative_to(stage))
    if published:
        shutil.rmtree(stage, ignore_errors=True)
    return bool(published)


def _is_at_its_place(output: Path, stage: Path, staged: Path) -> bool:
    try:
        return staged.samefile(output / staged.relative_to(stage))
    except OSError:
        return False


def settle(output: Path, cell: str = "*") -> None:
    """Completes the publication of attempts that were killed, and removes the stages of those that can't publish any more."""
    for stage in (output / FOLDER).glob(f"{cell}.*/"):
        if stage.is_dir() and not _finish(output, stage):
            name, _, token = stage.name.rpartition(".")
            if not holds(output, name, token):
                shutil.rmtree(stage, ignore_errors=True)
