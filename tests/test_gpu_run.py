"""The study of the GPU kernels runs dry on a CPU, writes its tables and its summary; a part that hangs is stopped."""

import csv
import subprocess
import sys

import pytest

from benchmark.measuring.points import read_points
from studies import gpu_run


@pytest.mark.slow
def test_a_dry_run_goes_through_all_parts(tmp_path):
    command = [sys.executable, "-m", "studies.gpu_run", "-o", str(tmp_path), "--dry-run"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert (tmp_path / "summary.txt").read_text().strip() == said.strip()
    assert said.startswith("correctness: completed\nspeed: completed\none-pass: completed\ncorrectness: 6 of 6 errors")
    points = read_points(tmp_path / "efficiency.csv")
    assert {(p.attention, p.mode) for p in points} == {
        (attention, mode) for attention in ("flash", "lavo", "lavo:learned") for mode in ("forward", "backward")
    }
    # four tensors forward; in the backward pass the four and seven more
    assert all(p.moved_bytes == (4 if p.mode == "forward" else 11) * p.length * p.batch * 8 * 64 * 4 for p in points)
    with (tmp_path / "correctness.csv").open() as file:
        assert {row["kernel"] for row in csv.DictReader(file)} == {"torch"}


def test_a_part_that_hangs_is_stopped_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/sleep")  # sleep refuses the arguments: a part that fails
    assert gpu_run.in_a_process("speed", 5, tmp_path, True) == "failed with status 1"
    script = tmp_path / "waits"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert gpu_run.in_a_process("speed", 0.2, tmp_path, True) == "stopped after 0.2 s"


def test_all_parts_together_keep_to_eight_minutes():
    assert sum(gpu_run.PARTS.values()) <= 480


def test_without_a_gpu_one_line_says_so(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "studies.gpu_run", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )
    assert ended.returncode == 2
    assert "no CUDA device" in ended.stderr
