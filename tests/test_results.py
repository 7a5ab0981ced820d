"""Records: written whole or not at all, strict JSON, and read back as a table."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import believable
import numpy as np
import pandas as pd
import pytest
import torch

from benchmark import results
from benchmark.files import write_bytes
from benchmark.results import load, plain, read_examples, read_record, records, write_record

CELL = dict.fromkeys(results.CELL_NAMES, "x")


def record(**changes):
    metrics = {"loss": {"value": 1.5, "higher_is_better": False, "unit": "nats", "n": 3}}
    return {"schema_version": 1, "cell": CELL, "status": "completed", "reason": None, "metrics": metrics, **changes}


# Writing


def test_a_record_comes_back_as_it_was_written(tmp_path):
    write_record(tmp_path / "lm" / "a.json", record())
    assert read_record(tmp_path / "lm" / "a.json") == record()


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "lm" / "a.json"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(failing, tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(f"benchmark.files.os.{failing}", fail)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


WRITER = """
import sys
from pathlib import Path
from benchmark.files import write_bytes
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_bytes(Path(sys.argv[1]), str(number % 10).encode() * 4_000_000)
"""


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.json"
    for wait in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert len(content) == 4_000_000
        assert content == content[:1] * 4_000_000
    assert results.record_files(tmp_path) == []  # what a kill left behind begins with a dot


def test_a_record_can_be_read_by_others(tmp_path):
    write_bytes(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_examples_are_written_before_the_record_that_names_them(tmp_path, monkeypatch):
    written = []
    write = results.write_bytes
    monkeypatch.setattr(results, "write_bytes", lambda path, content: (written.append(path.name), write(path, content)))
    write_record(tmp_path / "a.json", record(), {"loss": np.arange(3.0)})
    assert written == ["a.examples.csv.gz", "a.json"]


# JSON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32("nan"), None),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([1.0, math.inf]), [1.0, None]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ((1, 2), [1, 2]),
        ({3: {"a": float("nan")}}, {"3": {"a": None}}),
        (Path("a/b"), "a/b"),
        (True, True),
        (None, None),
        (2**70, 2**70),
        ("é", "é"),
    ],
)
def test_what_json_has_not_becomes_what_it_has(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_a_record_with_a_diverged_loss_is_strict_json(tmp_path):
    metrics = {"loss": {"value": float("nan"), "n": np.int64(3)}, "other": {"value": torch.tensor(math.inf), "n": 3}}
    write_record(tmp_path / "lm" / "a.json", record(metrics=metrics, curves={"loss": np.array([1.0, np.nan])}))

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "lm" / "a.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["metrics"]["loss"]["value"] is None
    assert found["curves"]["loss"] == [1.0, None]
    assert load(tmp_path)["metric.loss"].isna().all()


# Examples


def test_examples_come_back_to_nine_digits(tmp_path):
    columns = {"nats": np.array([1 / 3, 1e-12, -2.0, np.nan]), "num_tokens": np.array([3, 4, 5, 6])}
    write_record(tmp_path / "lm" / "a.json", record(), columns)
    (found,) = records([tmp_path])
    assert found["examples"] == "a.examples.csv.gz"
    frame = read_examples(found)
    assert list(frame.columns) == list(columns)
    assert frame.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(frame["nats"], columns["nats"], rtol=1e-8)
    assert frame["num_tokens"].tolist() == [3, 4, 5, 6]


def test_the_same_values_give_the_same_bytes():
    columns = {"a": np.array([1.5, 2.5])}
    assert results.examples_csv(columns) == results.examples_csv(columns)
    assert gzip.decompress(results.examples_csv(columns)) == b"example,a\n0,1.5\n1,2.5\n"


# Reading


def test_load_gives_one_row_a_cell(tmp_path):
    believable.write_results(tmp_path)
    frame = load(tmp_path)
    assert len(frame) == len(results.record_files(tmp_path))
    assert {*results.CELL_NAMES, "variant", "status", "reason", "data", "embedded", "n", "seconds", "path"} <= set(
        frame
    )
    assert any(name.startswith("metric.") for name in frame)
    assert any(name.startswith("efficiency.") for name in frame)
    assert frame["hash"].is_unique
    one = read_record(Path(frame["path"][0]))
    name, metric = next(iter(one["metrics"].items()))
    assert frame[f"metric.{name}"][0] == metric["value"]
    assert frame["n"][0] == metric["n"]


def test_load_takes_one_folder_or_several(tmp_path):
    for folder in ("a", "b"):
        write_record(tmp_path / folder / "lm" / "x.json", record())
    assert len(load(str(tmp_path / "a"))) == 1
    assert len(load([tmp_path / "a", str(tmp_path / "b")])) == 2


def test_an_empty_folder_gives_an_empty_table(tmp_path):
    assert isinstance(load(tmp_path), pd.DataFrame)
    assert load(tmp_path).empty


def test_work_in_progress_is_not_read(tmp_path):
    write_record(tmp_path / "lm" / "a.json", record())
    (tmp_path / ".checkpoints").mkdir()
    (tmp_path / ".checkpoints" / "b.json").write_text("{")
    (tmp_path / "lm" / ".c.json.tmp").write_text("{")
    (tmp_path / "lm" / ".d.json").write_text("{")
    assert [path.name for path in results.record_files(tmp_path)] == ["a.json"]


def test_a_failed_cell_is_a_row_too(tmp_path):
    write_record(tmp_path / "lm" / "a.json", record(status="failed", reason="ValueError: no", metrics={}))
    frame = load(tmp_path)
    assert (frame["status"][0], frame["reason"][0]) == ("failed", "ValueError: no")
    assert frame["n"].isna().all()
