"""Several runs and workers over one folder of results: they share the cells, and end with the records of one undisturbed run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_kills import files

from benchmark import results
from benchmark.running import claims, plans

ROOT = Path(__file__).parents[1]
CELLS = ["lstf", "-a", "softmax,lavo,none", "--pattern", "causal_self", "--preset", "smoke", "--seeds", "0,1"]
SETTINGS = [
    "--set",
    "train.steps=6",
    "--set",
    "train.checkpoint_every=2",
    "--set",
    "train.eval_every=3",
    "--limit",
    "2",
]
NUM_CELLS = 6


def start(*arguments: str, output: Path) -> subprocess.Popen[str]:
    """Starts ``lavo-bench`` in a process group of its own; what it prints goes to a file beside the folder of results."""
    with output.open("w", encoding="utf-8") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark.cli", *arguments], cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True, text=True,
        )  # fmt: skip


def run_options(folder: Path, cache: Path) -> list[str]:
    return [*plan_options(folder, cache)[:-1], "--jobs", "1"]


def plan_options(folder: Path, cache: Path) -> list[str]:
    return ["run", *CELLS, *SETTINGS, "--cache", str(cache), "-o", str(folder), "--plan-only"]


def trained(*printed: Path) -> int:
    """How many cells these processes have trained themselves."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in printed).splitlines()
    return sum(bool(re.match(r"\[\d+/\d+\]", line)) and not line.endswith("by another run") for line in lines)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one run leaves that shares its folder with nobody, and its cache."""
    folder = tmp_path_factory.mktemp("alone")
    process = start(*run_options(folder / "results", folder / "cache"), output=folder / "printed")
    assert process.wait(timeout=600) == 0, (folder / "printed").read_text()
    assert not list((folder / "results").glob(".*"))
    return files(folder / "results"), folder / "cache"


@pytest.mark.slow
def test_two_runs_of_the_same_cells_share_them(tmp_path, alone):
    expected, cache = alone
    printed = [tmp_path / "first", tmp_path / "second"]
    processes = [start(*run_options(tmp_path / "results", cache), output=path) for path in printed]
    assert [process.wait(timeout=600) for process in processes] == [0, 0], [path.read_text() for path in printed]
    assert files(tmp_path / "results") == expected
    assert trained(*printed) == NUM_CELLS


@pytest.mark.slow
def test_workers_run_what_was_planned(tmp_path, alone):
    expected, cache = alone
    folder = tmp_path / "results"
    assert start(*plan_options(folder, cache), output=tmp_path / "planned").wait(timeout=300) == 0
    assert not list(folder.glob("[!.]*/*.json"))
    printed = [tmp_path / f"worker{number}" for number in range(3)]
    processes = [start("work", str(folder), "--jobs", "1", output=path) for path in printed]
    assert [process.wait(timeout=600) for process in processes] == [0, 0, 0], [path.read_text() for path in printed]
    assert files(folder) == expected
    assert trained(*printed) == NUM_CELLS
    late = tmp_path / "late"
    assert start("work", str(folder), output=late).wait(timeout=300) == 0
    assert "no planned run is left" in late.read_text()


@pytest.mark.slow
def test_a_run_that_is_stopped_loses_its_cells_and_publishes_nothing_when_it_wakes_up(tmp_path, alone):
    expected, cache = alone
    folder, printed = tmp_path / "results", [tmp_path / "stopped", tmp_path / "other"]
    stopped = start(*run_options(folder, cache), "--lease", "3", output=printed[0])
    until = time.monotonic() + 300
    while not list((folder / claims.FOLDER).glob("*.claim")):
        assert time.monotonic() < until
        assert stopped.poll() is None, printed[0].read_text()
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGSTOP)
    other = start(*run_options(folder, cache), "--lease", "3", output=printed[1])
    assert other.wait(timeout=600) == 0, printed[1].read_text()
    os.killpg(stopped.pid, signal.SIGCONT)
    assert stopped.wait(timeout=600) == 0, printed[0].read_text()
    assert files(folder) == expected
    assert trained(printed[1]) >= NUM_CELLS - 1


@pytest.mark.slow
def test_a_scheduler_that_ends_all_processes_of_a_worker_makes_no_cell_fail(tmp_path, alone):
    """SIGTERM reaches the workers of ``work`` first; the cells must not be recorded as failed, and no claim may stay."""
    _, cache = alone
    folder = tmp_path / "results"
    assert start(*plan_options(folder, cache), output=tmp_path / "planned").wait(timeout=300) == 0
    process = start("work", str(folder), "--jobs", "1", output=tmp_path / "worker")
    until = time.monotonic() + 300
    while not list(folder.glob(".checkpoints/*/last.pt")):
        assert time.monotonic() < until
        assert process.poll() is None, (tmp_path / "worker").read_text()
        time.sleep(0.01)
    (worker,) = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    worker.terminate()
    time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=60) == 130, (tmp_path / "worker").read_text()
    assert not list(folder.glob(".claims/*"))
    assert all(results.read_record(path).is_completed for path in folder.glob("[!.]*/*.json"))


def test_a_worker_whose_code_or_data_differ_refuses_to_work(tmp_path):
    process = start(*plan_options(tmp_path / "r", tmp_path / "cache"), output=tmp_path / "planned")
    assert process.wait(timeout=300) == 0
    (path,) = (tmp_path / "r" / plans.FOLDER).iterdir()
    plan = plans.read_plan(path)
    path.write_text(plan.model_copy(update={"cells": ["0" * 12, *plan.cells[1:]]}).model_dump_json())
    assert start("work", str(tmp_path / "r"), output=tmp_path / "worker").wait(timeout=300) == 2
    said = (tmp_path / "worker").read_text().strip()
    assert said.splitlines()[-1].startswith(f"lavo-bench: {path}: 1 of 6 cells have another hash here")
    path.write_text("{")
    assert start("work", str(tmp_path / "r"), output=tmp_path / "worker").wait(timeout=300) == 2
    assert "not a plan" in (tmp_path / "worker").read_text()
