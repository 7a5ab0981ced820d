"""Runs cells (one attention on one task, trained and evaluated) in worker processes.

A worker runs many cells, one after another, and reports to the parent by events.  A worker that dies or hangs is replaced.

Each worker has a mark: the value of an environment variable, which every process that it starts inherits.  By the mark
``benchmark/running/family.py`` finds and kills all processes of a worker.  ``benchmark/running/fresh.py`` keeps the process
state of a new worker (threads, seeds, working folder, …) and restores it before each cell.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from benchmark.files import MachineFault
from benchmark.measuring import memory
from benchmark.registry import is_built_in
from benchmark.results import Status, read_record, record_at
from benchmark.running import family, fresh
from benchmark.running.claims import BEATS_IN_A_LEASE, Claims, LostClaim, Ticket, holds
from benchmark.running.publish import attempt_of, publish, settle
from benchmark.running.runner import (
    NOTHING_ANEW,
    Event,
    Listener,
    Place,
    Redo,
    record_without_figures,
    remove_checkpoints,
    run_cell,
)
from benchmark.settings.cell import Cell

REPORT_SECONDS = 0.2  # the shortest time between two messages about progress
LOOK_SECONDS = 2.0  # between two looks at the cells that other processes have claimed
AWAY_SECONDS = 10.0  # between two looks for hung cells, from which on nobody has looked in between
SILENCE_SECONDS = 30.0  # without a message, after which the display says that a cell shows no progress
SIGTERM_SECONDS = 1.0  # between the end of a worker by SIGTERM and that of this process, if both were sent it
NO_TICKET = Ticket("")
_PIPE_CLOSED = (BrokenPipeError, ConnectionResetError, EOFError)


def _work(pipe: Connection, place: Place) -> None:
    """The main function of a worker: receives cells, runs them, sends events.  It ignores Ctrl-C, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent starts workers with SIGINT blocked (``_interrupts_held``).  It is unblocked here, now that it is ignored.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if not place.debug:
        _mute()
    import torch

    memory.keep_freed_memory()
    torch.set_num_threads(1)
    from benchmark.registry import include_file

    new_state = fresh.current()  # restored below, so that every cell begins with the process state of a new worker
    for path in place.include:
        include_file(path)
    last_sent, last_look, last_phase = 0.0, 0.0, ""
    ticket = NO_TICKET
    worker = os.getpid()

    def send(event: Event) -> None:
        """Sends an event, but drops it if the phase is the same and the last one was sent less than REPORT_SECONDS ago.

        Raises LostClaim if another process has taken the cell.
        """
        nonlocal last_sent, last_phase, last_look
        if os.getpid() != worker:  # an attention has called os.fork: the copy must neither train on nor write records
            os._exit(1)
        if time.monotonic() - last_sent >= REPORT_SECONDS or event.phase != last_phase:
            last_sent, last_phase = time.monotonic(), event.phase
            try:
                pipe.send(event)
            except BrokenPipeError:  # the parent has ended: the cell must not be recorded as failed
                raise SystemExit from None
        # The parent renews the claim, but it may have been stopped.
        if time.monotonic() - last_look >= place.lease / BEATS_IN_A_LEASE:
            last_look = time.monotonic()
            if not holds(place.output, event.cell.hash, ticket.token):
                raise LostClaim(event.cell.hash)

    while (given := pipe.recv()) is not None:
        cell, ticket = given
        last_look = time.monotonic()
        new_state.restore(cell.threads)
        try:
            record = run_cell(cell, place, send, ticket)
        except LostClaim:
            pipe.send(Event("lost", cell))
            continue
        except MachineFault as fault:
            pipe.send(Event("fault", cell, reason=str(fault)))
            return
        if os.getpid() != worker:
            os._exit(1)
        pipe.send(Event("end", cell, record=record))


