"""The page docs/add-a-task.md, followed to the letter: one folder, one line, and everything knows the task."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import lavo_bench
from test_every_task import BATTERY, loaded_once
from torch import nn

import tasks
from benchmark import registry
from benchmark.interface import LossSum
from benchmark.results import load, read_record, record_files
from benchmark.running import runner, workers
from benchmark.settings.models import TrainSettings

PAGE = Path(__file__).parents[1] / "docs" / "add-a-task.md"
TEXT = PAGE.read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """The files of the page: each block of code follows the line that names it."""
    found = re.findall(
        r"^`tasks/recall/([\w.]+)`[^`]*?(?:`[^`\n]+`[^`]*?)*?```\w+\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE
    )
    return dict(found)


def line() -> tuple[str, str]:
    """The line for the table."""
    ((name, target),) = re.findall(r'^"(\w+)": "([\w.]+:\w+)",$', TEXT, re.MULTILINE)
    return name, target


@pytest.fixture(scope="module", autouse=True)
def recall(tmp_path_factory):
    """The folder among the tasks, the line in the table, and neither afterwards."""
    parent = tmp_path_factory.mktemp("tasks")
    folder = parent / "recall"
    folder.mkdir()
    for name, text in {**files(), "__init__.py": "", "PROTOCOL.md": "# Recall\n"}.items():
        (folder / name).write_text(text, encoding="utf-8")
    tasks.__path__.append(str(parent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TASKS, *line())
        yield folder
    tasks.__path__.remove(str(parent))
    for module in [name for name in sys.modules if name.startswith("tasks.recall")]:
        del sys.modules[module]
    loaded_once.cache_clear()


@pytest.fixture
def in_this_process(monkeypatch, tmp_path):
    """A spawned worker would read the table anew, without the line: cells run here."""

    def run_cells(cells, place, *, listen, **_options):
        for cell in cells:
            listen(runner.Event("start", cell))
            listen(runner.Event("end", cell, record=runner.run_cell(cell, place, listen)))

    monkeypatch.setattr(workers, "run_cells", run_cells)
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    monkeypatch.setenv("LAVO_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_page_has_all_the_files():
    assert list(files()) == ["data.py", "metrics.py", "task.py", "presets.yaml"]
    assert line() == ("recall", "tasks.recall.task:Recall")


def test_the_page_is_a_page():
    assert len(TEXT.splitlines()) < 230
    for path in re.findall(r"`((?:benchmark|tests)/[\w/]+\.py)`", TEXT):
        assert (PAGE.parents[1] / path).exists(), path
    assert "TrainSettings" in TEXT
    assert TrainSettings.__module__ == "benchmark.settings.models"


@pytest.mark.parametrize("check", BATTERY, ids=lambda check: check.__name__)
def test_the_battery_for_tasks_runs_on_it_at_once(check):
    check("recall", "gpt")


def depends_on_neighbours(task, model, batch):
    """Nats that grow with the batch."""
    nats, right = task._answers(model, batch)
    return {"accuracy": right, "nats": nats.double().mean(-1) * len(right)}


SABOTEURS = {
    "check_no_batch_size_changes_a_figure": ("score", depends_on_neighbours),
    "check_four_examples_are_learnt_by_heart": ("loss", lambda task, model, batch: loss_without_a_model(model)),
    "check_controls_cover_every_metric": (
        "controls",
        lambda task: {"chance": dict.fromkeys(("accuracy", "nats"), np.full(16, np.nan))},
    ),
    "check_every_declared_pattern_has_a_layer": ("build_model", lambda task, attention_for: nn.Linear(1, 1)),
    "check_its_card_is_whole": ("selection", "perplexity"),
}


def loss_without_a_model(model):
    """A loss that is the same whatever the model says."""
    parameter = next(model.parameters()).flatten()[0]
    return LossSum(1 + parameter - parameter, 1)


@pytest.mark.parametrize("name", SABOTEURS)
def test_the_battery_catches_its_saboteurs(name, monkeypatch):
    attribute, broken = SABOTEURS[name]
    monkeypatch.setattr(registry.load_task("recall"), attribute, broken)
    with pytest.raises(AssertionError):
        next(check for check in BATTERY if check.__name__ == name)("recall", "gpt")


def test_the_battery_catches_data_that_differ(monkeypatch):
    monkeypatch.setattr("tasks.recall.task.make_recall", lambda _, **sizes: make_unseeded(**sizes))
    with pytest.raises(AssertionError):
        next(check for check in BATTERY if "reproducible" in check.__name__)("recall", "gpt")


def make_unseeded(**sizes):
    from tasks.recall.data import make_recall

    return make_recall(random.SystemRandom().randrange(2**32), **sizes)


def test_list_knows_it():
    (row,) = [row for row in lavo_bench("list", "tasks").out.splitlines() if "recall" in row]
    assert "gpt" in row
    assert "causal_self" in row


def test_it_runs_and_the_report_knows_it(in_this_process, tmp_path):
    arguments = ["--preset", "smoke", "-a", "lavo,softmax", "--device", "cpu", "-o", "out"]
    answer = lavo_bench("run", "recall", *arguments)
    assert answer.status == 0, answer.err
    assert "2 cells, 0 of them done already" in answer.out
    frame = load(tmp_path / "out")
    assert set(frame["task"]) == {"recall"}
    assert set(frame["status"]) == {"completed"}
    assert set(frame["n"]) == {16}
    record = read_record(record_files(tmp_path / "out")[0])
    assert record.controls["chance"]["accuracy"] == pytest.approx(1 / 32)
    answer = lavo_bench("report", "out", "-o", "report")
    assert answer.status == 0, answer.err
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for word in ("recall", "accuracy", "chance", "lavo"):
        assert word in text.lower(), word


def test_its_settings_are_checked_as_any_others(in_this_process):
    answer = lavo_bench("run", "recall", "--preset", "smoke", "-a", "none", "--set", "data.num_pairs=99")
    assert answer.status == 2
    assert answer.err == (
        "lavo-bench: --set data.num_pairs=99: data: num_pairs 99 is more than num_symbols 32: keys differ\n"
    )


def test_the_same_seed_gives_the_same_bytes(recall):
    """Stored results would be lost if the bytes moved: whoever changes them raises the version, and this figure."""
    from tasks.recall.data import make_recall

    splits = make_recall(0, sizes=(3, 2, 2), num_pairs=2, num_symbols=4)
    assert splits.fingerprint == make_recall(0, sizes=(3, 2, 2), num_pairs=2, num_symbols=4).fingerprint
    assert splits.fingerprint != make_recall(1, sizes=(3, 2, 2), num_pairs=2, num_symbols=4).fingerprint
    for example in [*splits.train, *splits.validation, *splits.test]:
        pairs = example.reshape(4, 2).tolist()
        assert sorted(pairs[:2]) == sorted(pairs[2:])
        assert all(key < 4 <= value < 8 for key, value in pairs)
