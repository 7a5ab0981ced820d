"""The commands that a report gives to repeat its runs do repeat them: run again, they find every cell finished."""

from __future__ import annotations

import shlex
from pathlib import Path

import believable
import pytest
from command_line import lavo_bench

from benchmark.report import build_report
from benchmark.report.groups import group_records
from benchmark.report.repeat import run_commands
from benchmark.results import records

MINE = """
from benchmark.registry import ATTENTIONS, load_attention, register_attention


@register_attention("my_own")
class Mine(load_attention("softmax")):
    exact = False
"""


def test_a_command_names_what_is_not_the_presets(tmp_path):
    for attention in ("softmax", "my_att"):
        believable.write_cell(tmp_path / "runs", "forecasting", "informer", "causal_self", attention, 0)
    (command,) = run_commands(group_records(records([tmp_path / "runs"])))
    words = shlex.split(command)
    assert words[:5] == ["lavo-bench", "run", "forecasting", "--backbone", "informer"]
    assert words[words.index("--include-path") + 1] == "FILE.py"
    assert words[words.index("-a") + 1] == "softmax,my_att"
    assert "train.steps=400" in words  # the preset has another number
    assert words[-2:] == ["-o", "runs"]


@pytest.mark.slow
def test_the_commands_of_a_report_find_every_cell_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FILE.py").write_text(MINE)
    given = [
        "--set",
        "train.batch_size=3",
        "--set",
        "attentions.lavo.window=5",
        "--limit",
        "3",
        "--include-path",
        "FILE.py",
    ]
    first = ["run", "forecasting", "--preset", "smoke", "--pattern", "causal_self,noncausal_cross", "--seeds", "0,1"]
    done = lavo_bench(*first, "-a", "softmax,lavo,my_own", *given, "-o", "out")
    assert done.status == 0, done
    before = {path: path.read_bytes() for path in Path("out").rglob("*.json")}
    assert len(before) == 2 + 2 * 2 * 2  # softmax once for all sites
    text = build_report([Path("out")], Path("report")).markdown.read_text()
    commands = [line for line in text.splitlines() if line.startswith("lavo-bench run")]
    for command in commands:
        again = lavo_bench(*shlex.split(command)[1:])
        assert again.status == 0, again
    assert {path: path.read_bytes() for path in Path("out").rglob("*.json")} == before
    assert max(command.count("--set ") for command in commands) == 2
