"""Cells and their hashes: what decides a figure changes the hash, and nothing else does."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest
import toy_task
from command_line import lavo_bench

from benchmark import registry
from benchmark.settings.cell import Cell, digest
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, RunSettings
from benchmark.settings.plan import check_runs, plan_cells
from benchmark.settings.yaml_files import parse_assignment

PRESETS = "smoke:\n  train: {steps: 3, batch_size: 8, learning_rate: 0.01}\n  seeds: [0, 1]\n"
MINE = """
from benchmark import register_attention
from baselines.none import NoAttention

@register_attention("mine")
class Mine(NoAttention):
    version = 1
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path, own_registry):
    """The toy task in the registry."""
    toy_task.register(monkeypatch, tmp_path / "toy", PRESETS)


def plan(*assignments: str, attentions=("lavo",), **run) -> list[Cell]:
    settings = RunSettings(**{"tasks": ["toy"], "attentions": list(attentions), "preset": "smoke", "seeds": [0], **run})
    return plan_cells([(settings, [parse_assignment(text) for text in assignments])], Path("/dev/null/unused"))


def hashes(*assignments: str, **run) -> list[str]:
    return [cell.hash for cell in plan(*assignments, **run)]


def spec(label: str | None = None, **options) -> AttentionSpec:
    return AttentionSpec(name="lavo", label=label, options=options)


def test_planning_twice_is_the_same():
    assert plan(seeds=None, attentions=["all"]) == plan(seeds=None, attentions=["all"])


def test_a_hash_is_the_same_in_every_version_of_the_code():
    """A changed hash loses all stored results: whoever changes it raises a version, and this figure."""
    identity = {"b": [1, 2.5, None, True], "a": {"d": "é", "c": (1, 2)}}
    assert digest(identity) == digest({"a": {"c": [1, 2], "d": "é"}, "b": [1, 2.5, None, True]}) == "6c57d836afe0"


def test_the_order_of_settings_changes_no_hash():
    settings = ["train.steps=7", "train.batch_size=4", "model.dropout=0.2", "attentions.lavo.window=16"]
    expected = hashes(*settings)
    assert all(hashes(*order) == expected for order in itertools.permutations(settings))


def test_the_order_of_attentions_and_seeds_changes_no_hash():
    names = ["lavo", "softmax", "none", "flash"]
    expected = set(hashes(attentions=names, seeds=[0, 1, 2]))
    assert len(expected) == 12
    assert set(hashes(attentions=names[::-1], seeds=[2, 0, 1])) == expected


def test_the_order_of_options_changes_no_hash():
    options = {"window": 16, "rank": 2, "basis": "identity", "output": "sum"}
    expected = hashes(attentions=[spec(**options)])
    for seed in range(5):
        shuffled = dict(random.Random(seed).sample(list(options.items()), len(options)))
        assert hashes(attentions=[spec(**shuffled)]) == expected


def test_naming_a_default_changes_no_hash():
    assert hashes("train.steps=3", "model.dropout=0.1", "attentions.lavo.window=64") == hashes()
    assert hashes(attentions=[spec(window=64, output="sum")]) == hashes()
    assert hashes("train.optimizer=adamw", "train.micro_batch_size=null") == hashes()


def test_a_default_that_depends_on_a_size_is_stored_as_what_it_is():
    """toy_task has heads of 4."""
    assert hashes(attentions=[spec(basis="identity", rank=4)]) == hashes()
    (cell,) = plan()
    assert (cell.config["options"]["basis"], cell.config["options"]["rank"]) == ("identity", 4)
    (cell,) = plan(attentions=[spec(rank=2)])
    assert cell.config["options"]["basis"] == "learned"


def test_the_way_a_number_is_written_changes_no_hash():
    assert hashes("train.learning_rate=1e-2") == hashes("train.learning_rate=0.01") == hashes()
    assert hashes("train.learning_rate=1") == hashes("train.learning_rate=1.0")


def test_a_label_changes_no_hash():
    (labelled,) = plan(attentions=[spec(label="mine")])
    assert [labelled.hash] == hashes()
    assert (labelled.attention, labelled.variant) == ("lavo", "mine")
    assert labelled.path(Path("out")) == plan()[0].path(Path("out"))


def test_the_place_of_data_and_output_changes_no_hash(tmp_path):
    assert hashes(data_root=tmp_path) == hashes()


