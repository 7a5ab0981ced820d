"""``benchmark.run``, ``check`` and ``report`` from Python: the same cells, tables and messages as the command line's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import lavo_bench
from torch import nn

import benchmark
from benchmark import results
from benchmark.results import DataSource, MetricValue, Record, write_record

ROOT = Path(__file__).parents[1]

# A script that runs cells at its top level, as a beginner writes it: workers must not run it again.
SCRIPT = """
import torch
from torch import nn

import benchmark

SMALLEST = 1e-6


def features(x):
    return torch.relu(x) + 0.1


class MyLinear(nn.Module):
    version = 1
    unsupported = {"causal_self": "no extend()", "causal_cross": "no read()"}

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()

    def forward(self, q, k, v, key_padding_mask=None):
        q, k = features(q), features(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        return q @ (k.mT @ v) / (q @ k.sum(2)[..., None]).clamp_min(SMALLEST)


class Failing(MyLinear):
    def forward(self, q, k, v, key_padding_mask=None):
        raise RuntimeError("no such luck")


size = dict(preset="smoke", patterns="noncausal_cross", limit=8, jobs=1, output="out", set={"train.steps": 2, "train.warmup_steps": 0})
print("begins")
found = benchmark.run("forecasting", [MyLinear, Failing], seeds=[0], **size)
found.to_json("found.json", orient="records")
again = benchmark.run("forecasting", MyLinear, seeds=0, progress=False, **size)
again.to_json("again.json", orient="records")
"""

FROM_STANDARD_INPUT = """
import benchmark

print("begins")
found = benchmark.run("lstf", "none", preset="smoke", patterns="noncausal_cross", seeds=0, limit=8, jobs=1, output="in",
                      set={"train.steps": 2, "train.warmup_steps": 0})
print(found["status"][0])
"""


def python(folder: Path, *arguments: str, text: str | None = None) -> str:
    """Runs Python in the folder, and returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_script_without_a_guard_runs_its_own_classes_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    said = python(tmp_path, "script.py")
    assert said.count("begins") == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["attention"], row["status"]) for row in found] == [("my_linear", "completed"), ("failing", "failed")]
    assert found[1]["reason"] == "RuntimeError: no such luck"
    (again,) = json.loads((tmp_path / "again.json").read_text())
    assert again == {key: found[0][key] for key in again}
    (record,) = (record for record in results.records([tmp_path / "out"]) if record.is_completed)
    assert record.metrics["mse"].value == pytest.approx(again["metric.mse"], rel=1e-9)
    # The command line finds the same cell by the file that was written.
    (source,) = (tmp_path / "out" / "sources").glob("my_linear.*.py")
    settings = ("--set", "train.steps=2", "--set", "train.warmup_steps=0")
    options = (
        *("-a", "my_linear", "--preset", "smoke", "--pattern", "noncausal_cross", "--limit", "8", "--seeds", "0"),
        *("-o", "out", "--include-path", str(source)),
    )
    said = python(tmp_path, "-m", "benchmark.cli", "run", "forecasting", *options, *settings)
    assert "1 cells, 1 of them done already" in said


@pytest.mark.slow
def test_a_script_from_standard_input_can_run_cells(tmp_path):
    said = python(tmp_path, "-", text=FROM_STANDARD_INPUT)
    assert said.count("begins") == 1
    assert said.splitlines()[-1] == "completed"


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"tasks": "forecastin"}, ["forecastin"]),
        ({"tasks": "recall", "preset": "quik"}, ["recall", "--preset", "quik"]),
        ({"tasks": "recall", "patterns": "causal"}, ["recall", "--pattern", "causal"]),
        ({"tasks": ["recall"], "attentions": ["lavvo"]}, ["recall", "-a", "lavvo"]),
        ({"tasks": "recall", "data_root": "nowhere"}, ["recall", "--data-root", "nowhere"]),
        ({"tasks": "recall", "output": "file.json"}, ["recall", "-o", "file.json"]),
        ({"tasks": "recall", "device": "tpu"}, ["recall", "--device", "tpu"]),
        ({"tasks": "recall", "include_path": "none.py"}, ["recall", "--include-path", "none.py"]),
    ],
)
def test_mistakes_have_the_line_of_the_command_line(tmp_path, monkeypatch, options, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(benchmark.UsageError) as error:
        benchmark.run(**options, progress=False)
    answer = lavo_bench("run", *arguments)
    assert answer.status == 2
    assert str(error.value) == answer.err.strip().removeprefix("lavo-bench: ")


def test_a_setting_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        benchmark.UsageError, match=r"set train.stepps=3: unknown key 'stepps'.*did you mean steps"
    ) as error:
        benchmark.run("recall", "none", set={"train.stepps": 3}, output=tmp_path, progress=False)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


