"""Files written whole or not at all: a reader never sees half of one, and a full disk loses nothing that was there."""

from __future__ import annotations

import errno
import os
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
    """The machine failed, not what runs on it: no space, a read-only or lost file system, too many open files.

    The text is one line with the file's name.
    """

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line

    def __str__(self) -> str:
        return self.line


def is_machine_fault(error: BaseException) -> bool:
    """Whether this exception, raised by anyone, says that the machine failed."""
    return isinstance(error, MachineFault) or (isinstance(error, OSError) and error.errno in MACHINE_FAULTS)


def as_machine_fault(error: BaseException, where: str) -> MachineFault:
    """The fault as one line: the file where it is known, else what was being done."""
    if isinstance(error, MachineFault):
        return error
    name = getattr(error, "filename", None) or where
    return MachineFault(f"{name}: {getattr(error, 'strerror', None) or error}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` when the block ends without an exception.

    Two processes may do the same at once: the later one wins, and both files were whole.
    Raises MachineFault where the file can't be written.
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
    """A new file beside ``path``, because a rename is atomic within one file system only; locked while it is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=TEMPORARY_SUFFIX)
        file = os.fdopen(handle, "wb")
        try:
            _lock(file)
            if Path(name).exists():  # else ``remove_abandoned`` took it before it was locked
                os.chmod(name, 0o666 & ~umask())  # mkstemp gives 0600, and what is written here is for others too
                return Path(name), file
        except BaseException:
            file.close()
            Path(name).unlink(missing_ok=True)
            raise
        file.close()


def umask() -> int:
    """The mode bits that this process takes away from new files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _lock(file: BinaryIO) -> bool:
    """Whether this process has the file's lock now; a lock ends with its process."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files that killed processes left anywhere below a folder; those being written are locked and stay."""
    if fcntl is None:
        return
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            if _lock(file):
                path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes the whole content under this name at once.  Raises MachineFault where that fails."""
    with replacing(path) as file:
        file.write(content)
