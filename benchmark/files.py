"""Writes files whole or not at all: no reader sees half a file, and the old file stays if the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, TypeVar

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".tmp"
# Of a temporary file: digits of the machine that writes it, and mkstemp's eight signs.
_OUR_NAME = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})\.[a-z0-9_]{8}\.tmp", re.DOTALL)
_UNREAD = (FileNotFoundError, NotADirectoryError, PermissionError)  # of folders that are passed over
_TRIES = 100  # to create a file in a folder that others remove when it is empty
_FOREIGN_SECONDS = 86_400.0  # the age from which on another machine's temporary file is abandoned
T = TypeVar("T")
# What operating systems put beside data: names in lower case, which begin with no dot.
COMPANIONS = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "@eadir",
    }
)
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
    prefix = f".{path.name[:80]}.{machine_digits()[:8]}."
    make = partial(tempfile.mkstemp, dir=path.parent, prefix=prefix, suffix=TEMPORARY_SUFFIX)
    while True:
        handle, name = made_in(path.parent, make)
        file = os.fdopen(handle, "wb")
        try:
            try_lock(file)
            if Path(name).exists():  # else ``remove_abandoned`` deleted it before it was locked
                os.chmod(name, 0o666 & ~umask())  # mkstemp's mode 0600 would hide it from others
                return Path(name), file
        except BaseException:
            file.close()
            Path(name).unlink(missing_ok=True)
            raise
        file.close()


def names_in(folder: Path) -> list[str]:
    """Returns the names in a folder, in order; none if it can't be read, or if there is no such folder.

    ``Path.glob`` raises FileNotFoundError if another process removes a folder in the moment before it is read.
    """
    try:
        return sorted(os.listdir(folder))
    except _UNREAD:
        return []


def is_companion(name: str) -> bool:
    """Whether an operating system puts a file or folder of this name beside data: ``._a.txt``, ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in COMPANIONS


def files_below(folder: Path, *, hidden: bool = True) -> Iterator[Path]:
    """Yields the files in a folder and below it, in no order.

    hidden: also those whose names, or the names of whose folders, begin with a dot.  Folders that can't be read, or that another
    process removes meanwhile, are left out.
    """

    def is_left_out(error: OSError) -> None:
        if not isinstance(error, _UNREAD):
            raise error

    for path, folders, names in os.walk(folder, onerror=is_left_out):
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]  # those that are looked into next
        yield from (Path(path, name) for name in names if hidden or not name.startswith("."))


def made_in(folder: Path, make: Callable[[], T]) -> T:
    """Creates the folder if it is missing, and returns what ``make`` returns, which creates a file in it.

    Both are repeated if another process removes the folder, because it is still empty, before the file is there.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            with suppress(FileExistsError):  # mkdir raises it too if the folder is removed while it looks
                folder.mkdir(parents=True, exist_ok=True)
            return make()
    folder.mkdir(parents=True, exist_ok=True)
    return make()


def probe(folder: Path) -> None:
    """Creates the folder if it is missing, and a temporary file in it, which it removes.  Raises OSError if that fails."""
    temporary, file = _temporary(folder / "probe")
    with file:
        temporary.unlink(missing_ok=True)


@contextmanager
def made_once(mark: Path, *, patience: float = 600.0) -> Iterator[None]:
    """Lets one process at a time into the block, until one has come out of it without an exception.

    For data that the block makes if they aren't there: of several processes that start at once, one makes them and the others wait
    for it.  mark: an empty file that stands for the data, locked while they are made.  After ``patience`` seconds a process stops waiting,
    because data made twice are better than a run that hangs.
    """
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        file = mark.open("a+b")
    except OSError:  # a folder that can only be read: what is not there can't be kept anyway
        yield
        return
    with file:
        until = time.monotonic() + patience
        while not _is_made(file) and not try_lock(file) and time.monotonic() < until:
            time.sleep(0.05)
        yield
        if not _is_made(file):
            with suppress(OSError):  # without the mark, the next process only looks whether the data are there
                file.write(b"made\n")


def _is_made(file: BinaryIO) -> bool:
    return os.fstat(file.fileno()).st_size > 0


def umask() -> int:
    """Returns the mode bits that this process removes from new files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def try_lock(file: BinaryIO | int) -> bool:
    """Tries to lock an open file, and returns whether that succeeded.  The lock ends with the file or the process.

    Where there are no such locks (not a POSIX system) it succeeds.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Lets one process at a time into such blocks for this folder, which must exist.  The lock ends with the process.

    Where folders can't be locked (some network file systems, Windows), the block is entered without a lock.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def remove_abandoned(folder: Path, *, below: bool = True) -> None:
    """Removes temporary files that killed processes left in a folder, and ``below`` it; those being written are locked and stay.

    Only names that ``replacing`` makes are touched: a user's folder may hold other programs' temporary files.  Locks may not show
    what another machine is writing, so its files stay for a day.
    """
    if fcntl is None:
        return
    for path in files_below(folder) if below else map(folder.joinpath, names_in(folder)):
        if (name := _OUR_NAME.fullmatch(path.name)) is not None:
            with suppress(OSError), path.open("r+b") as file:  # for writing, because a network's locks ask for that
                is_ours = name["machine"] == machine_digits()[:8]
                if (is_ours or time.time() - path.stat().st_mtime > _FOREIGN_SECONDS) and try_lock(file):
                    path.unlink(missing_ok=True)


@cache
def machine_digits() -> str:
    """Returns 16 hex digits that are the same for all processes of this machine since it was started, and don't name it."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:  # not Linux: then every process counts as a machine of its own
        identity = os.urandom(16)
    return hashlib.sha256(b"lavo-bench" + identity).hexdigest()[:16]


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.  Raises MachineFault if that fails."""
    with replacing(path) as file:
        file.write(content)
