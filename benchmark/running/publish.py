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

from benchmark.files import MachineFault, as_machine_fault, names_in, write_bytes
from benchmark.results import CURVES_SUFFIX, EXAMPLES_SUFFIX, Record, contents, read_record, record_at
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
    stage = _stage(output, cell, ticket.token)
    if _finish(output, stage):  # the worker of this attempt was killed after it had published its record
        return read_record(path)
    shutil.rmtree(stage, ignore_errors=True)  # what it left if it was killed before
    if ticket.replaces and not record.is_completed and (found := record_at(path)) is not None and found.is_completed:
        # A second run that fails leaves the figures of the first.  But they may be its own already: its worker was killed after it
        # had published them, and this record only says that it was killed.
        return found if ticket.before not in (None, attempt_of(found)) else record
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
    except FileNotFoundError as error:  # whoever took the cell has removed the stage
        raise LostClaim(record.cell.hash) from error
    except OSError as error:
        if isinstance(error, MachineFault) and holds(output, cell, ticket.token):
            raise
        if not holds(output, cell, ticket.token):
            raise LostClaim(record.cell.hash) from error
        raise MachineFault(f"{path}: can't be written: {error.strerror or error}") from error
    try:  # apart, because the record is published: whatever happens now, the claim was not lost
        _finish(output, stage)
    except OSError as error:
        raise as_machine_fault(error, str(path)) from error
    return record


def attempt_of(record: Record) -> str:
    """Returns a text by which the attempt that made a record is told from another attempt at the same cell."""
    return f"{record.started} {record.seconds}"


def _stage(output: Path, cell: str, token: str) -> Path:
    return output / FOLDER / f"{cell}.{token}"


def _commit(staged: Path, path: Path, *, replaces: bool) -> bool:
    """Puts the staged record into its place, in one system call.  Returns False if there is one that may not be replaced.

    A network file system repeats a call whose answer was lost, and then tells of the second one, which finds what the first has
    done.  So after an error the files themselves say whether the record is at its place.
    """
    second = staged.with_name(f"{staged.name}.link")
    try:
        if replaces:
            with suppress(FileExistsError):  # only this call can have made it: nobody else writes into the stage
                os.link(staged, second)  # the staged name must stay, because ``_finish`` knows the record by it
            try:
                os.replace(second, path)
            except FileNotFoundError:
                if not staged.samefile(path):
                    raise
        else:
            os.link(staged, path)
    except FileExistsError:
        return staged.samefile(path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists() and not replaces:
            return False
        for name in names_in(staged.parent):  # a file system without hard links: what lies beside the record goes first
            if name.endswith(_BESIDE):
                os.replace(staged.with_name(name), path.with_name(name))
        os.replace(staged, path)
        shutil.rmtree(staged.parents[1], ignore_errors=True)  # ``_finish`` won't, because the staged name is gone
    return True


def _finish(output: Path, stage: Path) -> bool:
    """Moves what lies beside a published record to its place, and removes the stage.  Returns False if it isn't published.

    Several processes may do so at once, each finding some files already moved, or the whole stage removed.
    """
    staged = [stage / task / name for task in names_in(stage) for name in names_in(stage / task)]
    published = [file for file in staged if file.suffix == ".json" and _is_at_its_place(output, stage, file)]
    for record in published:
        for name in names_in(record.parent):
            if name.endswith(_BESIDE):
                file = record.with_name(name)
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


def settle(output: Path, cell: str | None = None) -> None:
    """Completes the publication of attempts that were killed, and removes the stages of those that can't publish any more.

    cell: the hash of a cell; None for all.
    """
    for name in names_in(output / FOLDER):
        stage, (owner, _, token) = output / FOLDER / name, name.rpartition(".")
        if not owner or cell not in (None, owner) or not stage.is_dir():
            continue
        if not _finish(output, stage) and not holds(output, owner, token):
            shutil.rmtree(stage, ignore_errors=True)
