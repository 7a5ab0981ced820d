"""Records: written whole or not at all, strict JSON, and read back as a table."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import believable
import numpy as np
import pandas as pd
import pytest
import torch

from benchmark import results
from benchmark.files import write_bytes
from benchmark.interface import Attachment
from benchmark.results import (
    CellName,
    Efficiency,
    MetricValue,
    NotARecord,
    Record,
    as_json,
    from_json,
    load,
    plain,
    read_record,
    records,
    write_record,
)

ROOT = Path(__file__).parent.parent
CELL = CellName("task", "backbone", "pattern", "attention", "preset", 0, "0123456789ab")


def record(**changes):
    made = Record(CELL, "completed", metrics={"loss": MetricValue(1.5, 3, unit="nats")})
    return replace(made, **changes)


# Writing


def test_a_record_comes_back_as_it_was_written(tmp_path):
    efficiency = Efficiency(tokens_per_second=12.5, steps=3, kernels=["matmul"])
    written = write_record(tmp_path / "lm" / "a.json", record(efficiency=efficiency, controls={"zero": {"loss": None}}))
    found = read_record(tmp_path / "lm" / "a.json")
    assert found == written
    assert (found.cell, found.metrics, found.efficiency) == (CELL, record().metrics, efficiency)
    assert found.curves == {}


def test_the_first_schema_is_still_read(tmp_path):
    content = {**as_json(record()), "schema_version": 1, "curves": {"training": {"loss": [1.0, None]}}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read_record(tmp_path / "a.json")
    assert found.curves["training"]["loss"] == [1.0, None]
    assert found.metrics == record().metrics


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


def test_what_a_record_names_is_written_before_it(tmp_path, monkeypatch):
    written = []
    write = results.write_bytes
    monkeypatch.setattr(results, "write_bytes", lambda path, content: (written.append(path.name), write(path, content)))
    curves = {"sound": Attachment(b"sound", "mp3")}
    made = write_record(tmp_path / "a.json", record(), {"loss": np.arange(3.0)}, curves)
    sound = made.curves["sound"]["attachment"]
    assert written[0] == sound
    assert written[1:] == ["a.examples.csv.gz", "a.curves.json.gz", "a.json"]


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
    metrics = {"loss": MetricValue(float("nan"), np.int64(3)), "other": MetricValue(torch.tensor(math.inf), 3)}
    curves = {"loss": np.array([1.0, np.nan])}
    written = write_record(tmp_path / "lm" / "a.json", record(metrics=metrics), curves=curves)

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "lm" / "a.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["metrics"]["loss"]["value"] is None
    assert found["curves"] == written.curves_file == "a.curves.json.gz"
    assert read_record(tmp_path / "lm" / "a.json").curves["loss"] == [1.0, None]
    assert load(tmp_path)["metric.loss"].isna().all()


# Examples


def test_examples_come_back_to_nine_digits(tmp_path):
    columns = {"nats": np.array([1 / 3, 1e-12, -2.0, np.nan]), "num_tokens": np.array([3, 4, 5, 6])}
    write_record(tmp_path / "lm" / "a.json", record(), columns)
    (found,) = records([tmp_path])
    assert found.examples_file == "a.examples.csv.gz"
    frame = found.examples
    assert list(frame.columns) == list(columns)
    assert frame.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(frame["nats"], columns["nats"], rtol=1e-8)
    assert frame["num_tokens"].tolist() == [3, 4, 5, 6]


def test_the_same_values_give_the_same_bytes():
    columns = {"a": np.array([1.5, 2.5])}
    assert results.examples_csv(columns) == results.examples_csv(columns)
    assert gzip.decompress(results.examples_csv(columns)) == b"example,a\n0,1.5\n1,2.5\n"


# Curves and attachments


def test_attachments_are_stored_once_for_all_cells_that_share_them(tmp_path):
    for name, own in (("a", b"own of a"), ("b", b"own of b")):
        shown = [{"truth": Attachment(b"shared", "bin"), "own": Attachment(own, "bin")}]
        write_record(tmp_path / "lm" / f"{name}.json", record(), curves={"shown": shown})
    assert len(list((tmp_path / "lm" / "attachments").iterdir())) == 3
    first, second = records([tmp_path])
    assert first.curves["shown"][0]["truth"] == second.curves["shown"][0]["truth"]
    for one, own in ((first, b"own of a"), (second, b"own of b")):
        assert one.attachment(one.curves["shown"][0]["truth"]) == b"shared"
        assert one.attachment(one.curves["shown"][0]["own"]) == own


def test_an_attachment_that_is_not_there_is_none(tmp_path):
    write_record(tmp_path / "a.json", record(), curves={"sound": Attachment(b"sound", "mp3")})
    found = read_record(tmp_path / "a.json")
    (tmp_path / "attachments" / found.curves["sound"]["attachment"]).unlink()
    assert found.attachment(found.curves["sound"]) is None
    assert found.attachment(None) is None
    assert found.attachment("a text of the first schema") is None


@pytest.mark.parametrize("name", ["../secret", "..", ".", "/etc/hostname", "a/../../secret", "", 3, None])
def test_an_attachment_outside_its_folder_is_refused(name, tmp_path):
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "lm" / "a.json"
    found = write_record(path, record(), curves={"sound": Attachment(b"sound", "mp3")})
    assert found.attachment({"attachment": name}) is None


@pytest.mark.parametrize("key", ["examples", "curves"])
@pytest.mark.parametrize("name", ["../b.csv.gz", "/etc/passwd", "a/b.csv.gz", "..", ".hidden", "a\nb", "x" * 300])
def test_a_file_outside_the_folder_is_refused(key, name, tmp_path):
    content = as_json(record()) | {key: name}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"a\.json: not a record: {key}"):
        read_record(tmp_path / "a.json")


@pytest.mark.parametrize(("key", "suffix"), [("examples", results.EXAMPLES_SUFFIX), ("curves", results.CURVES_SUFFIX)])
def test_what_lies_beside_a_record_is_named_where_it_is_damaged(key, suffix, tmp_path):
    write_record(tmp_path / "a.json", record(), {"loss": np.arange(3.0)}, {"training": {"loss": [1.0]}})
    path = tmp_path / f"a{suffix}"
    whole = path.read_bytes()
    damaged = [b"", b"no gzip", whole[:-9], whole[:20] + b"\0" + whole[21:]]
    if key == "curves":
        damaged += [gzip.compress(text) for text in (b"[1]", b"{", b'{"loss": NaN}', b"[" * 100_000, b"\xff")]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            getattr(read_record(tmp_path / "a.json"), key)
    path.unlink()
    with pytest.raises(ValueError, match=re.escape(str(path))):
        getattr(read_record(tmp_path / "a.json"), key)


# Reading


def test_load_gives_one_row_a_cell(tmp_path):
    believable.write_results(tmp_path)
    frame = load(tmp_path)
    assert len(frame) == len(results.record_files(tmp_path))
    assert {*vars(CELL), "status", "reason", "data", "embedded", "n", "seconds", "path"} <= set(frame)
    assert any(name.startswith("metric.") for name in frame)
    assert any(name.startswith("efficiency.") for name in frame)
    assert frame["hash"].is_unique
    one = read_record(Path(frame["path"][0]))
    name, metric = next(iter(one.metrics.items()))
    assert frame[f"metric.{name}"][0] == metric.value
    assert frame["n"][0] == metric.n


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


def test_json_of_others_is_passed_over(tmp_path):
    write_record(tmp_path / "lm" / "a.json", record())
    for name, text in (("notes", '{"a": 1}'), ("list", "[1, 2]"), ("text", '"word"'), ("machine", "[]")):
        (tmp_path / "lm" / f"{name}.json").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path)) == len(records([tmp_path])) == 1
    with pytest.raises(NotARecord, match=r"notes\.json: not a record"):
        read_record(tmp_path / "lm" / "notes.json")


DAMAGED = {
    "torn": (lambda text: text[: len(text) // 2], "not a record"),
    "empty": (lambda text: "", "not a record"),
    "other_version": (lambda text: text.replace('"schema_version": 2', '"schema_version": 9'), "schema_version '9'"),
    "no_version": (lambda text: text.replace('"schema_version": 2,', ""), "schema_version 'None'"),
    "nan": (lambda text: text.replace("1.5", "NaN"), "NaN is not JSON"),
    "text_for_a_number": (lambda text: text.replace("1.5", '"1.5"'), "metrics.loss.value"),
    "unknown_status": (lambda text: text.replace('"completed"', '"done"'), "status"),
    "no_task": (lambda text: text.replace('"task": "task",', ""), "cell.task"),
    "list_for_a_mapping": (lambda text: text.replace('"controls": {}', '"controls": []'), "controls"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_costs_one_line_with_its_name(name, tmp_path):
    damage, fault = DAMAGED[name]
    path = tmp_path / "lm" / f"{name}.json"
    write_record(path, record())
    path.write_text(damage(path.read_text()))
    write_record(tmp_path / "lm" / "whole.json", record())
    lines = []
    assert [found.path.name for found in records([tmp_path], damaged=lines.append)] == ["whole.json"]
    (line,) = lines
    assert f"{name}.json" in line
    assert fault in line
    assert "\n" not in line
    with pytest.warns(UserWarning, match=rf"{name}\.json") as warned:
        assert len(load(tmp_path)) == 1
    assert len(warned) == 1
    loaded: list[str] = []
    assert len(load(tmp_path, damaged=loaded.append)) == 1
    assert loaded == lines


def test_a_record_by_name_that_is_none_is_named(tmp_path):
    """Foreign JSON is passed over in silence, but not under the name of a record."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "gpt.causal_self.lavo.s0.0123456789ab.json").write_text("{}")
    lines = []
    assert records([tmp_path], damaged=lines.append) == []
    assert len(lines) == 1


