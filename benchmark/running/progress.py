"""Shows the progress of a run: as bars on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmark.results import Record
from benchmark.running.runner import Event

LINE_SECONDS = 30.0  # the shortest time between two plain lines about one cell


class Display:
    """Shows events: call it with each one.  Bars are drawn inside its ``with`` block.

    total     number of cells to run
    console   rich's console, which knows whether it is a terminal
    """

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.console, self.done = total, console, 0
        self._bars: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._total_bar = self._progress.add_task("cells", total=total, note="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event of a cell."""
        {"start": self._start, "progress": self._step, "silent": self._silent, "end": self._end}[event.kind](event)

    def _start(self, event: Event) -> None:
        self._started[event.cell.hash] = self._last_line[event.cell.hash] = time.monotonic()
        if self.console.is_terminal:
            self._bars[event.cell.hash] = self._progress.add_task(event.cell.title, total=None, note="")

    def _note(self, event: Event) -> str:
        elapsed = time.monotonic() - self._started[event.cell.hash]
        rate = event.step / elapsed if elapsed > 0 else 0.0
        loss = f"loss {event.loss:.4f}, " if event.loss is not None else ""
        phase = "" if event.phase == "training" else f"{event.phase}, "
        return f"{phase}{loss}{rate:.1f} steps/s"

    def _step(self, event: Event) -> None:
        if event.cell.hash in self._bars:
            bar = self._bars[event.cell.hash]
            self._progress.update(bar, completed=event.step, total=event.num_steps, note=self._note(event))
        elif time.monotonic() - self._last_line[event.cell.hash] >= LINE_SECONDS:
            self._last_line[event.cell.hash] = time.monotonic()
            self._print(f"  {event.cell.title}: step {event.step}/{event.num_steps}, {self._note(event)}")

    def _silent(self, event: Event) -> None:
        self._print(f"  {event.cell.title}: no progress for {event.seconds:.0f} s")

    def _end(self, event: Event) -> None:
        self.done += 1
        if event.cell.hash in self._bars:
            self._progress.remove_task(self._bars.pop(event.cell.hash))
        self._progress.update(self._total_bar, completed=self.done)
        by_whom = ", by another run" if event.phase == "elsewhere" else ""
        self._print(f"[{self.done}/{self.total}] {event.cell.title}: {_outcome(event.record)}{by_whom}")

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _outcome(record: Record | None) -> str:
    if record is None or not record.is_completed:
        return f"{record.status}: {record.reason}" if record else "ended"
    name, metric = next(iter(record.metrics.items()))
    value = "nothing" if metric.value is None else f"{metric.value:.4f}"
    return f"{name} {value} ({record.seconds or 0:.0f} s)"
