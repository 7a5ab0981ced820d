"""Training curves in TensorBoard's files, read back by its own reader, and in trackio's database; nothing else changes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sqlite3
import sys
import types
from contextlib import closing
from pathlib import Path

import pytest
import toy_task
from command_line import lavo_bench

from benchmark import registry, results
from benchmark.report import build_report
from benchmark.running import logs, runner, workers
from benchmark.running.trainer import Trainer
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells

tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

PRESETS = "smoke:\n  train: {steps: 9, batch_size: 8, learning_rate: 0.01, schedule: linear, eval_every: 3, checkpoint_every: 4}\n"


@pytest.fixture(autouse=True)
def toy(request, monkeypatch, tmp_path, own_registry):
    """The toy task, which here counts its tokens.  Worker processes don't know it, so their test has no toy."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("slow") is None:
        toy_task.register(monkeypatch, tmp_path / "toy", PRESETS, "CountingToy")


def planned(*attentions, seeds=(0,)):
    run = RunSettings(tasks=["toy"], attentions=list(attentions or ["softmax"]), preset="smoke", seeds=list(seeds))
    return plan_cells([(run, [])], Path("/dev/null/unused"))


def place(folder, *kinds):
    return runner.Place(folder, folder / "cache", log=kinds)


def events(cell, folder):
    """What TensorBoard's reader finds: tag -> [(step, value)]."""
    read = tensorboard.EventAccumulator(
        str(folder / "logs" / "tensorboard" / cell.task / cell.stem), size_guidance={"scalars": 0}
    )
    read.Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}, read


def test_tensorboards_reader_finds_the_curves_of_the_record(tmp_path):
    (cell,) = planned()
    record = runner.run_cell(cell, place(tmp_path, "tensorboard"))
    found, read = events(cell, tmp_path)
    training, validation = record.curves["training"], record.curves["validation"]
    assert set(found) == {"train/loss", "train/learning_rate", "train/tokens_per_second", "validation/mse"}
    assert found["train/loss"] == [
        (s, pytest.approx(v)) for s, v in zip(training["step"], training["loss"], strict=True)
    ]
    rates = zip(training["step"], training["learning_rate"], strict=True)
    assert found["train/learning_rate"] == [(step, pytest.approx(rate)) for step, rate in rates]
    assert len({rate for _, rate in found["train/learning_rate"]}) == 9
    assert found["validation/mse"] == [
        (s, pytest.approx(v)) for s, v in zip(validation["step"], validation["mse"], strict=True)
    ]
    assert [step for step, _ in found["train/tokens_per_second"]] == list(range(1, 10))
    assert all(value > 0 for _, value in found["train/tokens_per_second"])
    (text,) = read.Tensors("cell/text_summary")
    told = text.tensor_proto.string_val[0].decode()
    for part in ("attention: softmax", "seed: 0", f"hash: {cell.hash}", "pattern: causal_self"):
        assert part in told


def test_logging_changes_neither_hash_nor_figures(tmp_path, trackio):
    (cell,) = planned("lavo")
    plain = runner.run_cell(cell, place(tmp_path / "plain"))
    logged = runner.run_cell(cell, place(tmp_path / "logged", "tensorboard", "trackio"))
    assert logged.path.name == plain.path.name
    assert logged.metrics == plain.metrics
    assert logged.curves == plain.curves
    assert logged.config == plain.config
    assert not (tmp_path / "plain" / "logs").exists()


class Killed(BaseException):
    pass


def killed_at(monkeypatch, step):
    """Ends the training as a signal would, after this step."""
    original = Trainer.log

    def log(self, loss):
        original(self, loss)
        if self.state.step == step:
            raise Killed

    monkeypatch.setattr(Trainer, "log", log)
    return lambda: monkeypatch.setattr(Trainer, "log", original)


