"""``lavo-bench`` called in the test's own process, because starting Python hundreds of times would take minutes."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import NamedTuple

from benchmark import cli


class Answer(NamedTuple):
    """The exit status of a call and the texts that it printed."""

    status: int
    out: str
    err: str


def lavo_bench(*arguments: object) -> Answer:
    """Runs the command with these arguments.  An exception that main() does not catch is raised here too."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["lavo-bench", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as exit:
        return Answer(int(exit.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main() returned without an exit status")
