"""The page docs/add-a-task.md, followed to the letter in a copy of the repository; and its task in this process."""

from __future__ import annotations

import os
import random
import re
import sys

import numpy as np
import pytest
from command_line import lavo_bench
from followed_page import ROOT, Copy, read_page
from test_every_task import BATTERY, loaded_once
from torch import nn

import tasks
from benchmark import registry
from benchmark.interface import CountsTokens, HasCurves, LossSum, PartsSequences
from benchmark.results import load, read_record, record_files
from benchmark.settings.models import TrainSettings

TEXT = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
PAGE = read_page("add-a-task.md")
pytestmark = pytest.mark.skipif("lookup" in registry.TASKS, reason="the page was followed here")

# Tests over the tables whose names do not say of which task they are.
TABLE_TESTS = """
tests/test_registry.py
tests/test_cli.py::test_list_names_every_task_attention_pattern_and_preset
tests/test_config.py::test_every_shipped_run_file_is_valid
tests/test_downloads.py
"""


def follow(copy: Copy) -> list[str]:
    """Makes the folder, the files and the line; the commands that come after them."""
    make_folder, *commands = PAGE.commands
    copy.run(make_folder)
    copy.write(PAGE)
    return commands


def test_the_page_is_followed_to_its_end(tmp_path):
    copy = Copy(tmp_path)
    commands, tests = follow(copy)
    said = copy.run(commands)
    assert re.search(r"lookup .*gpt .*causal_self", said)
    assert "2 cells, 0 of them done already" in said
    results = copy.root / "results" / "lookup"
    frame = load(results)
    assert set(frame["task"]) == {"lookup"}
    assert set(frame["status"]) == {"completed"}
    assert set(frame["n"]) == {16}
    record = read_record(record_files(results)[0])
    assert record.controls["chance"]["accuracy"] == pytest.approx(1 / 32)
    assert record.efficiency.tokens_per_second > 0
    text = (copy.root / "reports" / "lookup" / "report.md").read_text(encoding="utf-8")
    for word in ("lookup", "accuracy", "chance", "lavo"):
        assert word in text.lower(), word
    copy.run("ruff check tasks/lookup && ruff format --check tasks/lookup benchmark/registry.py")
    copy.check_types()
    table_tests = " ".join(TABLE_TESTS.split())
    copy.run(f"{tests.strip()} -n0 -m 'not slow'; python -m pytest -n0 -m 'not slow' {table_tests}")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LAVO_BENCH_WHOLE_SUITE_IN_COPY"), reason="asked for by an environment variable")
def test_the_whole_suite_passes_after_the_page_was_followed(tmp_path):
    copy = Copy(tmp_path)
    follow(copy)
    copy.run("ruff check . && ruff format --check . && mypy && lint-imports && python -m pytest -n 2", timeout=7200)


@pytest.fixture(scope="module", autouse=True)
def lookup(tmp_path_factory):
    """The folder among the tasks and the line in the table, until the last test of this file."""
    parent = tmp_path_factory.mktemp("page")
    (parent / "tasks" / "lookup").mkdir(parents=True)
    for path, text in {**PAGE.files, "tasks/lookup/__init__.py": ""}.items():
        (parent / path).write_text(text, encoding="utf-8")
    tasks.__path__.append(str(parent / "tasks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TASKS, "lookup", "tasks.lookup.task:Lookup")
        yield
    tasks.__path__.remove(str(parent / "tasks"))
    for module in [name for name in sys.modules if name.startswith("tasks.lookup")]:
        del sys.modules[module]
    loaded_once.cache_clear()


def test_the_page_is_a_page():
    assert list(PAGE.files) == [
        f"tasks/lookup/{name}" for name in ("data.py", "metrics.py", "task.py", "presets.yaml", "PROTOCOL.md")
    ]
    assert (PAGE.table, PAGE.line) == ("TASKS", '"lookup": "tasks.lookup.task:Lookup",')
    assert len(TEXT.splitlines()) < 280
    for path in re.findall(r"`((?:benchmark|tests)/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).exists(), path
    assert "TrainSettings" in TEXT
    assert TrainSettings.__module__ == "benchmark.settings.models"


def test_optional_parts_are_recognised_by_their_methods():
    lookup = registry.load_task("lookup")
    assert issubclass(lookup, CountsTokens)
    assert not issubclass(lookup, HasCurves)
    assert not issubclass(lookup, PartsSequences)
    assert issubclass(registry.load_task("language_modeling"), PartsSequences)


@pytest.mark.parametrize("check", BATTERY, ids=lambda check: check.__name__)
def test_the_battery_for_tasks_runs_on_it_at_once(check):
    check("lookup", "gpt")


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
    monkeypatch.setattr(registry.load_task("lookup"), attribute, broken)
    with pytest.raises(AssertionError):
        next(check for check in BATTERY if check.__name__ == name)("lookup", "gpt")


def test_the_battery_catches_data_that_differ(monkeypatch):
    monkeypatch.setattr("tasks.lookup.task.make_lookup", lambda _, **sizes: make_unseeded(**sizes))
    with pytest.raises(AssertionError):
        next(check for check in BATTERY if "reproducible" in check.__name__)("lookup", "gpt")


def make_unseeded(**sizes):
    from tasks.lookup.data import make_lookup

    return make_lookup(random.SystemRandom().randrange(2**32), **sizes)


def test_its_settings_are_checked_as_any_others():
    answer = lavo_bench("run", "lookup", "--preset", "smoke", "-a", "none", "--set", "data.num_pairs=99")
    assert answer.status == 2
    assert answer.err == (
        "lavo-bench: --set data.num_pairs=99: data: num_pairs 99 is more than num_symbols 32: keys differ\n"
    )


def test_the_same_seed_gives_the_same_bytes(lookup):
    """Stored results would be lost if the bytes moved: whoever changes them raises the version, and this figure."""
    from tasks.lookup.data import make_lookup

    splits = make_lookup(0, sizes=(3, 2, 2), num_pairs=2, num_symbols=4)
    assert splits.fingerprint == make_lookup(0, sizes=(3, 2, 2), num_pairs=2, num_symbols=4).fingerprint
    assert splits.fingerprint != make_lookup(1, sizes=(3, 2, 2), num_pairs=2, num_symbols=4).fingerprint
    for example in [*splits.train, *splits.validation, *splits.test]:
        pairs = example.reshape(4, 2).tolist()
        assert sorted(pairs[:2]) == sorted(pairs[2:])
        assert all(key < 4 <= value < 8 for key, value in pairs)
