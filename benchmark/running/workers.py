"""Worker processes that live for the whole run: cells go in, events come out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmark.measuring import memory
from benchmark.results import Status, write_record
from benchmark.running.runner import (
    Event,
    Listener,
    Place,
    record_without_figures,
    run_cell,
)
from benchmark.settings.cell import Cell

REPORT_SECONDS = 0.2  # at least, between two messages about progress


def _work(pipe: Connection, place: Place) -> None:
    """What a worker does: takes cells, sends events.  Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not place.debug:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  warnings of libraries would break the progress display
    import torch

    memory.keep_freed_memory()
    torch.set_num_threads(place.threads)
    from benchmark.registry import include_file

    for path in place.include:
        include_file(path)
    last = 0.0

    def send(event: Event) -> None:
        """Sends an event, unless it is progress that follows too soon."""
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS or event.phase != "training":
            last = time.monotonic()
            try:
                pipe.send(event)
            except BrokenPipeError:  # the parent is gone, so the cell was interrupted and did not fail
                raise SystemExit from None

    while (cell := pipe.recv()) is not None:
        record = run_cell(cell, place, send)
        pipe.send(Event("end", cell, record=record))


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    cell: Cell | None = None


def run_cells(cells: Sequence[Cell], place: Place, *, jobs: int, listen: Listener = lambda _: None) -> None:
    """Runs cells, ``jobs`` at a time; each leaves its record.  Ctrl-C ends the workers and is raised again.

    On GPUs the workers take one device each, in turn.
    """
    waiting = list(reversed(cells))
    jobs = max(1, min(jobs, len(waiting)))
    places = [_own_device(place, number) for number in range(jobs)]
    workers = [_start(own) for own in places]
    try:
        for worker in workers:
            _give(worker, waiting, listen)
        while any(worker.cell is not None for worker in workers):
            busy = {worker.pipe: number for number, worker in enumerate(workers) if worker.cell is not None}
            for pipe in wait(list(busy)):
                number = busy[pipe]  # type: ignore[index]
                if not _read(workers[number], waiting, listen):
                    workers[number] = _replace(workers[number], places[number], waiting, listen)
    finally:
        for worker in workers:
            _stop(worker)


def _own_device(place: Place, number: int) -> Place:
    if place.device != "cuda":
        return place
    import torch

    return Place(**{**vars(place), "device": f"cuda:{number % torch.cuda.device_count()}"})


def _start(place: Place) -> _Worker:
    context = multiprocessing.get_context("spawn")  # fork would copy torch's threads in the middle of their work
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, place), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Cell], listen: Listener) -> None:
    worker.cell = waiting.pop() if waiting else None
    if worker.cell is not None:
        listen(Event("start", worker.cell))
        worker.pipe.send(worker.cell)


def _read(worker: _Worker, waiting: list[Cell], listen: Listener) -> bool:
    """Handles one message of a worker; False where the worker has died."""
    try:
        event: Event = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return False
    listen(event)
    if event.kind == "end":
        try:
            _give(worker, waiting, listen)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


def _replace(worker: _Worker, place: Place, waiting: list[Cell], listen: Listener) -> _Worker:
    """Writes the record of the cell in which a worker died, and starts a new worker for the others."""
    worker.process.join()
    code, cell = worker.process.exitcode, worker.cell
    assert cell is not None
    status: Status
    if code == -signal.SIGKILL:
        status, reason = "out_of_memory", "the worker was killed (signal 9), as the system does when memory runs out"
    else:
        ended = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        status, reason = "failed", f"the worker process ended by itself ({ended})"
    record = write_record(
        cell.path(place.output), record_without_figures(cell, place, status, reason, datetime.now(UTC))
    )
    listen(Event("end", cell, record=record))
    new = _start(place)
    _give(new, waiting, listen)
    return new


def _stop(worker: _Worker) -> None:
    if worker.cell is None and worker.process.is_alive():
        try:
            worker.pipe.send(None)
            worker.process.join(timeout=5)
        except (BrokenPipeError, OSError):
            pass
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
    worker.pipe.close()


def default_jobs(device: str) -> tuple[int, int]:
    """(workers, threads of each): a worker with one thread for each core, or one worker for each GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        import torch

        gpus = torch.cuda.device_count() if device == "cuda" else 1
        return gpus, max(1, cores // gpus)
    return cores, 1
