"""Claims on cells, by which any number of processes on any number of machines share one folder of results.

A claim is a file that only one process can create (``O_CREAT | O_EXCL``), ``.claims/HASH.claim``.  Its owner renews it (a *beat*).  A
claim that shows no beat for a whole *lease* has expired, and another process may take the cell by creating the next file of that cell,
``HASH.1.claim``, ``HASH.2.claim``, …: the owner of the highest number has the cell.  No claim is deleted to take a cell, because
between looking at a file and deleting it another process may have put its own in its place.

No clock is compared with another machine's: whoever waits measures, by its own monotonic clock, how long the content of a claim has
stayed the same.  If the owner was a process of this machine that has ended, its lock (``flock``) is gone, and nobody waits.

Claims save work; they are not what keeps results right.  A process that was stopped and wakes up after its lease finds out before it
writes, and even if it didn't, ``benchmark/running/publish.py`` refuses a second record.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmark.files import machine_digits, made_in, names_in, try_lock

FOLDER = ".claims"  # in the folder of results; names that begin with a dot are work in progress
LEASE_SECONDS = 60.0
BEATS_IN_A_LEASE = 6
_NAME = re.compile(r"(?P<cell>[0-9a-f]+)(?:\.(?P<number>[1-9][0-9]*))?\.claim")


class LostClaim(Exception):
    """Raised by an attempt whose cell another process has taken: it must publish nothing."""


class Ticket(NamedTuple):
    """Permission to run a cell once and to publish its record."""

    token: str  # random; names the attempt
    replaces: bool = (
        False  # whether the cell has a record that may be replaced (--rerun, --retry-failed, a damaged one)
    )
    before: str | None = None  # ``attempt_of`` that record, if it can be read


class _Held(NamedTuple):
    """A claim of this process: its file, which stays open and locked."""

    token: str
    number: int
    descriptor: int


class Claims:
    """The claims of this process in a folder of results.

    lease    seconds without a beat after which a claim has expired
    clock    seconds, monotonic
    """

    def __init__(self, output: Path, lease: float = LEASE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.lease, self.clock = output / FOLDER, lease, clock
        self._held: dict[str, _Held] = {}
        # Claims of others: their content, and since when it has been the same.
        self._seen: dict[Path, tuple[bytes, float]] = {}
        self._beats = 0
        self._last_beat = clock()

    def take(self, cell: str) -> str | None:
        """Claims a cell.  Returns the token of the attempt, or None if another process has the cell.

        A claim that was not seen before is taken to be alive, unless its lock shows that its owner, on this machine, has ended.
        """
        numbers = _numbers(self.folder, cell)
        if not numbers:
            return self._create(cell, 0)
        return None if self._is_alive(_path(self.folder, cell, numbers[-1])) else self._create(cell, numbers[-1] + 1)

    def is_free(self, cell: str) -> bool:
        """Returns whether nobody has claimed the cell, or the claim has expired."""
        numbers = _numbers(self.folder, cell)
        return not numbers or not self._is_alive(_path(self.folder, cell, numbers[-1]))

    def _create(self, cell: str, number: int) -> str | None:
        path = _path(self.folder, cell, number)
        try:
            descriptor = made_in(self.folder, lambda: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        except FileExistsError:  # another process was quicker
            return None
        token = secrets.token_hex(8)
        try_lock(descriptor)  # it is free: before the content is there, nobody else tries it
        self._held[cell] = _Held(token, number, descriptor)
        # Not synchronised: the file's existence is the claim, and waiting for the disk would cost more than all the rest.  On a
        # network's file system the first beat brings the content to the others, to whom the claim is merely a new one until then.
        os.pwrite(descriptor, _content(token, self._beats), 0)
        return token

    def _is_alive(self, path: Path) -> bool:
        try:
            with path.open("r+b") as file:  # for writing, because a network's locks ask for that
                content = file.read()
                if content.split()[1:2] == [machine_digits().encode()] and try_lock(file):
                    return False
        except OSError:  # it has just been released
            self._seen.pop(path, None)
            return True
        before, since = self._seen.get(path, (None, 0.0))
        if content != before:
            self._seen[path] = content, self.clock()
            return True
        return self.clock() - since <= self.lease

    def beat(self) -> list[str]:
        """Renews the claims, if it is time to.  Returns the cells that were lost to another process; they are no longer held."""
        if self.clock() - self._last_beat < self.lease / BEATS_IN_A_LEASE:
            return []
        self._last_beat, self._beats = self.clock(), self._beats + 1
        lost = []
        for cell, held in list(self._held.items()):
            with suppress(OSError):  # a stale handle: the claim is lost, as ``holds`` tells
                os.pwrite(held.descriptor, _content(held.token, self._beats), 0)
                os.fsync(held.descriptor)
            if not holds(self.folder.parent, cell, held.token):
                self._forget(cell)
                lost.append(cell)
        return lost

    def release(self, cell: str) -> None:
        """Gives up the claim on a cell, and removes its files if no other process has taken the cell."""
        held = self._held.get(cell)
        if held is None:
            return
        if holds(self.folder.parent, cell, held.token):
            for number in _numbers(self.folder, cell):
                if number <= held.number:
                    _path(self.folder, cell, number).unlink(missing_ok=True)
        self._forget(cell)

    def release_all(self) -> None:
        """Gives up all claims."""
        for cell in list(self._held):
            self.release(cell)
        with suppress(OSError):
            self.folder.rmdir()  # if nothing is left in it

    def traces(self) -> set[str]:
        """Returns the hashes of the cells of which there is a claim, or a stage from which an attempt publishes."""
        return {name.partition(".")[0] for name in names_in(self.folder)}

    def discard(self, cell: str) -> None:
        """Removes the claims on a cell that has a record, if their owners have ended before they could release them."""
        numbers = _numbers(self.folder, cell)
        if numbers and self.is_free(cell):
            for number in numbers:  # not those that another process has made since
                _path(self.folder, cell, number).unlink(missing_ok=True)

    def discard_unwritten(self, cells: Iterable[str]) -> None:
        """Removes claims without their content on cells that have a record.

        A process that was killed between creating its claim and writing it, or a machine that was switched off, has left one.  It
        doesn't tell whose it is, so it is removed when it has been so for a whole lease; this method waits for that.
        """
        while unwritten := [cell for cell in cells if self._is_unwritten(cell)]:
            for cell in unwritten:
                self.discard(cell)
            time.sleep(min(0.1, self.lease / 10))

    def _is_unwritten(self, cell: str) -> bool:
        numbers = _numbers(self.folder, cell)
        with suppress(OSError):  # it has just been released
            return bool(numbers) and len(_path(self.folder, cell, numbers[-1]).read_bytes().split()) < 3
        return False

    def _forget(self, cell: str) -> None:
        os.close(self._held.pop(cell).descriptor)


def holds(output: Path, cell: str, token: str) -> bool:
    """Returns whether the attempt with this token still has the cell."""
    folder = output / FOLDER
    numbers = _numbers(folder, cell)
    if not numbers:
        return False
    try:
        return _path(folder, cell, numbers[-1]).read_bytes().split()[:1] == [token.encode()]
    except OSError:
        return False


def _path(folder: Path, cell: str, number: int) -> Path:
    return folder / (f"{cell}.{number}.claim" if number else f"{cell}.claim")


def _numbers(folder: Path, cell: str) -> list[int]:
    """Returns the numbers of the claims on a cell, in order."""
    found = (_NAME.fullmatch(name) for name in names_in(folder))
    return sorted(int(match["number"] or 0) for match in found if match and match["cell"] == cell)


def _content(token: str, beat: int) -> bytes:
    """Returns the text of a claim, as long for every beat, so that a later one replaces an earlier one in place."""
    return f"{token} {machine_digits()} {beat:020d}\n".encode()
