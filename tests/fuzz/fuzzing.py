"""What the fuzzes share: a call of the command with a deadline, what every refusal looks like, and values of wrong kinds.

LAVO_BENCH_FUZZ_EXAMPLES multiplies the number of examples; they are the same ones each time unless it is set.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from command_line import Answer, lavo_bench
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("LAVO_BENCH_FUZZ_EXAMPLES", "1"))
MOST_CHARACTERS = 300  # of a message
SECONDS = 300  # of a call; far more than any takes, even on a busy machine, and a hang is found
PREFIX = "lavo-bench: "


class TooSlow(BaseException):
    """The call did not end in time; no ``except Exception`` on the way catches this."""


class Started(BaseException):
    """The command line was valid, and the work would begin."""


def examples(number: int) -> Callable[[Any], Any]:
    """The number of examples of a fuzz in CI, which takes seconds."""
    return settings(
        max_examples=number * FACTOR,
        deadline=None,  # the machine may be busy; ``within`` finds what hangs
        derandomize=FACTOR == 1,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the block where it takes longer."""

    def too_slow(*_: Any) -> None:
        raise TooSlow(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer_of(*arguments: object) -> Answer:
    """What the command answers to these arguments; status 0 where it would begin to work."""
    limit = sys.getrecursionlimit()
    try:
        with within(SECONDS):
            return lavo_bench(*arguments)
    except Started:
        return Answer(0, "", "")
    finally:
        assert sys.getrecursionlimit() == limit


def assert_told(answer: Answer, *places: str) -> None:
    """The command was done, or was refused in one printable line that names the places, with no word of a mistake of ours."""
    assert "Traceback" not in answer.err
    if answer.status == 0:
        assert answer.err == ""
        return
    assert answer.status in (1, 2), answer
    assert answer.err.startswith(PREFIX), answer
    assert answer.err.endswith("\n"), answer
    line = answer.err.removeprefix(PREFIX).removesuffix("\n")
    assert line.isprintable(), answer
    assert len(line) <= MOST_CHARACTERS, f"{len(line)} characters: {line}"
    assert "please report it" not in line, line
    for place in places:
        assert place in line, f"{place!r} is not named: {line}"


def refuse_to_start(*_: Any, **__: Any) -> None:
    """Stands where work would begin."""
    raise Started


def skip_without_alarms() -> None:
    """Skips a file of tests on a system without timers."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs signal.setitimer", allow_module_level=True)


MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/x.png)",
    '"><svg onload=alert(1)>',
    "</pre><iframe src=//evil.example>",
    "[x](javascript:alert(1))",
    "$x_{",
    "$\\frac{1}{",
    "a|b",
    "`x`",
    "```\n# title",
    "x\n\n# title\n\n<script>alert(1)</script>",
    "\r\n- x",
    "{{ 7 * 7 }}{% for x in y %}",
    "\\input{/etc/passwd}%",
    "=1+1",
    "\x1b[31mred",
    "\u202eesrever\u2028x\x85y",
    "[bold]x[/] [/red] [link=http://evil.example]x",
)
ODD_TEXTS = (
    "", " ", ",", "-", "--", "=", "a=b", "x", "NaN", "nan", "inf", "-1", "0", "1.5", "1e999", "9" * 5000, "x" * 5000, "ä€😀", "lm ", "LM",
    "../..", "/", "//", "~", "[", "]", "{", "}", "[[1]]", "{a: 1}", "&a [*a]", "*a", "!!python/name:os.system", "null", "true", "yes", "%s%n",
    "{0}", "\\", "\t", "a\nb", "'", '"', "#", ": ", "- a", "\udc80", "\x7f", "0:0", "1:2:3", "1;2", "2024-01-01", "0x10", "1_000", "１",
)  # fmt: skip
odd_texts = st.sampled_from(ODD_TEXTS) | st.sampled_from(MARKUP) | st.text(max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, -(10**40), 2**63]) | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
    max_leaves=8,
)
