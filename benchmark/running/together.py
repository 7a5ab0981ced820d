"""Trains each cell with several processes, which torchrun or ``accelerate launch`` has started.

The first process (rank 0) leads.  It claims cells, renews the claims and publishes records, like one worker among others on the folder.
The others follow: they wait for the number of the next cell and train it with the first.  The decisions travel in a process
group of their own.  If a process dies, the launcher ends all; the claim is then free, and any number of processes can continue the cell.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from benchmark.measuring import memory
from benchmark.results import Record, read_record
from benchmark.running.claims import BEATS_IN_A_LEASE, Claims, LostClaim, Ticket
from benchmark.running.publish import publish, settle
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
from benchmark.settings.messages import ConfigError

LOOK_SECONDS = 2.0  # between two looks at the cells that other runs have claimed
PATIENCE_SECONDS = 120.0  # for which a process whose cell has failed waits for the others to fail as well
LEFT_TOGETHER = ("training", "evaluating")  # phases in which the trainer passes LostClaim on to all processes
_FOREVER = timedelta(days=1)  # the launcher ends a process that waits for a dead one much earlier
_END, _WAIT = -1, -2  # decisions other than the number of a cell


def check_start(cells: Sequence[Cell], processes: int) -> None:
    """Raises ConfigError if a cell's batch has fewer examples than there are processes to share it, or if Accelerate is told to shard."""
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"accelerate launch: its configuration asks for {engine.lower()}; here train.parallel says how processes share a cell "
                "(--set train.parallel=fsdp)"
            )
    for cell in cells:
        size = cell.config["train"]["batch_size"]
        if cell.parallel != "sequence" and size < processes:
            raise ConfigError(
                f"train.batch_size = {size} of {cell.title}: can't be shared by {processes} processes with train.parallel = "
                f"{cell.parallel!r}; allowed: at most {size} processes"
            )


def from_first(content: Any, device: str) -> Any:
    """Returns the content that the first process gave, in all processes, each of which must call this before any cell is run."""
    import torch.distributed as dist

    box = [content]
    dist.broadcast_object_list(box, src=0, group=_new_channel(device))
    atexit.register(_leave)
    return box[0]


def _new_channel(device: str) -> Any:
    """Begins torch's default process group, if that has not been done, and returns a group of its own for decisions."""
    import torch.distributed as dist

    from benchmark.running.parallel import make_accelerator

    make_accelerator("float32", device)  # Accelerate begins the default group
    return dist.new_group(backend="gloo")


def _leave() -> None:
    """Ends all process groups.  If their threads still run when Python ends, now and then they abort a process whose work is done.

    Registered with ``atexit`` only while this process waits for no other one: ending a group waits for its messages.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class _Group:
    """The processes of this run, with a channel for decisions that no gradient passes through."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.channel = _new_channel(place.device)
        self.alone: str | None = None  # what to say if this process's cell has failed, and not that of the others

    def check_plan(self, cells: Sequence[Cell]) -> None:
        """Raises ConfigError if the processes have not planned the same cells."""
        import torch.distributed as dist

        own = hashlib.sha256(" ".join(cell.hash for cell in cells).encode()).hexdigest()
        plans: list[Any] = [None] * self.place.processes
        dist.all_gather_object(plans, own, group=self.channel)
        if (other := next((rank for rank, plan in enumerate(plans) if plan != plans[0]), None)) is not None:
            raise ConfigError(
                f"process {other} has planned other cells than process 0: its code, tuned rates or data differ"
            )

    def decision(self, number: int = _END) -> int:
        """Returns what the first process has decided.  number: its decision; the others' is ignored."""
        import torch
        import torch.distributed as dist

        decided = torch.tensor([number])
        dist.broadcast(decided, src=0, group=self.channel)
        return int(decided)

    def agree(self, record: Record) -> None:
        """Waits until the cell has ended in all processes, before its record is published.

        A failure may be no fault of the cell: if another process has died, so that messages to it fail, this process ends without a
        record, and the cell can be continued.  If the others are still in the cell, they wait for this process in vain: it is
        at fault, and ends when its record is there (``end_if_alone``), whereupon the launcher ends the others.
        """
        import torch
        import torch.distributed as dist

        has_failed = record.status not in ("completed", "unsupported")
        patience = min(PATIENCE_SECONDS, self.place.cell_timeout / 2)  # before the first process calls the cell hung
        started = time.monotonic()
        try:
            # Twice, because the message of a process that gave up and ended may still arrive; it sent no second one.
            for _ in range(2):
                work: Any = dist.all_reduce(torch.zeros(1), group=self.channel, async_op=True)
                work.wait(timedelta(seconds=patience) if has_failed else _FOREVER)
        except RuntimeError:
            if has_failed:
                name = record.cell
                cell = f"{name.task}/{name.backbone}.{name.pattern}.{name.variant or name.attention}.s{name.seed}"
                self.alone = f"process {self.place.rank}: {cell}: {record.reason}"
                if time.monotonic() - started < patience:
                    _end(self.alone)

    def end_if_alone(self) -> None:
        """Ends this process if its cell has failed, while others still wait for it in the cell."""
        if self.alone is not None:
            _end(self.alone)


def _end(line: str) -> None:
    """Ends this process at once, because its other threads may hang.  The launcher then ends the other processes."""
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