DIFFERENCES = {
    "steps": (["train.steps=4"], {}),
    "rate": (["train.learning_rate=0.02"], {}),
    "model": (["model.dropout=0.2"], {}),
    "data": (["data.num_examples=40"], {}),
    "option": (["attentions.lavo.window=32"], {}),
    "limit": ([], {"limit": 3}),
    "seed": ([], {"seeds": [1]}),
    "attention": ([], {"attentions": ["softmax"]}),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_what_decides_a_figure_changes_the_hash(difference):
    assignments, run = DIFFERENCES[difference]
    assert hashes(*assignments, **run) != hashes()


def test_all_differences_give_different_hashes():
    found = [hashes(*assignments, **run)[0] for assignments, run in DIFFERENCES.values()]
    assert len({*found, *hashes()}) == len(DIFFERENCES) + 1


def test_other_data_change_the_hash(monkeypatch):
    before = hashes()
    load = toy_task.Toy.load_data
    monkeypatch.setattr(toy_task.Toy, "load_data", lambda *a: load(*a)._replace(fingerprint="1" * 64))
    assert hashes() != before


@pytest.mark.parametrize("raised", ["task", "attention", "softmax"])
def test_a_raised_version_changes_the_hash(raised, monkeypatch):
    before = hashes()
    classes = {
        "task": toy_task.Toy,
        "attention": registry.load_attention("lavo"),
        "softmax": registry.load_attention("softmax"),  # all other attention of the backbone
    }
    monkeypatch.setattr(classes[raised], "version", 99)
    assert hashes() != before


def test_a_byte_of_an_included_file_changes_its_hash_and_no_others(tmp_path, monkeypatch):
    file, found = tmp_path / "mine.py", []
    for text in (MINE, MINE, MINE + "# a comment\n"):
        monkeypatch.setattr(registry, "_decorated", {})
        monkeypatch.setattr(registry, "_included", {})
        file.write_text(text, encoding="utf-8")
        registry.include_file(file)
        found.append(hashes(attentions=["mine", "lavo"]))
    assert found[0] == found[1]
    assert found[2][0] != found[0][0]
    assert found[2][1] == found[0][1]


def test_an_included_file_elsewhere_has_the_same_hash(tmp_path, monkeypatch):
    found = []
    for folder in ("here", "there"):
        monkeypatch.setattr(registry, "_decorated", {})
        monkeypatch.setattr(registry, "_included", {})
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE, encoding="utf-8")
        registry.include_file(tmp_path / folder / "mine.py")
        found += hashes(attentions=["mine"])
    assert found[0] == found[1]


def test_file_names_are_unique_and_can_be_written_everywhere():
    cells = plan(attentions=["all", *(spec(label=f"w{w}", window=w) for w in (8, 16))], seeds=[0, 1])
    paths = [cell.path(Path("out")) for cell in cells]
    assert len({str(path).lower() for path in paths}) == len(cells)
    for cell, path in zip(cells, paths, strict=True):
        assert re.fullmatch(r"net\.causal_self\.[a-z0-9_]+\.s\d+\.[0-9a-f]{12}\.json", path.name)
        assert path.parent == Path("out") / "toy"
        assert cell.name.hash in path.name


def test_a_cell_in_two_runs_is_planned_once():
    run = RunSettings(tasks=["toy"], attentions=["lavo", "none"], preset="smoke")
    other = RunSettings(tasks=["toy"], attentions=["lavo"], preset="smoke", seeds=[1, 5])
    cells = plan_cells([(run, []), (other, [])], Path("/dev/null/unused"))
    assert len(cells) == 5
    assert len({cell.hash for cell in cells}) == 5


def test_without_seeds_the_presets_run():
    assert [cell.seed for cell in plan(seeds=None)] == [0, 1]


def test_an_attention_that_declares_a_reason_is_planned_with_it(monkeypatch):
    monkeypatch.setattr(registry.load_attention("none"), "unsupported", {"causal_self": "has no memory"})
    assert [cell.unsupported for cell in plan(attentions=["none", "lavo"])] == ["has no memory", None]


def test_an_attention_that_refuses_when_it_is_built_is_planned_with_the_reason(monkeypatch):
    def refuse(self, **_options):
        raise registry.UnsupportedPattern("needs an odd width")

    monkeypatch.setattr(registry.load_attention("none"), "__init__", refuse)
    assert [cell.unsupported for cell in plan(attentions=["none"])] == ["needs an odd width"]


def test_every_cell_is_counted_without_reading_data(monkeypatch):
    def no_data(*_arguments):
        raise AssertionError("data were read")

    runs = [(RunSettings(tasks=["toy"], attentions=["lavo", "none"], preset="smoke"), [])]
    planned = len(plan_cells(runs, Path("/dev/null/unused")))
    monkeypatch.setattr(toy_task.Toy, "load_data", no_data)
    assert check_runs(runs) == planned == 4


def test_data_that_cannot_be_used_name_the_task(monkeypatch):
    def broken(*_arguments):
        raise ValueError("lines.csv, line 3: no number")

    monkeypatch.setattr(toy_task.Toy, "load_data", broken)
    with pytest.raises(ConfigError, match=r"^toy: lines\.csv, line 3: no number$"):
        plan()


def test_options_of_the_command_line_in_any_order_start_no_cell_twice(tmp_path, monkeypatch):
    """From the command line to the records: the second request is the first one in another order."""
    from benchmark.results import Record, write_record
    from benchmark.running import workers

    started = []

    def finish(cells, place, **_options):
        started.append(len(cells))
        for cell in cells:
            write_record(cell.path(place.output), Record(cell.name, "completed"))

    monkeypatch.setattr(workers, "run_cells", finish)
    common = ["--preset", "smoke", "-o", tmp_path / "out", "--cache", tmp_path / "cache"]
    first = ["-a", "lavo,none", "--seeds", "0,1", "--set", "train.steps=5", "--set", "model.dropout=0.3"]
    again = ["--set", "model.dropout=0.3", "--set", "train.steps=5", "--seeds", "1,0", "-a", "none,lavo"]
    assert lavo_bench("run", "toy", *common, *first).status == 0
    answer = lavo_bench("run", *again, *common, "toy")
    assert answer.status == 0
    assert "4 of them done already" in answer.out
    assert started == [4]
