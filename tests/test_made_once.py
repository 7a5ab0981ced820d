"""Of several processes that need the same data at once, one makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.files import made_once

ROOT = Path(__file__).parents[1]
MAKES = """
import sys, time, pathlib
from benchmark.files import made_once
folder = pathlib.Path(sys.argv[1])
with made_once(folder / ".made"):
    if not (folder / "data").exists():
        with (folder / "log").open("a") as log:
            log.write("made\\n")
        time.sleep(float(sys.argv[2]))
        (folder / "data").touch()
"""


def maker(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MAKES, str(folder), str(seconds)], cwd=ROOT)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_of_processes_that_start_at_once_one_makes_the_data(tmp_path):
    assert [process.wait(timeout=120) for process in [maker(tmp_path, 1.0) for _ in range(4)]] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_when_the_maker_is_killed_the_next_one_makes_them(tmp_path):
    first = maker(tmp_path, 600.0)
    wait_for(tmp_path / "log")
    second = maker(tmp_path, 0.0)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(timeout=120) == 0
    assert (tmp_path / "data").exists()


def test_nobody_waits_for_ever_or_for_data_that_are_there(tmp_path):
    with pytest.raises(KeyError), made_once(tmp_path / ".made"):
        raise KeyError  # not made, so the next one is alone in the block, too
    stopped = maker(tmp_path, 600.0)
    try:
        wait_for(tmp_path / "log")
        os.kill(stopped.pid, signal.SIGSTOP)
        started = time.monotonic()
        with made_once(tmp_path / ".made", patience=0.3):
            assert time.monotonic() - started >= 0.3
        with made_once(tmp_path / ".made", patience=600):  # the mark says that they are there
            pass
    finally:
        stopped.kill()
        stopped.wait()


def test_a_folder_that_can_only_be_read_needs_no_mark(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "open", refused)
    with made_once(tmp_path / ".made"):
        pass
