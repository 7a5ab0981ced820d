"""Workers as jobs of a real SLURM, which the tests start on this machine, and of submitit's local and debug executors.

LAVO_BENCH_LAUNCHES=1 adds the tests that take minutes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from launched import LONG_FORM, NUM_CELLS, Command
from test_kills import files

pytestmark = pytest.mark.slow
PATIENT = pytest.mark.skipif(not LONG_FORM, reason="takes minutes; LAVO_BENCH_LAUNCHES=1 runs it")
OPTIONS = ["--launcher", "slurm", "--workers", "2", "--lease", "5"]
LONG = ["--set", "train.steps=1200", "--set", "train.eval_every=600", "--set", "train.checkpoint_every=50"]


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def running() -> dict[str, str]:
    """The jobs in the queue, task of an array -> state."""
    return dict(line.split() for line in ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines())


def assert_complete(command: Command, expected: dict[str, object]) -> None:
    """Each cell has the record of the undisturbed run, was told of once, and nothing else is left."""
    assert files(command.folder) == expected
    assert len(command.told()) == len(set(command.told())) == NUM_CELLS
    assert not list(command.folder.glob(".*"))
    assert not command.left()


def test_jobs_that_are_requeued_and_killed_lose_and_double_nothing(slurm, tmp_path, alone):
    expected, cache = alone
    command = Command(tmp_path / "results", cache, *OPTIONS)
    command.until(lambda: command.records() >= 2 and set(running().values()) == {"RUNNING"})
    first, second = sorted(running())
    ask("scontrol", "requeue", first)
    (job,) = [
        process
        for process in command.processes()
        if process.info["cmdline"][0] == sys.executable
        and process.environ().get("SLURM_ARRAY_TASK_ID") == "1"
        and "submitit.core._submit" in process.info["cmdline"]
    ]
    assert job.environ()["SLURM_ARRAY_JOB_ID"] == second.partition("_")[0]
    job.kill()
    assert command.records() < NUM_CELLS - 2
    assert command.wait() == 0, command.said
    assert "worker 1 ended before its work was done" in command.said
    assert_complete(command, expected)
    assert not running()


@PATIENT
def test_without_a_worker_the_run_ends_and_the_same_command_goes_on(slurm, tmp_path, alone):
    four = ["-a", "softmax", "--seeds", "0,1,2,3", *LONG]
    undisturbed = Command(tmp_path / "undisturbed", alone[1], *four)
    assert undisturbed.wait() == 0, undisturbed.said
    command = Command(tmp_path / "results", alone[1], *OPTIONS, *four)
    command.until(command.records)
    ask("scancel", *running())
    assert command.wait() == 1, command.said
    missing = 4 - command.records()
    assert f"{missing} of 4 cells have no record; the same command runs them" in command.said
    assert "no worker is left; what the workers printed is in" in command.said
    again = Command(tmp_path / "results", alone[1], *OPTIONS, *four)
    again.until(lambda: list((tmp_path / "results" / ".claims").glob("*.claim")) and "2 workers running" in again.said)
    again.process.send_signal(signal.SIGINT)
    assert again.wait() == 130, again.said
    assert "stopped; the same command goes on" in again.said
    assert not running()
    assert not again.left()
    assert not list((tmp_path / "results").glob(".claims/*"))
    kept, expected = tmp_path / "results" / "forecasting", tmp_path / "undisturbed" / "forecasting"
    assert files(kept)
    assert files(kept).items() <= files(expected).items()


@PATIENT
def test_a_preempted_job_goes_on_from_its_checkpoint(slurm, tmp_path, alone):
    one = ["-a", "lavo", "--seeds", "0", *LONG]
    undisturbed = Command(tmp_path / "undisturbed", alone[1], *one)
    assert undisturbed.wait() == 0
    command = Command(tmp_path / "results", alone[1], *OPTIONS, *one)
    command.until(lambda: list((tmp_path / "results" / ".checkpoints").glob("*/last.pt")))
    ask("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 5")
    assert command.wait() == 0, command.said
    assert "0 workers running" in command.said
    assert files(tmp_path / "results") == files(tmp_path / "undisturbed")


@PATIENT
def test_a_job_that_reaches_its_time_limit_goes_on_from_its_checkpoint(slurm, tmp_path, alone):
    limit = ["--launcher-option", "time=2", "--launcher-option", "signal=20"]
    cells = ["-a", "lavo", "--seeds", "0,1", "--set", "train.steps=3000", "--set", "train.checkpoint_every=50"]
    undisturbed = Command(tmp_path / "undisturbed", alone[1], *cells)
    assert undisturbed.wait() == 0
    started = time.monotonic()
    command = Command(tmp_path / "results", alone[1], *OPTIONS, *limit, *cells)
    assert command.wait() == 0, command.said
    assert time.monotonic() - started > 60
    assert files(tmp_path / "results") == files(tmp_path / "undisturbed")


@PATIENT  # tests/test_snippets.py runs a cell with debug, which docs/cluster.md names
@pytest.mark.parametrize("executor", ["local", "debug"])
def test_submitits_other_executors_run_all_cells(tmp_path, alone, executor):
    expected, cache = alone
    command = Command(tmp_path / "results", cache, *OPTIONS, "--launcher-option", f"executor={executor}")
    assert command.wait() == 0, command.said
    assert_complete(command, expected)