def run_together(
    cells: Sequence[Cell],
    place: Place,
    waiting: Sequence[Cell] = (),
    listen: Listener = lambda _: None,
    redo: Redo = NOTHING_ANEW,
) -> None:
    """Runs cells one after another, each together with the other processes, until each has a record.

    cells: the whole plan, the same in all processes.  waiting: those that must be run; only the first process's count.  Other runs may work on the
    same cells.  Raises MachineFault if the machine fails.
    """
    atexit.unregister(_leave)
    memory.keep_freed_memory()
    group = _Group(place)
    group.check_plan(cells)
    if place.rank:
        _follow(cells, place, group)
    else:
        _lead(cells, place, group, waiting, listen, redo)
    atexit.register(_leave)


def _follow(cells: Sequence[Cell], place: Place, group: _Group) -> None:
    """Trains the cells that the first process names."""
    while (number := group.decision()) != _END:
        if number != _WAIT:
            _run(cells[number], place, group, lambda _: None, None)


def _lead(
    cells: Sequence[Cell], place: Place, group: _Group, waiting: Sequence[Cell], listen: Listener, redo: Redo
) -> None:
    """Claims cells, trains them with the other processes, and publishes their records."""
    numbers = {cell.hash: number for number, cell in enumerate(cells)}
    claims = Claims(place.output, place.lease)
    queue, in_vain = deque(waiting), 0
    try:
        while queue:
            cell = queue.popleft()
            token = claims.take(cell.hash)
            if token is not None:
                in_vain = 0
                settle(place.output, cell.hash)  # of an attempt that was killed, whose record may be there
            if not redo.wants(cell, place.output):
                claims.release(cell.hash)
                listen(Event("end", cell, record=read_record(cell.path(place.output)), phase="elsewhere"))
            elif token is None:
                queue.append(cell)
                in_vain += 1
                if in_vain >= len(queue):  # other runs have all cells that are left
                    in_vain = 0
                    group.decision(_WAIT)  # a sign of life for the others
                    time.sleep(LOOK_SECONDS)
            else:
                if redo.everything:
                    remove_checkpoints(cell, place.output)
                group.decision(numbers[cell.hash])
                ticket = Ticket(token, replaces=cell.path(place.output).exists())
                if not _lead_cell(cell, place, group, claims, listen, ticket):
                    queue.append(cell)
        group.decision(_END)
    finally:
        claims.release_all()


def _lead_cell(cell: Cell, place: Place, group: _Group, claims: Claims, listen: Listener, ticket: Ticket) -> bool:
    """Runs a claimed cell with the other processes.  Returns False if another run has taken it meanwhile."""
    listen(Event("start", cell))
    with _Watch(cell, place, claims, ticket, listen) as watch:
        record = _run(cell, place, group, watch.heard, ticket)
    claims.release(cell.hash)
    if record is None:
        return False
    listen(Event("end", cell, record=record))
    return True


def _run(cell: Cell, place: Place, group: _Group, listen: Listener, ticket: Ticket | None) -> Record | None:
    """Runs a cell in this process.  Returns the record, or None if another run has taken the cell."""
    import torch

    torch.set_num_threads(cell.threads)
    record = None
    with suppress(LostClaim):
        record = run_cell(cell, place, listen, ticket, group.agree)
    group.end_if_alone()
    return record


class _Watch:
    """A thread of the first process that renews the claim while the cell is trained, and ends a cell that hangs."""

    def __init__(self, cell: Cell, place: Place, claims: Claims, ticket: Ticket, listen: Listener) -> None:
        self.cell, self.place, self.claims, self.ticket, self.listen = cell, place, claims, ticket, listen
        self.lost = threading.Event()
        self._done = threading.Event()
        self._is_displaying = False
        self._last_progress = time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def heard(self, event: Event) -> None:
        """Displays the event, and notes that the cell makes progress.  Raises LostClaim if another run has taken the cell.

        It is raised only in phases in which the trainer makes all processes leave the cell in the same step.  In any other phase this process
        would leave alone.  That is not needed either, because ``publish`` looks at the claim when all processes have ended the cell.
        """
        self._is_displaying = True
        self.listen(event)
        self._last_progress = time.monotonic()
        self._is_displaying = False
        if self.lost.is_set() and event.phase in LEFT_TOGETHER:
            raise LostClaim(event.cell.hash)

    def _renew(self) -> None:
        period = self.place.lease / BEATS_IN_A_LEASE / 2
        while True:
            due = time.monotonic() + period
            if self._done.wait(period):
                return
            lost: list[str] = []
            with suppress(OSError):  # the file system may answer again before the claim expires
                lost = self.claims.beat()
            if lost:
                self.lost.set()
                return
            self._give_up_if_hung(due)

    def _give_up_if_hung(self, due: float) -> None:
        """Ends the cell if it is silent for too long.  due: when this turn of the thread should have ended.

        If the turn ended later, this process was stopped (Ctrl-Z, a scheduler) or its file system did not answer.  Neither is the cell's
        fault, and nor is a terminal that was stopped (Ctrl-S) and holds up the display.
        """
        now = time.monotonic()
        self._last_progress = min(self._last_progress + max(now - due, 0), now)
        silent = now - self._last_progress
        if silent > self.place.cell_timeout and not self._is_displaying:
            self._give_up(f"no progress for {silent:.0f} s; --cell-timeout says how long is allowed")

    def _give_up(self, reason: str) -> None:
        """Records that the cell has failed, and ends this process, even if the record can't be written."""
        record = record_without_figures(self.cell, self.place, "failed", reason, datetime.now(UTC))
        try:
            with suppress(LostClaim):
                publish(self.place.output, record, self.ticket, self.cell.path(self.place.output))
            self.claims.release(self.cell.hash)
        except OSError as error:
            reason = f"{reason}; {error}"
        _end(f"{self.cell.title}: {reason}")
