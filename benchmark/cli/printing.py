"""What commands print: text and tables to standard output, faults to standard error."""

from __future__ import annotations

from typing import Any

import typer


def console() -> Any:
    from rich.console import Console

    console = Console()
    # Without a terminal, Rich assumes 80 columns and would break the lines of a table that is written to a file.
    return console if console.is_terminal else Console(width=400)


def say(text: str) -> None:
    typer.echo(text)


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