@pytest.mark.parametrize("step", [2, 4, 7, 8])
def test_a_resumed_cell_continues_its_curve_without_gap_or_duplicate(tmp_path, monkeypatch, trackio, step):
    (cell,) = planned()
    whole = runner.run_cell(cell, place(tmp_path / "whole", "tensorboard"))
    restore = killed_at(monkeypatch, step)
    with pytest.raises(Killed):
        runner.run_cell(cell, place(tmp_path / "cut", "tensorboard", "trackio"))
    restore()
    runner.run_cell(cell, place(tmp_path / "cut", "tensorboard", "trackio"))
    found, _ = events(cell, tmp_path / "cut")
    expected, _ = events(cell, tmp_path / "whole")
    assert found["train/loss"] == expected["train/loss"]
    assert found["validation/mse"] == expected["validation/mse"]
    loss = [(row[1], row[2]["train/loss"]) for row in trackio(tmp_path / "cut") if "train/loss" in row[2]]
    assert loss == [
        (at, pytest.approx(value))
        for at, value in zip(*(whole.curves["training"][n] for n in ("step", "loss")), strict=True)
    ]


def test_a_cell_that_runs_anew_replaces_its_curve(tmp_path, trackio):
    (cell,) = planned()
    for _ in range(2):
        runner.run_cell(cell, place(tmp_path, "tensorboard", "trackio"))
        found, _ = events(cell, tmp_path)
        assert [step for step, _ in found["train/loss"]] == list(range(1, 10))
        rows = [row for row in trackio(tmp_path) if "train/loss" in row[2]]
        assert [row[1] for row in rows] == list(range(1, 10))


def test_nothing_in_the_logs_names_host_user_or_folder(tmp_path, trackio, monkeypatch):
    """TensorBoard's own writer would put the host's name into the file's name, and trackio.init the user's into its database."""
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "secret-user")
    (cell,) = planned()
    runner.run_cell(cell, place(tmp_path, "tensorboard", "trackio"))
    files = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        for secret in ("secret-host", "secret-user", str(tmp_path)):
            assert secret not in str(path.relative_to(tmp_path))
            assert secret.encode() not in path.read_bytes()


def test_readers_of_records_pass_over_the_logs(tmp_path, monkeypatch):
    (cell,) = planned()
    runner.run_cell(cell, place(tmp_path / "out", "tensorboard"))
    assert [record.cell.hash for record in results.records([tmp_path / "out"])] == [cell.hash]
    assert len(results.load(tmp_path / "out")) == 1
    monkeypatch.delitem(registry.TASKS, "toy")
    assert build_report([tmp_path / "out"], tmp_path / "report").damaged == []


SCHEMA = (
    "create table if not exists metrics (run_id text, step integer, metrics text, log_id text unique, run_name text)",
    "create table if not exists configs (run_id text primary key, config text)",
)


class StandIn:
    """trackio's storage, as far as it is used: rows with an identity that is known already are ignored."""

    seen: list[dict[str, str]] = []

    @staticmethod
    def _open():
        folder = sys.modules["trackio.sqlite_storage"].TRACKIO_DIR
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "lavo-bench.db")
        for line in SCHEMA:
            connection.execute(line)
        return closing(connection)

    @staticmethod
    def bulk_log(project, run, metrics_list, steps, timestamps, config, log_ids, run_id):
        assert project == "lavo-bench"
        StandIn.seen.append(dict(os.environ))
        with StandIn._open() as connection:
            rows = zip(steps, metrics_list, log_ids, strict=True)
            connection.executemany(
                "insert or ignore into metrics values (?, ?, ?, ?, ?)",
                [(run_id, step, json.dumps(one), log_id, run) for step, one, log_id in rows],
            )
            connection.execute("insert or replace into configs values (?, ?)", (run_id, json.dumps(config)))
            connection.commit()

    @staticmethod
    def delete_run(project, run, run_id):
        with StandIn._open() as connection:
            connection.execute("delete from metrics where run_id = ?", (run_id,))
            connection.commit()


@pytest.fixture
def trackio(monkeypatch):
    """trackio's storage if it is installed, else a stand-in; returns a reader of its file: (run, step, figures)."""
    if importlib.util.find_spec("trackio") is None:
        package, storage = types.ModuleType("trackio"), types.ModuleType("trackio.sqlite_storage")
        storage.SQLiteStorage = StandIn
        package.sqlite_storage = storage
        monkeypatch.setitem(sys.modules, "trackio", package)
        monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", storage)
        StandIn.seen = []

    def read(folder):
        with closing(sqlite3.connect(folder / "logs" / "trackio" / "lavo-bench.db")) as connection:
            rows = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
        return [(run, step, json.loads(figures)) for run, step, figures in rows]

    return read