def _mute() -> None:
    """Discards what libraries and attentions print, because it would break the progress display."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # standard output and standard error
        os.dup2(null, descriptor)
    os.close(null)


@dataclass
class _Worker:
    """A worker process, as the parent sees it."""

    process: Any
    pipe: Connection
    place: Place
    mark: str  # see the module's docstring
    cell: Cell | None = None  # the cell that it is running
    ticket: Ticket = NO_TICKET  # of that cell
    # Name of an attention that is not built in and has run in this worker.  Its code may have changed global state.
    foreign_attention: str | None = None
    last_message_time: float = field(default_factory=time.monotonic)
    last_silence_report: float = field(default_factory=time.monotonic)  # when the display was last told of no progress

    def may_run(self, cell: Cell) -> bool:
        """Returns whether the cell may run in this worker.

        After an attention that is not built in, only cells of that same attention may.
        """
        return self.foreign_attention in (None, cell.attention)


def run_cells(
    cells: Sequence[Cell],
    place: Place,
    *,
    jobs: int,
    listen: Listener = lambda _: None,
    redo: Redo = NOTHING_ANEW,
) -> None:
    """Runs cells, ``jobs`` at a time, until each has a record.  Ctrl-C ends the workers and is raised again.

    Other processes may work on the same cells in the same folder: each cell is run by the one that claims it, and this function waits
    for the others' cells, or takes them over if their claims expire.  redo: which cells are run although they have a record.
    If there are several GPUs, the workers are spread over them.  Raises MachineFault if the machine fails: the cells that are
    running then get no record, so the next run continues them.
    """
    _Pool(list(cells), place, listen, redo).run(max(1, min(jobs, len(cells))))


class _Pool:
    """The workers of one run, and the cells that wait for a worker."""

    def __init__(self, waiting: list[Cell], place: Place, listen: Listener, redo: Redo) -> None:
        self.waiting, self.place, self.listen, self.redo = waiting, place, listen, redo
        self.elsewhere: list[Cell] = []  # cells that other processes have claimed
        self.done_elsewhere: list[Cell] = []  # cells that have a record of another process, not reported yet
        self.claims = Claims(place.output, place.lease)
        self.mark = secrets.token_hex(8)  # the marks of this run's workers begin with it
        self.workers: list[_Worker] = []
        self._num_started = 0
        self._last_look_elsewhere = self._last_look_for_hung = time.monotonic()

    def run(self, jobs: int) -> None:
        """Runs all cells.  Afterwards no worker is left, nor any process that a worker has started, nor a claim of this process."""
        guard = family.start_guard(self.mark)
        try:
            for number in range(jobs):
                self.workers.append(self._start(_own_device(self.place, number)))
            for number in range(jobs):
                self._give_next_cell(number)
            while self.waiting or self.elsewhere or any(worker.cell is not None for worker in self.workers):
                busy = {id(worker.pipe): n for n, worker in enumerate(self.workers) if worker.cell is not None}
                for pipe in wait([self.workers[n].pipe for n in busy.values()], timeout=1.0):
                    self._read_message(busy[id(pipe)])
                self._renew_claims()
                self._look_for_hung_cells()
                self._look_elsewhere()
        finally:
            for worker in self.workers:
                _stop(worker)
            family.stop_guard(guard)
            self.claims.release_all()

    def _start(self, place: Place) -> _Worker:
        # A forked child would have none of torch's threads, but could inherit locks that they held, and then hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, place), daemon=True)
        # Python's resource tracker is started before the mark is set in the environment.  It serves all workers; with the
        # mark of the first, it would be ended together with that worker.
        resource_tracker.ensure_running()
        self._num_started += 1
        mark = f"{self.mark}.{self._num_started}"
        with _interrupts_held(), _environment(family.MARK, mark), _main_left_out():
            process.start()
        theirs.close()
        return _Worker(process, ours, place, mark)

    def _give_next_cell(self, number: int) -> None:
        """Gives the worker its next cell: the first waiting one that it may run and that this process can claim.

        If the worker may run none of the waiting cells, a new worker takes its place.
        """
        self.workers[number].cell = None
        while self.waiting:
            worker = self.workers[number]
            cell = next((cell for cell in self.waiting if worker.may_run(cell)), None)
            if cell is None:
                _stop(worker)
                self.workers[number] = self._start(worker.place)
                continue
            self.waiting.remove(cell)
            ticket = self._claim(cell)
            if ticket is not None:
                self._give(worker, cell, ticket)
                break
        self._end_elsewhere()

    def _claim(self, cell: Cell) -> Ticket | None:
        """Claims the cell.  Returns None if another process has it, now or with a record already."""
        if not self.redo.wants(cell, self.place.output):  # asked before, because a claim writes to the disk
            self.done_elsewhere.append(cell)
            return None
        token = self.claims.take(cell.hash)
        if token is None:
            self.elsewhere.append(cell)
            return None
        settle(self.place.output, cell.hash)  # of an attempt that was killed, whose record may be there
        if self.redo.wants(cell, self.place.output):
            if self.redo.everything:
                remove_checkpoints(cell, self.place.output)
            path = cell.path(self.place.output)
            before = record_at(path)
            return Ticket(token, path.exists(), None if before is None else attempt_of(before))
        self.claims.release(cell.hash)
        self.done_elsewhere.append(cell)
        return None

    def _give(self, worker: _Worker, cell: Cell, ticket: Ticket) -> None:
        worker.cell, worker.ticket, worker.last_message_time = cell, ticket, time.monotonic()
        if not is_built_in(cell.attention):
            worker.foreign_attention = cell.attention
        self.listen(Event("start", cell))
        # If the worker has already died, the error is ignored here; ``_read_message`` will notice it.
        with suppress(*_PIPE_CLOSED):
            worker.pipe.send((cell, ticket))

    def _end_elsewhere(self) -> None:
        """Reports cells whose records other processes have published, and does what was left to those that were killed."""
        cells, self.done_elsewhere = self.done_elsewhere, []
        # Traces are listed once for all cells, because that is slow, and after the records were seen, so that none is missed.
        traced = self.claims.traces() if cells else set()
        for cell in cells:
            if cell.hash in traced:
                settle(self.place.output, cell.hash)
                self.claims.discard(cell.hash)
            self.listen(Event("end", cell, record=read_record(cell.path(self.place.output)), phase="elsewhere"))

    def _renew_claims(self) -> None:
        """Renews the claims of this process, and ends the workers whose cells were lost, because this process was stopped too long."""
        for lost in self.claims.beat():
            for number, worker in enumerate(self.workers):
                if worker.cell is not None and worker.cell.hash == lost:
                    self.elsewhere.append(worker.cell)
                    self._start_anew(number)

    def _look_elsewhere(self) -> None:
        """Looks whether cells of other processes have a record by now, or can be taken over by a worker that has no cell."""
        idle = [number for number, worker in enumerate(self.workers) if worker.cell is None]
        if not self.elsewhere or time.monotonic() - self._last_look_elsewhere < LOOK_SECONDS:
            return
        self._last_look_elsewhere = time.monotonic()
        cells, self.elsewhere = self.elsewhere, []
        for cell in cells:
            if not self.redo.wants(cell, self.place.output):
                self.done_elsewhere.append(cell)
            elif self.claims.is_free(cell.hash):
                self.waiting.append(cell)
            else:
                self.elsewhere.append(cell)
        for number in idle:
            self._give_next_cell(number)
        self._end_elsewhere()

    def _read_message(self, number: int) -> None:
        """Handles one message of a worker, or the end of the worker, which closes its pipe."""
        worker = self.workers[number]
        try:
            event: Event = worker.pipe.recv()
        except _PIPE_CLOSED:
            worker.process.join()
            if worker.process.exitcode == -signal.SIGTERM:
                # A scheduler sends it to all processes of a job.  It ends this process too, perhaps a moment later, and then the
                # cell must not have been recorded as failed.
                time.sleep(SIGTERM_SECONDS)
            self._replace(number, *_how_it_ended(worker.process.exitcode))
            return
        worker.last_message_time = time.monotonic()
        if event.kind == "fault":
            raise MachineFault(event.reason)
        if event.kind == "lost":
            self.elsewhere.append(event.cell)
        else:
            self.listen(event)
        if event.kind in ("end", "lost"):
            self.claims.release(event.cell.hash)
            self._give_next_cell(number)

    def _look_for_hung_cells(self) -> None:
        """Reports cells without progress, and ends those that show none for ``cell_timeout`` seconds."""
        now = time.monotonic()
        away, self._last_look_for_hung = now - self._last_look_for_hung, now
        if away > AWAY_SECONDS:
            # This process was stopped, or its terminal was blocked.  The workers may have been stopped with it.
            for worker in self.workers:
                worker.last_message_time = min(now, worker.last_message_time + away)
        for number, worker in enumerate(self.workers):
            silent = now - worker.last_message_time
            if worker.cell is None or silent < SILENCE_SECONDS:
                continue
            if silent > self.place.cell_timeout and not worker.pipe.poll():
                self._replace(
                    number, "failed", f"no progress for {silent:.0f} s; --cell-timeout says how long is allowed"
                )
            elif now - worker.last_silence_report >= SILENCE_SECONDS:
                worker.last_silence_report = now
                self.listen(Event("silent", worker.cell, seconds=silent))

    def _replace(self, number: int, status: Status, reason: str) -> None:
        """Writes the record of the cell whose worker died or hung, and starts a new worker for the waiting cells."""
        worker = self.workers[number]
        cell = worker.cell
        assert cell is not None
        family.end(worker.mark)
        record = record_without_figures(cell, self.place, status, reason, datetime.now(UTC))
        try:
            record = publish(self.place.output, record, worker.ticket, cell.path(self.place.output))
            remove_checkpoints(cell, self.place.output)
            self.listen(Event("end", cell, record=record))
        except LostClaim:
            self.elsewhere.append(cell)
        self.claims.release(cell.hash)
        self._start_anew(number)

    def _start_anew(self, number: int) -> None:
        """Puts a new worker in the place of one that has died, hangs or works on a lost cell."""
        worker = self.workers[number]
        worker.cell = None
        family.end(worker.mark)
        _stop(worker)
        self.workers[number] = self._start(worker.place)
        self._give_next_cell(number)


def _how_it_ended(code: int | None) -> tuple[Status, str]:
    """Returns the status and the reason for a cell whose worker ended with this exit code."""
    if code == -signal.SIGKILL:
        return "out_of_memory", "the worker was killed (signal 9), as the system does when memory runs out"
    ended = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    return "failed", f"the worker process ended by itself ({ended})"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Blocks SIGINT inside the block.

    A process started there inherits the blocked signal, so Ctrl-C can't interrupt it while it starts and print a traceback.
    """
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
    """Sets an environment variable inside the block, for the processes that are started there."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Hides the main module from processes that are started inside the block.

    They would import it again.  A script without ``if __name__ == "__main__"`` would then start its run a second time, and one
    that is read from standard input can't be imported at all.  A worker needs nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _own_device(place: Place, number: int) -> Place:
    """Returns the place with the GPU of this worker, if the device is "cuda" without a number."""
    if place.device != "cuda":
        return place
    import torch

    return replace(place, device=f"cuda:{number % torch.cuda.device_count()}")


def _stop(worker: _Worker) -> None:
    """Ends a worker, and every process that it has started."""
    if worker.cell is None and worker.process.is_alive():
        with suppress(OSError, *_PIPE_CLOSED):
            worker.pipe.send(None)
            worker.process.join(timeout=5)
    family.end(worker.mark)
    worker.process.join(timeout=5)
    worker.pipe.close()


def default_jobs(device: str, threads: int = 1) -> int:
    """Returns how many cells to run at a time: one for each ``threads`` cores, or one for each GPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.device_count() if device == "cuda" else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
