"""What commands print: text and tables to standard output, faults to standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


def console() -> Any:
    from rich.console import Console

    console = Console()
    # Without a terminal, Rich assumes 80 columns and would break the lines of a table that is written to a file.
    return console if console.is_terminal else Console(width=400)


def say(text: str) -> None:
    typer.echo(text)


def say_fault(message: str) -> None:
    """Prints on standard error what is wrong, as one line that begins with the name of the program."""
    from benchmark.settings.messages import one_line

    typer.echo(f"lavo-bench: {one_line(message)}", err=True)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Shows what is being done while the block runs, if standard error is a terminal.  Yields the function that says it.

    total: how many times the function will be called, for a bar; None for a spinner alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    counted: list[ProgressColumn] = [] if total is None else [BarColumn(), MofNCompleteColumn()]
    columns = [SpinnerColumn(), *counted, TextColumn("{task.description}", markup=False)]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=total)
        started = False

        def tell(text: str) -> None:
            nonlocal started
            # What is told is about to be done, so the bar counts what was told before.
            shown.update(task, description=f"{title}: {text}", advance=int(started), refresh=True)
            started = True

        yield tell


@contextmanager
def report_progress() -> Iterator[None]:
    """Shows the steps of a report, which ``benchmark.report`` logs, while the block runs."""
    logger = logging.getLogger("benchmark.report")
    with progress("report") as tell:
        handler = _Told(tell)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)


class _Told(logging.Handler):
    """Passes each logged line to a function."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


def say_report(built: Any) -> int:
    """Prints where the report is and what is missing from it.  Returns the exit status."""
    for fault in built.faults:
        typer.echo(f"not drawn: {fault}", err=True)
    for note in built.notes:
        typer.echo(note, err=True)
    left_out = say_left_out(built.damaged)
    say(f"report: {built.html}\n        {built.markdown}" + ("" if built.changed else " (up to date)"))
    return 1 if built.faults else left_out


def say_left_out(damaged: list[str]) -> int:
    """Prints which records could not be read.  Returns the exit status."""
    for line in dict.fromkeys(damaged):
        typer.echo(f"left out: {line}", err=True)
    return 1 if damaged else 0
