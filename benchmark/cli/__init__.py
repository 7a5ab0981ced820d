"""The command line, ``lavo-bench``: its options, its commands, and the entry point."""

from __future__ import annotations

import sys

from benchmark.cli.bare import answer


def main() -> None:
    """Runs the command of ``sys.argv`` and ends the process with its exit status.

    Without the packages of the extra ``bench`` it answers ``--help`` and ``--version``, and says what to install.
    """
    try:
        from benchmark.cli.entry import main as run
    except ModuleNotFoundError as error:
        sys.exit(answer(sys.argv[1:], error))
    run()


__all__ = ["main"]
