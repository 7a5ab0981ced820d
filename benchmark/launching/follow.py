"""Follows workers that an engine has started, by the records that appear, until every cell has one or no worker is left."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmark.launching.worker import STOP
from benchmark.results import read_record
from benchmark.running import runner
from benchmark.running.plans import JOBS
from benchmark.running.runner import Event, Listener, Place, Redo
from benchmark.settings.cell import Cell

LOOK_SECONDS = 2.0  # between two looks at the records
LAST_LOOK_SECONDS = 5.0  # after which a record of another machine is seen here, once its worker has ended
END_SECONDS = 10.0  # for workers to notice that every cell has a record
STOP_SECONDS = 40.0  # for workers that were told to stop

Say = Callable[[str], None]


class Left(NamedTuple):
    """How many workers of a launch are left: those that run, and those that wait for a machine."""

    running: int
    waiting: int

    def __bool__(self) -> bool:
        return self.running + self.waiting > 0

    def __str__(self) -> str:
        words = f"{self.running} worker{'' if self.running == 1 else 's'} running"
        return f"{words}, {self.waiting} waiting" if self.waiting else words


class Crew(Protocol):
    """The workers of one launch.

    name      of the engine, and what identifies the workers in it
    seconds   between two calls of ``left``
    """

    name: str
    seconds: float

    def left(self) -> Left:
        """Returns how many workers have not ended."""
        ...

    def losses(self) -> list[str]:
        """Returns a line for each worker that has ended without having done its work; each only once."""
        ...

    def cancel_waiting(self) -> None:
        """Cancels the workers that have not started; they count as no losses."""
        ...

    def cancel(self) -> None:
        """Ends all workers at once."""
        ...


def follow(
    cells: Sequence[Cell], place: Place, listen: Listener, redo: Redo, say: Say, *, start: Callable[[Path], Crew]
) -> None:
    """Starts workers, and returns when every cell has a record or when no worker is left.

    start: called with a new folder for what workers print; returns the workers.  Ctrl-C stops them and is raised again.
    """
    following = _Following(cells, place, listen, redo, say)
    following.folder.mkdir(parents=True)
    try:
        crew = start(following.folder)
    except BaseException:
        following.remove_files()
        raise
    try:
        following.until_done(crew)
    except BaseException:
        say(f"{crew.name}: stopping the workers")
        following.stop(crew)
        following.remove_files()
        say(f"{crew.name}: stopped; the same command goes on with the cells that have no record")
        raise
    if following.open:
        say(f"{crew.name}: no worker is left; what the workers printed is in {following.folder}")
        return
    following.stop(crew, END_SECONDS)
    runner.clean(place.output, cells, lease=place.lease)  # what killed workers left
    following.remove_files()


class _Following:
    """One launch: its folder, and the cells that have no record yet."""

    def __init__(self, cells: Sequence[Cell], place: Place, listen: Listener, redo: Redo, say: Say) -> None:
        self.output, self.listen, self.say = place.output, listen, say
        self.folder = place.output.resolve() / JOBS / secrets.token_hex(4)
        self.open = list(cells)
        # A cell that is run again has a record already: it has ended when there is another one.
        self._before: dict[Path, tuple[int, int]] = {}
        for cell in cells:
            path = cell.path(place.output)
            stamp = _stamp(path)
            if stamp is not None and redo.wants(cell, place.output):
                self._before[path] = stamp

    def until_done(self, crew: Crew) -> None:
        """Tells of each cell that ends, until none is open or no worker is left."""
        shown, next_look = None, 0.0
        while True:
            self._tell_records()
            if not self.open:
                return
            if time.monotonic() >= next_look:
                left = crew.left()
                next_look = time.monotonic() + crew.seconds
                self._tell_losses(crew)
                if not left:
                    self._last_look()
                    return
                if left != shown:
                    self.say(f"{crew.name}: {left}")
                shown = left
            time.sleep(min(LOOK_SECONDS, crew.seconds))

    def _tell_losses(self, crew: Crew) -> None:
        for line in crew.losses():
            self.say(f"{crew.name}: {line}")

    def _last_look(self) -> None:
        until = time.monotonic() + LAST_LOOK_SECONDS
        while self.open and time.monotonic() < until:
            self._tell_records()
            time.sleep(LAST_LOOK_SECONDS / 10)

    def _tell_records(self) -> None:
        # Listing a folder makes a network file system look for new files; asked for one by name, it may repeat an old answer.
        folders = {cell.path(self.output).parent for cell in self.open}
        there = {folder / name for folder in folders for name in _names_in(folder)}
        for cell in list(self.open):
            path = cell.path(self.output)
            if path in there and _stamp(path) != self._before.get(path):
                with suppress(ValueError, OSError):  # a damaged record, which will be replaced
                    self.listen(Event("end", cell, record=read_record(path)))
                    self.open.remove(cell)

    def stop(self, crew: Crew, patience: float = 0.0) -> None:
        """Ends all workers.  patience: seconds in which they may end by themselves before they are told to."""
        try:
            crew.cancel_waiting()
            ended = _ended_within(crew, patience)
            if not self.open:
                self._tell_losses(crew)  # of workers whose cells others did before the last look
            if not ended:
                with suppress(OSError):  # another run of the same cells has ended, and removed the folder
                    (self.folder / STOP).touch()
                _ended_within(crew, STOP_SECONDS)
        finally:
            crew.cancel()

    def remove_files(self) -> None:
        """Removes the files of this launch."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()  # if no other launch has files there


def _ended_within(crew: Crew, seconds: float) -> bool:
    """Waits until no worker is left, at most for these seconds.  Returns whether none is."""
    until = time.monotonic() + seconds
    while left := crew.left():
        if time.monotonic() >= until:
            break
        time.sleep(min(1.0, crew.seconds))
    return not left


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stamp(path: Path) -> tuple[int, int] | None:
    """Returns what tells a file from another one at the same path; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
