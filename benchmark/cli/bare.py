"""What ``lavo-bench`` answers where the packages of its extra are not installed.  Needs the standard library only."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmark import __version__
from benchmark.extras import DISTRIBUTION, FIRST_EXTRA, explained

HELP = f"""\
Usage: lavo-bench COMMAND [OPTIONS]

  Trains, measures and compares LAVO and other attentions under the same rules.

The commands need more packages, which are not installed here:

  pip install "{DISTRIBUTION}[{FIRST_EXTRA}]"

From Python, the attentions are there without them:

  from lavo import LAVOAttention, lavo_attention
  from benchmark import MultiHeadAttention, build_attention
"""


def version_line() -> str:
    """Returns what ``--version`` prints."""
    return f"lavo-bench {__version__}"


def answer(arguments: Sequence[str], error: ModuleNotFoundError) -> int:
    """Answers a call that can't be carried out because of the error.  Returns the exit status.

    Raises the error if the missing module is one of this package's own.
    """
    command = next((one for one in arguments if not one.startswith("-")), "")
    missing = explained(error, f"lavo-bench {command}".strip())
    if missing is None:
        raise error
    if "--version" in arguments:
        print(version_line())
        return 0
    if not command and (not arguments or {"-h", "--help"} & set(arguments)):
        print(HELP, end="")
        return 0 if arguments else 2
    print(f"lavo-bench: {missing}", file=sys.stderr)
    return 2
