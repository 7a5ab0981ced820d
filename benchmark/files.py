"""Writes files whole or not at all: no reader sees half a file, and the old file stays if the disk is full."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".tmp"
_OUR_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)  # of a temporary file: mkstemp's eight signs
MACHINE_FAULTS = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EIO",
        "ENOTCONN",
        "ESTALE",
        "ENODEV",
        "ENXIO",
        "EMFILE",
        "ENFILE",
        "EFBIG",
    )
    if hasattr(errno, name)
)


class MachineFault(OSError):
    """Raised when the machine fails: no space, a read-only or lost file system, too many open files.

    It says nothing about the cell that was running, so the cell is not recorded as failed.  The text is one line with the
    file's name.
    """

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line

    def __str__(self) -> str:
        return self.line


def is_machine_fault(error: BaseException) -> bool:
    """Returns whether this exception, whatever code raised it, means that the machine failed."""
    return isinstance(error, MachineFault) or (isinstance(error, OSError) and error.errno in MACHINE_FAULTS)


def as_machine_fault(error: BaseException, where: str) -> MachineFault:
    """Returns the error as a MachineFault, whose line names the file if it is known, else ``where``."""
    if isinstance(error, MachineFault):
        return error
    name = getattr(error, "filename", None) or where
    return MachineFault(f"{name}: {getattr(error, 'strerror', None) or error}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file for writing, and renames it to ``path`` if the block ends without an exception.

    Two processes may write the same path at once: the later one wins, and each file is complete.
    Raises MachineFault if the file can't be written.
    """
    try:
        temporary, file = _temporary(path)
    except OSError as error:
        raise MachineFault(f"{path}: can't be written: {error.strerror or error}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MachineFault(f"{path}: can't be written: {error.strerror or error}") from error
        raise


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Creates a locked file beside ``path``, because a rename is atomic only within one file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=TEMPORARY_SUFFIX)
        file = os.fdopen(handle, "wb")
        try:
            _lock(file)
            if Path(name).exists():  # else ``remove_abandoned`` deleted it before it was locked
                os.chmod(name, 0o666 & ~umask())  # mkstemp's mode 0600 would hide it from others
                return Path(name), file
        except BaseException:
            file.close()
            Path(name).unlink(missing_ok=True)
            raise
        file.close()


def probe(folder: Path) -> None:
    """Creates the folder if it is missing, and a temporary file in it, which it removes.  Raises OSError if that fails."""
    temporary, file = _temporary(folder / "probe")
    with file:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """Returns the mode bits that this process removes from new files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _lock(file: BinaryIO) -> bool:
    """Tries to lock the file, and returns whether that succeeded.  The lock ends with the process."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(folder: Path, *, below: bool = True) -> None:
    """Removes temporary files that killed processes left in a folder, and ``below`` it; those being written are locked and stay.

    Only names that ``replacing`` makes are touched: a user's folder may hold other programs' temporary files.
    """
    if fcntl is None:
        return
    for path in (folder.rglob if below else folder.glob)(f".*{TEMPORARY_SUFFIX}"):
        if _OUR_NAME.fullmatch(path.name):
            with suppress(OSError), path.open("rb") as file:
                if _lock(file):
                    path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.  Raises MachineFault if that fails."""
    with replacing(path) as file:
        file.write(content)
