"""The process around ``lavo-bench work``: its exit status, and that it leaves no process."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from benchmark.launching import worker
from benchmark.launching.worker import STOP, Worker, last_fault, log_of

# In place of ``lavo-bench work``: says that it is there, and waits.
WAITS = "import signal, sys, time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A worker whose command waits until it is told to stop."""
    monkeypatch.setattr(worker, "_START", worker._START.partition("from benchmark")[0] + WAITS)
    return Worker(["work", "nowhere"], tmp_path)


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def commands(folder):
    """The processes that print into this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["work", "nowhere"] and log_of(folder, 3).samefile(
                f"/proc/{process.pid}/fd/1"
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_command_that_refuses_says_why(tmp_path):
    ended = Worker(["work", str(tmp_path / "nowhere")], tmp_path)(3)
    assert ended.status == 2
    assert ended.reason == f"lavo-bench: {tmp_path / 'nowhere'}: no such folder of results"


def test_a_worker_that_was_told_to_stop_ends_its_command_with_one_interrupt(tmp_path, waiting):
    called = threading.Thread(target=lambda: results.append(waiting(3)))
    results: list[worker.Ended] = []
    called.start()
    until(lambda: log_of(tmp_path, 3).exists() and "here" in log_of(tmp_path, 3).read_text())
    for sign in (signal.SIGTERM, signal.SIGUSR2):  # preemption, which the engine's own process handles
        waiting._process.send_signal(sign)
    time.sleep(0.2)
    assert waiting._process.poll() is None
    (tmp_path / STOP).touch()
    called.join(timeout=60)
    assert results[0].status in (1, -signal.SIGINT)
    assert log_of(tmp_path, 3).read_text().count("KeyboardInterrupt") == 1
    assert not commands(tmp_path)
    assert Worker(["work"], tmp_path)(4) == worker.Ended(0)  # one that starts later does nothing


def test_nothing_outlives_a_worker_that_is_killed(tmp_path):
    code = (
        f"from pathlib import Path\nfrom benchmark.launching import worker\n"
        f"worker._START = {WAITS!r}\nworker.Worker(['work', 'nowhere'], Path({str(tmp_path)!r}))(3)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    until(lambda: log_of(tmp_path, 3).exists() and "here" in log_of(tmp_path, 3).read_text())
    assert len(commands(tmp_path)) == 1
    process.kill()
    process.wait()
    until(lambda: not commands(tmp_path))


def test_a_checkpoint_stops_the_command_and_gives_the_same_worker_again(tmp_path, waiting):
    pytest.importorskip("submitit")
    thread = threading.Thread(target=waiting, args=(3,))
    thread.start()
    until(lambda: log_of(tmp_path, 3).exists() and "here" in log_of(tmp_path, 3).read_text())
    again = pickle.loads(pickle.dumps(waiting.checkpoint(3)))
    thread.join(timeout=60)
    assert not commands(tmp_path)
    assert (again.function.arguments, again.function.folder, again.args) == (waiting.arguments, tmp_path, (3,))


def test_the_reason_is_the_last_message_of_the_command(tmp_path):
    assert last_fault(tmp_path, 0) == ""
    log_of(tmp_path, 0).write_text("3 cells\nlavo-bench: first\nlavo-bench: second\nand so on\n\n")
    assert last_fault(tmp_path, 0) == "lavo-bench: second"
    log_of(tmp_path, 0).write_text("Killed\n")
    assert last_fault(tmp_path, 0) == "Killed"