class Uniform(nn.Module):
    """The mean of the values, whatever the queries are."""

    version = 1
    unsupported = {"causal_self": "no extend()", "causal_cross": "no read()", "noncausal_cross": "not written yet"}

    def __init__(self, *, pattern: str, num_heads: int, head_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v, key_padding_mask=None):
        weights = torch.ones(len(q), 1, 1, k.shape[2], dtype=v.dtype)
        if key_padding_mask is not None:
            weights = weights.masked_fill(key_padding_mask[:, None, None], 0)
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        mean = self.scale * (weights @ v) / weights.sum(-1, keepdim=True).clamp_min(1)
        return mean.expand(q.shape) + 0 * q.sum()  # every query counts, so that there is a gradient


def test_check_of_a_class_prints_the_tables_and_the_sentence():
    checked = benchmark.check(Uniform, patterns=["noncausal_self", "causal_self"], progress=False)
    frame = checked.frame
    assert isinstance(frame, pd.DataFrame)
    assert checked.passed == (frame["outcome"] != "failed").all()
    assert set(frame["part"]) == {"mathematics", "contract"}
    text = str(checked)
    assert "uniform: mathematics" in text
    assert "uniform: contract" in text
    assert text.endswith(checked.sentence)
    assert "causal_self is declared unsupported" in checked.sentence
    assert max(map(len, text[: text.rindex("\n")].splitlines())) <= 120
    assert checked.sentence.replace("’", "&#x27;") in checked._repr_html_() or "<table" in checked._repr_html_()


def test_check_finds_the_fault_that_the_command_finds():
    class Leaking(Uniform):
        def forward(self, q, k, v, key_padding_mask=None):
            return super().forward(q, k, v)

    checked = benchmark.check(Leaking, patterns="noncausal_self", progress=False)
    assert not checked.passed
    assert "padding" in set(checked.frame.loc[checked.frame["outcome"] == "failed", "check"])
    assert "leaking can’t be used yet" in checked.sentence


def test_check_takes_names_and_options_and_refuses_others():
    assert benchmark.check("none", patterns="noncausal_self", progress=False).passed
    assert benchmark.check("none", patterns="noncausal_self", progress=False).name == "none"
    with pytest.raises(benchmark.UsageError, match="attention 'nonne': unknown"):
        benchmark.check("nonne", progress=False)
    with pytest.raises(benchmark.UsageError, match="option 'scal' of attention uniform: unknown"):
        benchmark.check(Uniform, options={"scal": 2.0}, progress=False)
    with pytest.raises(benchmark.UsageError, match="version must be a whole number"):
        benchmark.check(nn.Linear, progress=False)


@pytest.fixture
def folder(tmp_path):
    """Records of two attentions."""
    for attention, value in (("softmax", 0.5), ("lavo", 0.6)):
        cell = results.CellName("recall", "probe", "causal_self", attention, "smoke", 0, f"abc{attention}")
        metrics = {"accuracy": MetricValue(value, 10, higher_is_better=True)}
        data = DataSource("embedded", True, "0" * 64)
        path = tmp_path / "records" / "recall" / f"probe.causal_self.{attention}.s0.abc{attention}.json"
        write_record(path, Record(cell, "completed", metrics=metrics, data=data))
    return tmp_path / "records"


def test_report_takes_a_table_or_a_folder_and_returns_the_pages(folder, tmp_path):
    pages = benchmark.report(results.load(folder), tmp_path / "page")
    assert pages.html == tmp_path / "page" / "report.html"
    assert pages.markdown.is_file()
    assert "lavo" in pages.markdown.read_text(encoding="utf-8")
    assert str(pages).startswith(f"report: {pages.html}")
    assert f'href="{pages.html}"' in pages._repr_html_()
    before = pages.html.stat().st_mtime_ns
    benchmark.report([folder], tmp_path / "page")
    assert pages.html.stat().st_mtime_ns == before


def test_report_is_a_package_too(folder, tmp_path):
    from benchmark.report.page import Built, build_report

    assert benchmark.report.build_report is build_report
    assert isinstance(benchmark.report.build_report([folder], tmp_path / "page"), Built)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = benchmark.report.nothing


def test_report_of_nothing_is_refused_in_one_line(tmp_path):
    with pytest.raises(benchmark.UsageError, match="has no records; lavo-bench run -o writes some"):
        benchmark.report(tmp_path)
    with pytest.raises(benchmark.UsageError, match="one or more folders"):
        benchmark.report([])
    with pytest.raises(benchmark.UsageError, match="with the column 'path' and one or more rows"):
        benchmark.report(pd.DataFrame())


def test_the_names_are_listed_and_loading_the_package_imports_nothing_heavy():
    for name in benchmark.__all__:
        assert getattr(benchmark, name) is not None
    code = (
        "import sys, benchmark; print(*[name for name in ('torch', 'pandas', 'numpy', 'rich') if name in sys.modules])"
    )
    assert python(ROOT, "-c", code).strip() == ""
