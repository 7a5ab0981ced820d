"""Tuning: one grid for all, chosen on validation data, resumable, and used by ``run`` for exactly what was tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import toy_task
import yaml
from command_line import lavo_bench

from benchmark import registry, results
from benchmark.running import runner, workers
from benchmark.running.tune import GRID, Tuner
from benchmark.settings import tuned
from benchmark.settings.cell import Cell
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.tuned import Rates, best_rate, file_of, next_rates, read_rates, read_tuned
from benchmark.settings.yaml_files import parse_assignment

PRESETS = "smoke:\n  train: {steps: 6, batch_size: 8, learning_rate: 0.01}\n  seeds: [4, 5]\n"
INCLUDED = """
from benchmark.registry import register_attention
from correct_attentions import Softmax

@register_attention("mine")
class Mine(Softmax):
    exact = False
"""
LOWER = {"higher_is_better": False, "most": 6}


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path, own_registry):
    """The toy task of two sites."""
    toy_task.register(monkeypatch, tmp_path / "toy", PRESETS, "TwoSites")


def asked(*attentions: str, **run):
    return [(RunSettings(tasks=["toy"], attentions=list(attentions), preset="smoke", **run), [])]


class Trials:
    """A tuner whose trials run in this process; ``started`` are the cells that were trained."""

    def __init__(self, folder: Path, value=None) -> None:
        self.place = runner.Place(folder / "trials", folder / "cache", part="validation")
        self.folder, self.started, self.said = folder / "tuned", [], []
        self.tuner = Tuner(self.place, self.folder, self.run, self.said.append)
        self.value = value

    def run(self, cells) -> None:
        missing = runner.without_result(cells, self.place.output)
        for cell in runner.to_run(cells, self.place.output, missing):
            self.started.append(cell)
            if self.value is None:
                runner.run_cell(cell, self.place)
                continue
            value = self.value(cell)
            status = "failed" if value is None else "completed"
            metrics = {} if value is None else {"mse": results.MetricValue(value, 9)}
            reason = "Diverged: the loss is nan at step 3" if value is None else None
            record = results.Record(cell.name, status, reason=reason, metrics=metrics)
            results.write_record(cell.path(self.place.output), record)


def rate_of(cell: Cell) -> float:
    return cell.config["train"]["learning_rate"]


def test_the_grid_comes_first_and_an_edge_extends_it():
    grid = [0.1, 0.3, 1.0]
    assert next_rates({}, grid, **LOWER) == grid
    assert next_rates({0.1: 5.0}, grid, **LOWER) == [0.3, 1.0]
    inside = {0.1: 3.0, 0.3: 1.0, 1.0: 2.0}
    assert next_rates(inside, grid, **LOWER) == []
    assert next_rates({**inside, 1.0: 0.5}, grid, **LOWER) == [3.33]
    assert next_rates({**inside, 0.1: 0.5}, grid, **LOWER) == [0.0333]
    assert next_rates({**inside, 1.0: 0.5, 3.33: 0.2}, grid, **LOWER) == [11.1]
    assert next_rates({**inside, 1.0: 0.5, 3.33: 0.6}, grid, **LOWER) == []


def test_an_edge_is_extended_up_to_a_number_of_rates():
    falling = {10.0**power: -power for power in range(6)}
    assert next_rates(falling, [1.0, 10.0], higher_is_better=False, most=6) == []
    assert next_rates(falling, [1.0, 10.0], higher_is_better=False, most=7) == [1e6]


def test_a_single_rate_written_by_hand_has_no_edges():
    assert next_rates({0.1: 5.0}, [], **LOWER) == []
    assert next_rates({}, [], **LOWER) == []


def test_rates_at_which_training_diverged_are_never_chosen():
    assert best_rate({0.1: 2.0, 0.3: None, 1.0: float("nan")}, higher_is_better=False) == 0.1
    assert best_rate({0.1: None, 0.3: None}, higher_is_better=False) is None
    assert next_rates({0.1: None, 0.3: None, 1.0: None}, [0.1, 0.3, 1.0], **LOWER) == [0.0333]


def test_a_metric_of_which_higher_is_better():
    tried = {0.1: 2.0, 0.3: 9.0, 1.0: 3.0}
    assert best_rate(tried, higher_is_better=True) == 0.3
    assert best_rate(tried, higher_is_better=False) == 0.1


def test_of_two_equal_rates_the_lower_one_is_chosen():
    assert best_rate({1.0: 2.0, 0.1: 2.0}, higher_is_better=False) == 0.1


def test_all_attentions_get_the_same_grid_and_the_first_seed(tmp_path):
    trials = Trials(tmp_path, value=lambda cell: abs(rate_of(cell) - 0.01))
    assert trials.tuner.tune(asked("softmax", "flash", "none", "lavo")) == 0
    rates = {}
    for cell in trials.started:
        assert cell.seed == 4
        rates.setdefault((cell.attention, cell.pattern), set()).add(rate_of(cell))
    sites = ("noncausal_self", "causal_self", "every")
    assert set(rates) == {("softmax", "every"), *((name, site) for name in ("none", "lavo") for site in sites)}
    assert all(found == {0.00333, 0.01, 0.03} for found in rates.values())


def test_a_file_tells_everything_that_was_tried(tmp_path):
    trials = Trials(tmp_path, value=lambda cell: None if rate_of(cell) > 0.02 else 1 / rate_of(cell))
    trials.tuner.tune(asked("none", patterns=["every"]))
    (chosen,) = read_tuned(file_of(trials.folder, "toy", "smoke")).chosen
    assert chosen.tried == ((0.00333, pytest.approx(300.3, abs=0.1)), (0.01, 100.0), (0.03, None))
    assert (chosen.learning_rate, chosen.sites, chosen.attention, chosen.seed) == (0.01, ("every",), "none", 4)


def test_tuning_again_trains_nothing_and_writes_the_same_bytes(tmp_path):
    first = Trials(tmp_path, value=rate_of)
    first.tuner.tune(asked("none", "softmax"))
    written = file_of(first.folder, "toy", "smoke").read_bytes()
    again = Trials(tmp_path, value=rate_of)
    assert again.tuner.tune(asked("softmax", "none")) == 0
    assert again.started == []
    assert file_of(first.folder, "toy", "smoke").read_bytes() == written


def test_what_was_tried_is_known_without_its_records(tmp_path):
    """The folder of trials need not be kept: the file says what was tried."""
    first = Trials(tmp_path, value=rate_of)
    first.tuner.tune(asked("none", patterns=["every"]))
    for path in first.place.output.rglob("*.json"):
        path.unlink()
    again = Trials(tmp_path, value=rate_of)
    again.tuner.tune(asked("none", patterns=["every"]))
    assert again.started == []


def test_values_of_another_metric_are_left_out(tmp_path):
    """A task whose selection metric changes is tuned anew."""
    trials = Trials(tmp_path, value=rate_of)
    trials.tuner.tune(asked("none", patterns=["every"]))
    path = file_of(trials.folder, "toy", "smoke")
    path.write_text(path.read_text().replace("metric: mse", "metric: mcd"))
    again = Trials(tmp_path / "again", value=rate_of)
    again.folder = again.tuner.folder = trials.folder
    again.tuner.tune(asked("none", patterns=["every"]))
    assert again.started
    assert (read_tuned(path).metric, len(read_tuned(path).chosen)) == ("mse", 1)


def test_rows_that_differ_in_options_keep_a_rate_each_and_older_settings_go(tmp_path):
    variants = [{"name": "lavo", "label": f"w{window}", "options": {"window": window}} for window in (4, 8)]
    both = [(RunSettings(tasks=["toy"], attentions=variants, preset="smoke"), [])]
    trials = Trials(tmp_path, lambda cell: rate_of(cell) * (1 if cell.config["options"]["window"] == 4 else -1))
    trials.tuner.tune(both)
    rates = read_rates(trials.folder)
    found = [cell.config["train"]["learning_rate"] for cell in plan_cells(both, tmp_path / "cache", rates)]
    assert len(set(found)) == 2
    assert (
        len(read_tuned(file_of(trials.folder, "toy", "smoke")).chosen) == len(set(found)) * 3
    )  # two sites and all of them
    trials.tuner.tune(asked("lavo"))
    assert len(read_tuned(file_of(trials.folder, "toy", "smoke")).chosen) == 3


def test_an_attention_that_always_diverges_has_no_rate(tmp_path):
    trials = Trials(tmp_path, value=lambda _: None)
    assert trials.tuner.tune(asked("none", patterns=["every"])) == 1
    assert len(trials.started) == 6
    assert read_tuned(file_of(trials.folder, "toy", "smoke")).chosen == ()
    assert any("no rate works" in line for line in trials.said)


def test_a_trial_that_failed_is_no_result_and_is_tried_again(tmp_path, monkeypatch):
    """Only training that diverged says something of a rate."""
    trials, original = Trials(tmp_path), toy_task.TwoSites.score
    is_broken = True

    def score(self, *rest):
        if is_broken and rate_of(trials.started[-1]) == 0.00333:
            raise NameError("name 'Sums' is not defined")
        return original(self, *rest)

    monkeypatch.setattr(toy_task.TwoSites, "score", score)
    assert trials.tuner.tune(asked("none", patterns=["every"])) == 1
    assert any("NameError" in line for line in trials.said)
    (chosen,) = read_tuned(file_of(trials.folder, "toy", "smoke")).chosen
    assert [rate for rate, _ in chosen.tried] == [0.01, 0.03]
    assert chosen.grid == (0.00333, 0.01, 0.03)
    assert read_rates(trials.folder).chosen("toy", chosen.key) is None
    is_broken = False
    trials.started.clear()
    assert trials.tuner.tune(asked("none", patterns=["every"])) == 0
    assert 0.00333 in {rate_of(cell) for cell in trials.started}
    (chosen,) = read_tuned(file_of(trials.folder, "toy", "smoke")).chosen
    assert 0.00333 in dict(chosen.tried)
    assert read_rates(trials.folder).chosen("toy", chosen.key) == chosen.learning_rate


def test_a_rate_that_was_chosen_on_few_examples_does_not_count_for_all(tmp_path):
    """Nor one for an included file that has changed since."""
    trials, path = Trials(tmp_path, value=rate_of), tmp_path / "mine.py"

    def keys():
        return {chosen.key for chosen in read_tuned(file_of(trials.folder, "toy", "smoke")).chosen}

    trials.tuner.tune(asked("none", patterns=["every"], limit=2))
    part = keys()
    trials.tuner.tune(asked("none", patterns=["every"]))
    assert not part & keys()
    found = []
    for extra in ("", "# edited\n"):
        path.write_text(INCLUDED + extra, encoding="utf-8")
        registry.include_file(path)
        trials.tuner.tune(asked("mine", patterns=["every"]))
        found += [key for key in keys() if key.attention == "mine"]
    assert len(set(found)) == 2


def test_a_trial_never_sees_test_data(tmp_path, monkeypatch):
    scored = []
    original = toy_task.Toy.load_data

    def without_test(self, data_root, cache):
        splits = original(self, data_root, cache)
        return splits._replace(test=Untouchable())

    class Untouchable(list):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise AssertionError("a trial read a test example")

    monkeypatch.setattr(toy_task.Toy, "load_data", without_test)
    monkeypatch.setattr(toy_task.Toy, "controls", lambda self: scored.append(1))
    trials = Trials(tmp_path)
    assert trials.tuner.tune(asked("none", patterns=["every"])) == 0
    assert len(trials.started) >= len(GRID)
    assert scored == []
    record = results.read_record(trials.started[0].path(trials.place.output))
    assert record.metrics["mse"].n == 9  # the number of validation examples


def plan(rates: Rates, *attentions: str, assignments=(), **run) -> list[Cell]:
    runs = [(settings, [parse_assignment(text) for text in assignments]) for settings, _ in asked(*attentions, **run)]
    return plan_cells(runs, Path("/dev/null/unused"), rates)


def test_run_uses_tuned_rates_and_flash_those_of_softmax(tmp_path):
    best = {"softmax": 0.03, "none": 0.00333, "lavo": 0.01}
    trials = Trials(tmp_path, value=lambda cell: abs(rate_of(cell) - best[cell.attention]))
    trials.tuner.tune(asked("softmax", "none"))
    cells = plan(read_rates(trials.folder), "softmax", "flash", "none", "lavo")
    found = {cell.attention: (rate_of(cell), cell.rate_from) for cell in cells}
    assert found == {
        "softmax": (0.03, "tuned"),
        "flash": (0.03, "tuned"),
        "none": (0.00333, "tuned"),
        "lavo": (0.01, "preset"),
    }
    untuned = plan(Rates(), "softmax", "none", "lavo")
    assert {cell.hash for cell in untuned if cell.attention == "none"}.isdisjoint(cell.hash for cell in cells)
    assert {cell.hash for cell in untuned if cell.attention == "lavo"} <= {cell.hash for cell in cells}


@pytest.mark.parametrize(
    "changed",
    ["train.steps=7", "model.dropout=0.3", "data.num_test=5", "attentions.lavo.window=8"],
)
def test_a_rate_counts_only_for_the_settings_that_it_was_tuned_for(tmp_path, changed):
    trials = Trials(tmp_path, value=rate_of)
    trials.tuner.tune(asked("lavo", patterns=["every"]))
    rates = read_rates(trials.folder)
    assert {cell.rate_from for cell in plan(rates, "lavo", patterns=["every"])} == {"tuned"}
    assert {cell.rate_from for cell in plan(rates, "lavo", patterns=["every"], assignments=[changed])} == {"preset"}
    assert {cell.rate_from for cell in plan(rates, "lavo", patterns=["causal_self"])} == {"preset"}


def test_a_rate_counts_only_when_its_grid_has_been_searched_to_the_end(tmp_path):
    """A tuning that was cut off may have its best rate so far at an edge."""

    class Cut(Trials):
        def run(self, cells) -> None:
            if self.started:
                raise KeyboardInterrupt
            super().run(cells)

    best = {"none": 0.09, "softmax": 0.01}
    cut = Cut(tmp_path, value=lambda cell: abs(rate_of(cell) - best[cell.attention]))
    with pytest.raises(KeyboardInterrupt):
        cut.tuner.tune(asked("softmax", "none"))
    found = {
        cell.attention: (rate_of(cell), cell.rate_from) for cell in plan(read_rates(cut.folder), "softmax", "none")
    }
    assert found == {"softmax": (0.01, "tuned"), "none": (0.01, "preset")}
    again = Trials(tmp_path, value=cut.value)
    again.tuner.tune(asked("softmax", "none"))
    assert {rate_of(cell) for cell in again.started} == {0.09, 0.27}
    assert {rate_of(cell) for cell in plan(read_rates(cut.folder), "none")} == {0.09}


def test_a_rate_given_by_hand_wins(tmp_path):
    trials = Trials(tmp_path, value=rate_of)
    trials.tuner.tune(asked("none"))
    cells = plan(read_rates(trials.folder), "none", assignments=["train.learning_rate=0.5"])
    assert {(rate_of(cell), cell.rate_from) for cell in cells} == {(0.5, "set")}


def test_another_version_of_an_attention_is_not_tuned_yet(tmp_path, monkeypatch):
    from benchmark.registry import load_attention

    trials = Trials(tmp_path, value=rate_of)
    trials.tuner.tune(asked("none"))
    monkeypatch.setattr(load_attention("none"), "version", 99)
    assert {cell.rate_from for cell in plan(read_rates(trials.folder), "none")} == {"preset"}


def test_the_record_says_where_its_rate_is_from(tmp_path):
    (cell,) = plan(Rates(), "none", patterns=["every"], seeds=[0])
    place = runner.Place(tmp_path / "out", tmp_path / "cache")
    record = runner.run_cell(replace(cell, rate_from="tuned"), place)
    assert results.read_record(record.path).config.learning_rate_from == "tuned"


def test_verifying_doubles_the_steps_at_the_tuned_rate(tmp_path):
    trials = Trials(tmp_path, value=lambda cell: abs(rate_of(cell) - 0.03) + (cell.attention == "none"))
    trials.tuner.tune(asked("softmax", "none"))
    trials.started.clear()
    assert trials.tuner.verify(asked("softmax", "none"), read_rates(trials.folder)) == 0
    assert {(cell.config["train"]["steps"], rate_of(cell)) for cell in trials.started} == {(12, 0.03)}
    assert len(trials.started) == 2 * (1 + 3)  # two seeds of one softmax, and of none at three sites
    file = read_tuned(file_of(trials.folder, "toy", "smoke"))
    assert [one.site for one in file.verified] == ["causal_self", "every", "noncausal_self"]
    for one in file.verified:
        assert (one.steps, one.metric, one.seeds) == (12, "mse", (4, 5))
        assert one.none == pytest.approx([value + 1 for value in one.softmax])
    assert len(file.chosen) == 4


def test_the_command_writes_rates_that_run_then_uses(tmp_path, monkeypatch):
    def here(cells, place, **_options):  # a worker process would not know the toy task
        for cell in cells:
            runner.run_cell(cell, place)

    monkeypatch.setattr(workers, "run_cells", here)
    common = ["toy", "--preset", "smoke", "--cache", tmp_path / "cache", "--tuned", tmp_path / "tuned", "--jobs", "1"]
    few = [*common, "-a", "none", "--pattern", "every"]
    answer = lavo_bench("tune", *few, "--grid", "1/3,1", "-o", tmp_path / "trials")
    assert answer.status == 0, answer
    rate = read_tuned(file_of(tmp_path / "tuned", "toy", "smoke")).chosen[0].learning_rate
    assert lavo_bench("run", *few, "--seeds", "4", "-o", tmp_path / "out").status == 0
    (record,) = results.records([tmp_path / "out"])
    assert record.config.train["learning_rate"] == rate
    assert record.config.learning_rate_from == "tuned"


def test_an_installation_verifies_with_its_own_rates_and_those_that_came_with_it(tmp_path, monkeypatch):
    seen = []

    def here(cells, place, **_options):
        seen.extend(map(rate_of, cells))
        for cell in cells:
            runner.run_cell(cell, place)

    monkeypatch.setattr(workers, "run_cells", here)
    shipped = Trials(tmp_path / "shipped", value=lambda cell: abs(rate_of(cell) - 0.03))
    shipped.tuner.tune(asked("softmax", "none", patterns=["every"]))
    own = Trials(tmp_path / "own", value=lambda cell: abs(rate_of(cell) - 0.00333))
    own.tuner.tune(asked("none", patterns=["every"]))
    monkeypatch.setattr(tuned, "FOLDER", shipped.folder)
    monkeypatch.setattr(tuned, "OWN", own.folder)
    monkeypatch.setattr(tuned, "IS_INSTALLED", True)
    places = ["--cache", tmp_path / "cache", "-o", tmp_path / "trials", "--jobs", "1"]
    assert lavo_bench("tune", "toy", "--preset", "smoke", "--pattern", "every", "--verify", *places).status == 0
    assert sorted(seen) == [0.00333, 0.00333, 0.03, 0.03]
    (verified,) = read_tuned(file_of(own.folder, "toy", "smoke")).verified
    assert verified.learning_rates == (0.03, 0.00333)


@pytest.mark.parametrize("grid", ["1", "1,1", "0,1", "-1,1", "a,b", "1/0,1", ","])
def test_a_grid_that_is_none_is_refused(grid):
    answer = lavo_bench("tune", "toy", "--grid", grid)
    assert answer.status == 2
    assert "--grid" in answer.err


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("task: toy\n", "preset"),
        ("[1, 2]\n", "key: value"),
        ("task: toy\npreset: smoke\nmetric: mse\nhigher_is_better: false\nchosen: [{backbone: net}]\n", "chosen"),
        ("task: toy\npreset: smoke\nmetric: mse\nhigher_is_better: false\nextra: 1\n", "extra"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, key):
    (tmp_path / "smoke.toy.yaml").write_text(text)
    with pytest.raises(ConfigError, match=key) as caught:
        read_rates(tmp_path)
    assert "smoke.toy.yaml" in str(caught.value)


def test_files_of_the_repository_can_be_read():
    from benchmark.settings.tuned import FOLDER

    for path in FOLDER.glob("*.yaml"):
        file = read_tuned(path)
        assert path == file_of(FOLDER, file.task, file.preset)
        for chosen in file.chosen:
            assert chosen.learning_rate == best_rate(dict(chosen.tried), higher_is_better=file.higher_is_better)
        assert yaml.safe_load(path.read_text())["task"] == file.task
