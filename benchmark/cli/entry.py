"""The entry point: calls the command and turns every error into one line and an exit status."""

from __future__ import annotations

import io
import sys
from typing import Any

import typer

import benchmark.cli.sweeps  # noqa: F401  # adds its commands to the app
from benchmark.cli.printing import say_fault
from benchmark.cli.sharing import app  # with the commands of commands.py and of sharing.py
from benchmark.extras import explained

# Newer releases of Typer contain a copy of click, so the base class of usage errors is taken from a class that Typer exports.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

INTERRUPTED = 130  # the exit status that shells give a command ended by Ctrl-C


def main() -> None:
    """Entry point: exit status 0 done, 1 some cells failed, 2 the command or configuration is wrong, 130 interrupted."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal's encoding may lack characters of the help texts
    try:
        status = app(args=arguments, standalone_mode=False)
    except typer.Abort:
        _fail("interrupted; what is done is kept", INTERRUPTED)
    except UsageError as error:
        if not arguments:
            typer.echo(error.format_message(), err=True)  # type: ignore[attr-defined]  # the help
            sys.exit(2)
        _fail(_usage_fault(error, arguments), 2)
    except KeyboardInterrupt:
        _fail("interrupted; what is done is kept", INTERRUPTED)
    except ValueError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except OSError as error:
        if debug:
            raise
        named = error.filename is not None  # a MachineFault has no filename, because its text names the file
        _fail(f"{error.filename}: {error.strerror}" if named else str(error), 2)
    except Exception as error:  # a bug of this program; its traceback would not help a user
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and (missing := explained(error, f"lavo-bench {arguments[0]}")):
            _fail(str(missing), 2)
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)", 2)
    if status == INTERRUPTED:  # Typer turns a KeyboardInterrupt into this status
        _fail("interrupted; what is done is kept", INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _usage_fault(error: Any, arguments: list[str]) -> str:
    """Returns Typer's message, with the bad value of the option, which Typer leaves out."""
    spellings = getattr(getattr(error, "param", None), "opts", [])
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and name in spellings and isinstance(error, typer.BadParameter):
            return f"{name} {value if equals else following}: {error.message.removeprefix('Input ')}"
    return str(error.format_message()).replace("Value error, ", "")


def _fail(message: str, status: int) -> None:
    say_fault(message)
    sys.exit(status)
