"""Lets one process at a time prepare a set; the others wait, and find it done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from benchmark.files import fcntl


@contextmanager
def alone(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file ``path`` during the block, and removes it at the end.  The lock ends with the process, however it ends.

    on_wait: is called once if another process holds the lock.  Without a POSIX system there is no lock.
    """
    if fcntl is None:
        yield
        return
    file = _locked(path, on_wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends, so that nobody locks a file that is about to go
        file.close()


def _locked(path: Path, on_wait: Callable[[], None]) -> BinaryIO:
    waited = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # the holder before may have removed it
        file = path.open("ab")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    on_wait()
                waited = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the holder before removed this file; another one may stand in its place


def _is_still(path: Path, file: BinaryIO) -> bool:
    """Returns whether the open file is the one that stands at the path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