def test_trackio_has_the_figures_of_every_step_and_what_the_cell_is(tmp_path, trackio):
    cells = planned("softmax", "lavo", seeds=(0, 1))
    for cell in cells:
        runner.run_cell(cell, place(tmp_path, "trackio"))
    rows = trackio(tmp_path)
    for cell in cells:
        record = results.read_record(cell.path(tmp_path))
        own = [row for row in rows if row[0] == cell.stem]
        loss = [figures["train/loss"] for _, _, figures in own if "train/loss" in figures]
        assert loss == pytest.approx(record.curves["training"]["loss"])
        assert [step for _, step, figures in own if "validation/mse" in figures] == [3, 6, 9]
    with closing(sqlite3.connect(tmp_path / "logs" / "trackio" / "lavo-bench.db")) as connection:
        config = dict(connection.execute("select run_id, config from configs").fetchall())
    assert set(config) == {cell.hash for cell in cells}
    for cell in cells:
        told = json.loads(config[cell.hash])
        assert {"attention": cell.attention, "seed": cell.seed, "hash": cell.hash}.items() <= told.items()
        assert "_Username" not in told


def test_trackio_reaches_nothing_outside_whatever_the_environment_says(tmp_path, trackio, monkeypatch):
    asked = []

    def refuse(*arguments, **_named):
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    set_before = {
        "TRACKIO_SPACE_ID": "me/mine",
        "TRACKIO_BUCKET_ID": "me/bucket",
        "TRACKIO_DATASET_ID": "me/data",
        "SPACE_REPO_NAME": "mine",
        "HF_TOKEN": "hf_secret",
        "TRACKIO_WEBHOOK_URL": "https://example.org",
    }
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    (cell,) = planned()
    before = dict(os.environ)
    runner.run_cell(cell, place(tmp_path, "trackio"))
    assert dict(os.environ) == before
    assert asked == []
    assert len(trackio(tmp_path)) == 9 + 3
    for seen in StandIn.seen:
        assert not set_before.keys() & seen.keys()
        assert seen["HF_HUB_OFFLINE"] == "1"


def test_a_log_that_fails_does_not_fail_the_cell(tmp_path, trackio, monkeypatch):
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage

    def locked(*_arguments, **_named):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(storage, "bulk_log", staticmethod(locked))
    (cell,) = planned()
    record = runner.run_cell(cell, place(tmp_path, "trackio", "tensorboard"))
    assert record.status == "completed"
    (line,) = (tmp_path / "logs" / "faults.txt").read_text().splitlines()
    assert line == f"trackio {cell.stem}: OperationalError: database is locked"
    assert logs.faults_in_words(tmp_path).startswith("; 1 are not complete")
    assert len(events(cell, tmp_path)[0]["train/loss"]) == 9
    logs.forget_faults(tmp_path)
    assert logs.faults_in_words(tmp_path) == ""


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_extra_is_named_before_anything_is_trained(tmp_path, monkeypatch, name):
    original = logs.importlib.util.find_spec
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda wanted: None if wanted == name else original(wanted))
    answer = lavo_bench("run", "toy", "--preset", "smoke", "--log", name, "-o", tmp_path / "out")
    assert answer.status == 2
    assert answer.err == f"lavo-bench: --log {name}: {name} is not installed: pip install 'lavo-bench[{name}]'\n"
    assert not (tmp_path / "out").exists()


def test_an_unknown_form_is_refused(tmp_path):
    answer = lavo_bench("run", "toy", "--preset", "smoke", "--log", "wandb", "-o", tmp_path / "out")
    assert (answer.status, answer.err) == (2, "lavo-bench: --log wandb: unknown; allowed: tensorboard, trackio\n")


@pytest.mark.slow
def test_workers_in_several_processes_write_files_of_their_own(tmp_path):
    run = RunSettings(
        tasks=["recall"], patterns=["causal_self"], attentions=["softmax", "none"], preset="smoke", seeds=[0]
    )
    cells = plan_cells([(run, [])], tmp_path / "cache")
    workers.run_cells(cells, place(tmp_path, "tensorboard"), jobs=2)
    assert len(cells) == 2
    for cell in cells:
        steps = [step for step, _ in events(cell, tmp_path)[0]["train/loss"]]
        assert steps == list(range(1, cell.config["train"]["steps"] + 1))
