"""The values of nvidia-smi go into a table; without nvidia-smi there is no table."""

import os

from benchmark.measuring.clocks import COLUMNS, read_clocks, record_clocks


def pretend(tmp_path, monkeypatch, script):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_a_row_for_each_group_of_points(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, 'echo "1980, 1980, 41, 355.20, 0x0000000000000004" # $@')
    record_clocks(tmp_path, "forward", "causal_self", 256, 0)
    record_clocks(tmp_path, "backward", "causal_self", 512, 0)
    lines = (tmp_path / "clocks.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "forward,causal_self,256,1980,1980,41,355.20,0x0000000000000004"
    assert lines[2].startswith("backward,causal_self,512,")


def test_the_gpu_that_was_measured_is_asked(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; echo "1, 2, 3, 4, 0x0"')
    assert read_clocks(3) == ["1", "2", "3", "4", "0x0"]
    assert "--id=3" in (tmp_path / "asked").read_text()


def test_no_answer_leaves_no_table(tmp_path, monkeypatch):
    for script in ("exit 6", "echo 'no devices were found'"):
        pretend(tmp_path, monkeypatch, script)
        record_clocks(tmp_path, "forward", "causal_self", 256, 0)
        assert not (tmp_path / "clocks.csv").exists()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert read_clocks(0) is None
