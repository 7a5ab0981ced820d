"""Several processes that train one cell together, started as a user starts them: by torchrun."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.results import read_record

ROOT = Path(__file__).parents[1]
CELL = ["run", "lm", "-a", "lavo", "--preset", "smoke", "--seeds", "0", "--set", "train.steps=8"]


def record_of(folder):
    (file,) = folder.glob("language_modeling/*.json")
    return read_record(file)


def run(folder, *settings, processes):
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "benchmark.cli",
        *CELL,
        *(part for setting in settings for part in ("--set", setting)),
        "-o",
        str(folder),
        "--cache",
        str(folder / ".cache"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, record_of(folder)


def assert_same_figures(together, alone):
    assert together.curves["training"]["loss"] == pytest.approx(alone.curves["training"]["loss"], rel=1e-5)
    for name, metric in alone.metrics.items():
        assert together.metrics[name].value == pytest.approx(metric.value, rel=1e-4)
        assert together.metrics[name].n == metric.n


@pytest.mark.slow
def test_two_processes_leave_the_record_of_one(tmp_path):
    _, alone = run(tmp_path / "alone", processes=1)
    said, together = run(tmp_path / "together", processes=2)
    assert "2 processes a cell" in said
    assert together.status == alone.status == "completed"
    assert together.environment.processes == 2
    assert together.environment.parallel == "data"
    assert together.cell == alone.cell  # the hash too: how many processes trained it is no setting
    assert together.efficiency.attention_bytes_sent_per_step is None
    assert_same_figures(together, alone)


@pytest.mark.slow
def test_two_processes_with_a_part_of_every_sequence_leave_the_record_of_one(tmp_path):
    window = "attentions.lavo.window=16"
    _, alone = run(tmp_path / "alone", window, processes=1)
    _, together = run(tmp_path / "together", window, "train.parallel=sequence", processes=2)
    assert together.status == "completed"
    assert together.environment == replace(
        alone.environment, processes=2, parallel="sequence", threads=together.environment.threads
    )
    assert (together.cell, together.config) == (alone.cell, alone.config)
    assert together.efficiency.attention_bytes_sent_per_step == 2 * 8 * 2 * 16 * 8  # passes b h r float64
    assert_same_figures(together, alone)
