"""Worker processes that live for the whole run: cells go in, events come out."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmark.files import MachineFault
from benchmark.measuring import memory
from benchmark.registry import is_built_in
from benchmark.results import Status, write_record
from benchmark.running import family, fresh
from benchmark.running.runner import Event, Listener, Place, record_without_figures, run_cell
from benchmark.settings.cell import Cell

REPORT_SECONDS = 0.2  # at least, between two messages about progress
SILENCE_SECONDS = 30.0  # after which the display says that a cell shows no progress
_GONE = (BrokenPipeError, ConnectionResetError, EOFError)


def _work(pipe: Connection, place: Place) -> None:
    """What a worker does: takes cells, sends events.  Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if not place.debug:
        _mute()
    import torch

    memory.keep_freed_memory()
    torch.set_num_threads(1)
    from benchmark.registry import include_file

    state = fresh.current()
    for path in place.include:
        include_file(path)
    last, last_phase = 0.0, ""

    def send(event: Event) -> None:
        """Sends an event, unless it is progress in the same phase that follows too soon."""
        nonlocal last, last_phase
        if time.monotonic() - last >= REPORT_SECONDS or event.phase != last_phase:
            last, last_phase = time.monotonic(), event.phase
            try:
                pipe.send(event)
            except BrokenPipeError:  # the parent is gone, so the cell was interrupted and did not fail
                raise SystemExit from None

    while (cell := pipe.recv()) is not None:
        state.restore(cell.threads)
        try:
            record = run_cell(cell, place, send)
        except MachineFault as fault:
            pipe.send(Event("fault", cell, reason=str(fault)))
            return
        pipe.send(Event("end", cell, record=record))


def _mute() -> None:
    """Sends what libraries and attentions print to nowhere: it would break the progress display."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    place: Place
    mark: str
    cell: Cell | None = None
    stranger: str | None = None  # an attention that is not ours has run here, and may have changed anything
    last_sign: float = field(default_factory=time.monotonic)
    last_said: float = field(default_factory=time.monotonic)

    def takes(self, cell: Cell) -> bool:
        """Whether this cell may run here: after a stranger's attention only cells of the same attention do."""
        return self.stranger in (None, cell.attention)


def run_cells(cells: Sequence[Cell], place: Place, *, jobs: int, listen: Listener = lambda _: None) -> None:
    """Runs cells, ``jobs`` at a time; each leaves its record.  Ctrl-C ends the workers and is raised again.

    On GPUs the workers take one device each, in turn.  Raises MachineFault where the machine fails: the cells that were
    running then have no record, and the next run takes them up again.
    """
    _Pool(list(cells), place, listen).run(max(1, min(jobs, len(cells))))


class _Pool:
    """The workers of one run, and the cells that wait for them."""

    def __init__(self, waiting: list[Cell], place: Place, listen: Listener) -> None:
        self.waiting, self.place, self.listen = waiting, place, listen
        self.mark = secrets.token_hex(8)
        self.workers: list[_Worker] = []
        self._count = 0

    def run(self, jobs: int) -> None:
        """Runs all cells; no worker, nor anything that one has started, is left afterwards."""
        guard = family.start_guard(self.mark)
        try:
            for number in range(jobs):
                self.workers.append(self._start(_own_device(self.place, number)))
            for number in range(jobs):
                self._give(number)
            while any(worker.cell is not None for worker in self.workers):
                busy = {id(worker.pipe): n for n, worker in enumerate(self.workers) if worker.cell is not None}
                ready = wait([self.workers[n].pipe for n in busy.values()], timeout=1.0)
                for pipe in ready:
                    self._read(busy[id(pipe)])
                self._look_for_hung_cells()
        finally:
            for worker in self.workers:
                _stop(worker)
            family.stop_guard(guard)

    def _start(self, place: Place) -> _Worker:
        context = multiprocessing.get_context("spawn")  # fork would copy torch's threads in the middle of their work
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, place), daemon=True)
        resource_tracker.ensure_running()  # before the mark: it serves all workers, and must not end with the first
        self._count += 1
        mark = f"{self.mark}.{self._count}"
        with _interrupts_held(), _environment(family.MARK, mark):
            process.start()
        theirs.close()
        return _Worker(process, ours, place, mark)

    def _give(self, number: int) -> None:
        """Gives the worker its next cell; a worker that may take none of those that wait is replaced by a new one."""
        worker = self.workers[number]
        worker.cell = None
        if not self.waiting:
            return
        chosen = next((cell for cell in self.waiting if worker.takes(cell)), None)
        if chosen is None:
            _stop(worker)
            self.workers[number] = worker = self._start(worker.place)
            chosen = self.waiting[0]
        self.waiting.remove(chosen)
        worker.cell, worker.last_sign = chosen, time.monotonic()
        if not is_built_in(chosen.attention):
            worker.stranger = chosen.attention
        self.listen(Event("start", chosen))
        with suppress(*_GONE):  # a worker that is dead already is found by the next look at its pipe
            worker.pipe.send(chosen)

    def _read(self, number: int) -> None:
        """Handles one message of a worker, or its death."""
        worker = self.workers[number]
        try:
            event: Event = worker.pipe.recv()
        except _GONE:
            worker.process.join()
            self._replace(number, *_how_it_ended(worker.process.exitcode))
            return
        worker.last_sign = time.monotonic()
        if event.kind == "fault":
            raise MachineFault(event.reason)
        self.listen(event)
        if event.kind == "end":
            self._give(number)

    def _look_for_hung_cells(self) -> None:
        now = time.monotonic()
        for number, worker in enumerate(self.workers):
            silent = now - worker.last_sign
            if worker.cell is None or silent < SILENCE_SECONDS:
                continue
            if silent > self.place.cell_timeout:
                self._replace(
                    number, "failed", f"no progress for {silent:.0f} s; --cell-timeout says how long is allowed"
                )
            elif now - worker.last_said >= SILENCE_SECONDS:
                worker.last_said = now
                self.listen(Event("silent", worker.cell, seconds=silent))

    def _replace(self, number: int, status: Status, reason: str) -> None:
        """Writes the record of a cell whose worker died or hung, and lets a new worker go on with the others."""
        worker = self.workers[number]
        cell = worker.cell
        assert cell is not None
        family.end(worker.mark)
        record = record_without_figures(cell, self.place, status, reason, datetime.now(UTC))
        record = write_record(cell.path(self.place.output), record)
        self.listen(Event("end", cell, record=record))
        worker.cell = None
        _stop(worker)
        self.workers[number] = self._start(worker.place)
        self._give(number)


def _how_it_ended(code: int | None) -> tuple[Status, str]:
    if code == -signal.SIGKILL:
        return "out_of_memory", "the worker was killed (signal 9), as the system does when memory runs out"
    ended = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    return "failed", f"the worker process ended by itself ({ended})"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block ends: a worker that starts inherits this, and so prints no traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, for the processes that start inside."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _own_device(place: Place, number: int) -> Place:
    if place.device != "cuda":
        return place
    import torch

    return replace(place, device=f"cuda:{number % torch.cuda.device_count()}")


def _stop(worker: _Worker) -> None:
    """Ends a worker, and whatever was started in it."""
    if worker.cell is None and worker.process.is_alive():
        with suppress(OSError, *_GONE):
            worker.pipe.send(None)
            worker.process.join(timeout=5)
    family.end(worker.mark)
    worker.process.join(timeout=5)
    worker.pipe.close()


def default_jobs(device: str, threads: int = 1) -> int:
    """Cells at a time: one for each ``threads`` cores, or one for each GPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.device_count() if device == "cuda" else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
