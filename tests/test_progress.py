"""Progress of ``check`` and ``report``: shown on a terminal, and nowhere else."""

from __future__ import annotations

import io
import logging
import re
import shutil
from contextlib import redirect_stderr

import pytest
from command_line import lavo_bench
from followed_page import ROOT

from benchmark.checking.conformance import check_attention, num_checks
from benchmark.cli import printing


class Terminal(io.StringIO):
    """Standard error as a terminal; keeps what is written."""

    def isatty(self):
        return True

    def shown(self):
        """What was written, without the sequences that move the cursor and set colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "results" / "quick" / "forecasting"
    folder.mkdir(parents=True)
    for path in (ROOT / "results" / "quick" / "forecasting").glob("informer.noncausal_cross.*.s0.*"):
        shutil.copy(path, folder)
    return folder.parent


def test_each_check_advances_the_bar_to_its_end(terminal):
    total = num_checks("none", ["noncausal_self"])
    with redirect_stderr(terminal), printing.progress("checking none", total) as tell:
        rows = check_attention("none", patterns=["noncausal_self"], listen=lambda _, check: tell(check))
    assert total == len(rows)
    assert f"{total - 1}/{total} checking none: {rows[-1].check}" in terminal.shown()


def test_unsupported_patterns_are_not_counted():
    assert num_checks("flash") == num_checks("flash", ["causal_self"]) * 4
    with pytest.raises(ValueError, match="unknown"):
        num_checks("no_such")


def test_a_report_says_what_it_does(terminal, records, tmp_path):
    from benchmark.report import build_report

    logger = logging.getLogger("benchmark.report")
    before = logger.level, list(logger.handlers)
    with redirect_stderr(terminal), printing.report_progress():
        build_report([records], tmp_path / "report")
    shown = terminal.shown()
    steps = (
        "reading records",
        "comparing attentions: forecasting",
        "drawing forecasting-informer-noncausal_cross-training",
    )
    places = [shown.find(f"report: {step}") for step in steps]
    assert -1 < places[0] < places[1] < places[2], shown[-2000:]
    assert (logger.level, list(logger.handlers)) == before


def test_nothing_is_shown_in_a_pipe(records, tmp_path):
    answer = lavo_bench("report", records, "-o", tmp_path / "report")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("report: ")
    answer = lavo_bench("check", "none", "--pattern", "noncausal_self")
    assert (answer.status, answer.err) == (0, "")
    assert "checking none" not in answer.out