def test_a_list_of_results_names_a_damaged_record_once(tmp_path):
    from benchmark.report import listing

    write_record(tmp_path / "quick" / "task" / "a.json", record())
    (tmp_path / "quick" / "task" / "torn.json").write_text("{")
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = listing.results(tmp_path, damaged=lines.append)
    assert table.row_count == 2  # the folder, and the folder in it
    (line,) = lines
    assert "torn.json" in line


def test_a_list_of_results_without_a_folder_is_empty_and_says_so(tmp_path):
    from benchmark.report import listing

    table = listing.results(tmp_path / "gone")
    assert table.row_count == 0
    assert "no folder" in str(table.title)


def test_values_of_json_are_checked_without_a_file():
    made = record(efficiency=Efficiency(kernels=["matmul"]))
    assert from_json(as_json(made)) == made
    with pytest.raises(ValueError, match=r"metrics\.loss\.n"):
        from_json(as_json(record()) | {"metrics": {"loss": {"value": 1.0, "n": "three"}}})


def test_the_results_of_the_repository_are_read_whole():
    found = [path.relative_to(ROOT) for path in (ROOT / "results").rglob("*.json") if len(path.name.split(".")) == 6]
    files = [ROOT / path for path in found if not any(part.startswith(".") for part in path.parts)]  # not trials
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load([ROOT / "results"])
    assert len(frame) == len(files) > 100
    assert frame["hash"].notna().all()
    for path in files:
        found = read_record(path)
        assert len(found.examples) > 0
        assert found.curves["training"]["loss"]
