"""Sweeps over settings: equal budgets by plan, nothing trained twice, rates and choices by validation alone, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_task
from command_line import lavo_bench
from test_tune import Trials, asked, rate_of

from benchmark import registry, results
from benchmark.report import build_report
from benchmark.report.sensitivity import (
    changes,
    found_sensitivities,
    scale_of,
    validation_values,
    value_figure,
    value_table,
)
from benchmark.running import runner, workers
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.tuned import Rates, read_rates
from benchmark.settings.varied import FILE_NAME, Varied, VariedCells, add_varied, only_varied, read_varied
from benchmark.settings.vary import parse_vary, plan_sweep, sweep_runs
from benchmark.settings.yaml_files import parse_assignment

PRESETS = "smoke:\n  train: {steps: 6, batch_size: 8, learning_rate: 0.01}\n  seeds: [4, 5]\n"


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path, own_registry):
    """The toy task of two sites; caches that a plan names are made in the test's folder."""
    monkeypatch.chdir(tmp_path)
    toy_task.register(monkeypatch, tmp_path / "toy", PRESETS, "TwoSites")


def planned(*vary: str, rates=None, assignments=(), own_rates=False, attentions=("lavo",), **run):
    settings = RunSettings(tasks=["toy"], attentions=list(attentions), preset="smoke", **run)
    runs = sweep_runs(settings, [parse_assignment(text) for text in assignments], [parse_vary(text) for text in vary])
    return plan_sweep(runs, Path("/dev/null/unused"), rates or Rates(), own_rates=own_rates)


def cells_of(plan, one: VariedCells):
    return [cell for wanted in one.hashes for cell in plan.cells if cell.hash == wanted]


HERE = {"patterns": ["causal_self"]}


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("lavo.window=16,32", "attentions.lavo.window", [16, 32]),
        ("attentions.lavo.window=16, 32,16", "attentions.lavo.window", [16, 32]),
        ("train.learning_rate=1e-3,3e-3", "train.learning_rate", [1e-3, 3e-3]),
        ("lavo.rank=null,8", "attentions.lavo.rank", [None, 8]),
        ("lavo.output=sum,joint", "attentions.lavo.output", ["sum", "joint"]),
        ("train.betas=[0.9, 0.95],[0.8, 0.99]", "train.betas", [[0.9, 0.95], [0.8, 0.99]]),
        ('model.text="1","a,b"', "model.text", ["1", "a,b"]),
        ("forecasting.data.pred_len=24,48", "forecasting.data.pred_len", [24, 48]),
        ("lstf.data.pred_len=24", "lstf.data.pred_len", [24]),
        ("lavo.position_bias=true,false", "attentions.lavo.position_bias", [True, False]),
    ],
)
def test_values_are_read_like_those_of_set(text, key, values):
    vary = parse_vary(text)
    assert {one.key for one in vary.overrides} == {key}
    assert [one.value for one in vary.overrides] == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("window=16", "window is an option of lavo: write lavo.window"),
        ("steps=5,6", "steps is a setting of train: write train.steps"),
        ("lavo=3", "lavo is an attention: write lavo.OPTION"),
        ("train=3", "train is a group of settings: write train.NAME"),
        ("lm.attentions.lavo.window=3", "write lavo.window"),
        ("lvao.window=16", "did you mean lavo?"),
        ("lavo.window", "must be key=value,value"),
        ("lavo.window=", "must be key=value,value"),
        ("=3", "must be key=value,value"),
    ],
)
def test_a_wrong_key_is_told_the_right_one(text, said):
    answer = lavo_bench("sweep", "toy", "--vary", text)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.startswith(f"lavo-bench: --vary {text}: ")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("lavo.window=32", "lavo is an attention: write attentions.lavo.window"),
        ("window=32", "window is an option of lavo: write attentions.lavo.window"),
        ("steps=5", "steps is a setting of train: write train.steps"),
        ("num_layers=2", "num_layers is a setting of model: write model.num_layers"),
        ("nonsense=2", "it begins with one of data, model, eval, train"),
    ],
)
def test_set_names_the_right_key_too(assignment, said, tmp_path):
    answer = lavo_bench("run", "toy", "--preset", "smoke", "-a", "lavo", "--set", assignment, "-o", tmp_path / "out")
    assert answer.status == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_every_value_has_the_same_budget_and_the_rate_of_the_default(tmp_path):
    """The default was tuned, and a window of 4 was not: it must not get the preset's rate."""
    trials = Trials(tmp_path, value=lambda cell: abs(rate_of(cell) - 0.03))
    trials.tuner.tune(asked("lavo", "softmax", patterns=["causal_self"]))
    plan = planned("lavo.window=4,8,64", rates=read_rates(trials.folder), **HERE)
    (varied,) = plan.varied
    assert (varied.key, varied.rates, varied.pattern) == ("lavo.window", "default", "causal_self")
    assert {(one.value, one.is_default) for one in varied.varied} == {(4, False), (8, False), (64, True)}
    budgets = set()
    for one in varied.varied:
        cells = cells_of(plan, one)
        assert [cell.seed for cell in cells] == [4, 5]
        assert {cell.config["options"]["window"] for cell in cells} == {one.value}
        budgets |= {json.dumps([cell.config[key] for key in ("data", "model", "train", "limit")]) for cell in cells}
    assert len(budgets) == 1
    assert {(rate_of(cell), cell.rate_from) for cell in plan.cells if cell.attention == "lavo"} == {(0.03, "tuned")}


def test_the_defaults_are_the_cells_of_an_ordinary_run(tmp_path):
    trials = Trials(tmp_path, value=lambda cell: abs(rate_of(cell) - 0.03))
    trials.tuner.tune(asked("lavo"))
    rates = read_rates(trials.folder)
    plan = planned("lavo.window=4,64", "train.learning_rate=0.5", rates=rates)
    ordinary = {cell.hash for cell in plan_cells(asked("lavo", "softmax", "none"), Path("/dev/null/unused"), rates)}
    hashes = [cell.hash for cell in plan.cells]
    assert len(hashes) == len(set(hashes))
    assert ordinary <= set(hashes)
    assert only_varied(plan.varied) == set(hashes) - ordinary
    assert len(plan.varied) == 2 * 3  # two settings at two sites and at all of them


def test_a_shared_setting_is_varied_for_all_attentions_and_an_option_for_its_own(tmp_path):
    plan = planned("model.num_layers=1,2", "lavo.window=4", attentions=("softmax", "performer"), **HERE)
    layers, window = plan.varied
    assert {one.attention for one in layers.varied} == {"softmax", "performer"}
    assert {one.attention for one in layers.references} == {"none"}
    assert {one.attention for one in window.varied} == {"lavo"}
    assert {one.attention for one in window.references} == {"softmax", "none"}
    for one in layers.varied:
        assert {cell.config["model"]["num_layers"] for cell in cells_of(plan, one)} == {one.value}


def test_a_varied_rate_is_the_rate():
    plan = planned("train.learning_rate=0.5,0.01", **HERE)
    (varied,) = plan.varied
    assert varied.rates == "varied"
    found = {one.value: {(rate_of(c), c.rate_from) for c in cells_of(plan, one)} for one in varied.varied}
    assert found == {0.5: {(0.5, "set")}, 0.01: {(0.01, "preset")}}  # the second is the default
    assert [one.value for one in varied.varied if one.is_default] == [0.01]


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match=r"--set train.steps=5: train.steps is varied"):
        planned("train.steps=3", assignments=["train.steps=5"])
    with pytest.raises(ConfigError, match=r"lavo\.window: is given twice"):
        planned("lavo.window=3", "lavo.window=4")
    with pytest.raises(ConfigError, match="window must be an integer"):
        planned("lavo.window=0")
    answer = lavo_bench("sweep", "toy", "--preset", "smoke", "-a", "lavo", "--vary", "train.learning_rate=1", "--tune")
    assert answer.status == 2
    assert "--tune: train.learning_rate is varied" in answer.err


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Calls ``sweep`` with workers in this process; ``command.trained`` are the cells that were trained."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, output=tmp_path / "out"):
        call.trained = []

        def here(cells, place, *, listen=lambda _: None, **_options):
            for cell in cells:
                call.trained.append((cell, place.part))
                listen(runner.Event("end", cell, record=runner.run_cell(cell, place)))

        monkeypatch.setattr(workers, "run_cells", here)
        shared = ["--preset", "smoke", "--cache", tmp_path / "cache", "--tuned", tmp_path / "tuned", "--jobs", "1"]
        return lavo_bench("sweep", "toy", *shared, "--pattern", "causal_self", "-o", output, *arguments)

    return call


def test_a_sweep_from_end_to_end_and_again(command, tmp_path, monkeypatch):
    answer = command("--vary", "lavo.window=2,4")
    assert answer.status == 0, answer.err
    assert (
        "lavo.window = 2, 4, 64 (default); each value has 2 seeds, 6 steps and the learning rate of the default"
        in answer.out
    )
    assert len(command.trained) == 2 * (3 + 2)  # two seeds of three windows, of softmax and of none
    records = results.records([tmp_path / "out"])
    assert len(records) == 10
    assert {record.status for record in records} == {"completed"}

    assert command("--vary", "lavo.window=2,4").status == 0
    assert command.trained == []
    lost = next(record for record in records if record.config.options.get("window") == 2)
    lost.path.unlink()
    assert command("--vary", "lavo.window=2,4").status == 0
    assert [cell.hash for cell, _ in command.trained] == [lost.cell.hash]

    assert command("--vary", "lavo.window=8").status == 0
    assert {cell.config["options"]["window"] for cell, _ in command.trained} == {8}
    (varied,) = read_varied(tmp_path / "out")
    assert {one.value for one in varied.varied} == {2, 4, 8, 64}

    monkeypatch.delitem(registry.TASKS, "toy")  # the report then knows it by its records alone
    built = build_report([tmp_path / "out"], tmp_path / "report")
    text = built.markdown.read_text()
    section = text[text.index("Sensitivity") :]
    for label in ("lavo, 2", "lavo, 4", "lavo, 8", "lavo, 64 (default)"):
        assert f"| {label} |" in section
    assert "window 2" not in text  # the tables of the defaults have no row of it
    assert any((tmp_path / "report" / "figures").glob("sensitivity-*.svg"))
    assert not build_report([tmp_path / "out"], tmp_path / "report").changed
    (tmp_path / "out" / FILE_NAME).unlink()
    assert build_report([tmp_path / "out"], tmp_path / "report").changed


def test_with_tune_each_value_has_its_own_rate_from_validation(command, tmp_path, monkeypatch):
    best = {2: 0.03, 64: 0.00333}
    original = runner.run_cell

    def judged(cell, place, *rest):
        """Trials are judged by a law instead of training; the test part is trained as usual."""
        if place.part != "validation":
            return original(cell, place, *rest)
        away = abs(rate_of(cell) - best.get(cell.config["options"].get("window"), 0.01))
        metrics = {"mse": results.MetricValue(away, 9)}
        return results.write_record(cell.path(place.output), results.Record(cell.name, "completed", metrics=metrics))

    monkeypatch.setattr(runner, "run_cell", judged)
    answer = command("--vary", "lavo.window=2", "--tune")
    assert answer.status == 0, answer.err
    assert "a learning rate of its own" in answer.out
    trials = [cell for cell, part in command.trained if part == "validation"]
    tried = {}
    for cell in trials:
        assert cell.seed == 4
        tried.setdefault((cell.attention, cell.config["options"].get("window")), set()).add(rate_of(cell))
    assert all({0.00333, 0.01, 0.03} <= found for found in tried.values())
    rates = {
        (cell.attention, cell.config["options"].get("window")): rate_of(cell)
        for cell, part in command.trained
        if part == "test"
    }
    assert rates == {("lavo", 2): 0.03, ("lavo", 64): 0.00333, ("softmax", None): 0.01, ("none", None): 0.01}
    assert not (tmp_path / "tuned").exists()  # the repository's files hold the rates of the defaults alone
    assert {record.cell.preset for record in results.records([tmp_path / "out"])} == {"smoke"}
    command("--vary", "lavo.window=2", "--tune")
    assert command.trained == []


def record(seed, hash, attention="lavo", mse=1.0, validation=1.0):
    return results.Record(
        results.CellName("toy", "net", "causal_self", attention, "smoke", seed, hash),
        "completed",
        metrics={"mse": results.MetricValue(mse, 9)},
        curves_file={"validation": {"step": [3, 6], "mse": [validation, validation + 5]}},
        efficiency=results.Efficiency(best_step=3),
    )


def swept(values, validation=None, references=("softmax",)):
    """Records of a sweep: value -> the metric of each seed; 64 is the default."""
    records, varied = [], []
    for value, metrics in values.items():
        hashes = []
        for seed, metric in enumerate(metrics):
            hashes.append(f"{str(value).replace('.', '_')}_{seed}")
            records.append(record(seed, hashes[-1], mse=metric, validation=(validation or {}).get(value, metric)))
        varied.append(VariedCells(attention="lavo", value=value, is_default=value == 64, hashes=tuple(hashes)))
    known = []
    for name in references:
        records += [record(seed, f"{name}_{seed}", name, 0.5 + 0.1 * seed) for seed in range(3)]
        known.append(
            VariedCells(attention=name, value=None, is_default=True, hashes=tuple(f"{name}_{s}" for s in range(3)))
        )
    one = Varied(
        task="toy",
        backbone="net",
        pattern="causal_self",
        preset="smoke",
        key="lavo.window",
        rates="default",
        varied=tuple(varied),
        references=tuple(known),
    )
    (found,) = found_sensitivities([one], records)
    return found


VALUES = {32: [3.0, 3.2, 3.1], 64: [2.0, 2.1, 2.3], 16: [2.1, 2.0, 2.4], 128: [1.0]}


def test_the_table_has_means_differences_and_their_interval():
    from scipy.stats import t, ttest_rel

    one = swept(VALUES)
    table = value_table(one)
    assert [row.label for row in table.rows] == ["lavo, 16", "lavo, 32", "lavo, 64 (default)", "lavo, 128", "softmax"]
    found = {row["value"]: row for row in table.values}
    for value, metrics in VALUES.items():
        assert found[str(value)]["mse_mean"] == pytest.approx(np.mean(metrics))
    difference = np.subtract(VALUES[32], VALUES[64])
    half = t.ppf(0.975, 2) * difference.std(ddof=1) / np.sqrt(3)
    assert found["32"]["difference"] == pytest.approx(difference.mean())
    assert found["32"]["low_over_seeds"] == pytest.approx(difference.mean() - half)
    assert found["32"]["high_over_seeds"] == pytest.approx(difference.mean() + half)
    raw = ttest_rel(VALUES[32], VALUES[64]).pvalue
    assert found["32"]["p_holm"] == pytest.approx(2 * raw)  # two rows of three seeds; that of one seed has no p
    verdicts = {row.label: row.printed[5].text for row in table.rows[:4]}
    assert verdicts == {
        "lavo, 16": "open",
        "lavo, 32": "worse",
        "lavo, 64 (default)": "–",
        "lavo, 128": "test sampling only",
    }
    assert changes(one)["lavo, 32"].verdict != "open"


def test_the_choice_is_made_on_validation_alone():
    """A window of 16 is best on test and worst on validation."""
    values = {16: [1.0, 1.0], 32: [2.0, 2.0], 64: [3.0, 3.0]}
    one = swept(values, validation={16: 9.0, 32: 1.0, 64: 4.0})
    table = value_table(one)
    assert [row.label for row in table.rows if row.printed[-1].bold] == ["lavo, 32"]
    assert not any(printed.bold for row in table.rows for printed in row.printed[:-1])
    assert validation_values(one.rows[0].entry) == [9.0, 9.0]  # at the step whose weights were kept, not the last


def test_the_figure_has_the_metric_by_value_and_the_references_as_bands():
    figure = value_figure(swept(VALUES))
    axis = figure.axes[0]
    (line,) = [line for line in axis.get_lines() if len(line.get_xdata()) == 4 and line.get_linestyle() == "-"]
    assert list(line.get_xdata()) == [16, 32, 64, 128]
    assert list(line.get_ydata()) == pytest.approx([np.mean(VALUES[value]) for value in (16, 32, 64, 128)])
    assert axis.get_xscale() == "log"
    assert axis.xaxis.get_transform().base == 2
    assert [label.get_text() for label in axis.get_xticklabels()] == ["16", "32", "64", "128"]
    (level,) = [line for line in axis.get_lines() if line.get_label() == "softmax"]
    assert list(level.get_ydata()) == pytest.approx([0.6, 0.6])
    (band,) = axis.patches
    assert (band.get_y(), band.get_height()) == (pytest.approx(0.5), pytest.approx(0.2))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([16, 32, 64], "log2"),
        ([0.25, 0.5], "log2"),
        ([1e-4, 1e-3, 3e-3], "log10"),
        ([3, 5, 7], "linear"),
        ([0, 2, 4], "linear"),
        ([16], "linear"),
        ([True, False], "linear"),
        (["a", "b"], "linear"),
    ],
)
def test_axes_are_logarithmic_where_values_are(values, scale):
    assert scale_of(values) == scale


def test_values_that_are_no_numbers_stand_side_by_side():
    one = swept({"sum": [1.0, 2.0], 64: [2.0, 3.0], None: [1.0, 1.0]})
    labels = [label.get_text() for label in value_figure(one).axes[0].get_xticklabels()]
    assert sorted(labels) == ["64", "null", "sum"]


def test_a_sweep_of_another_default_replaces_the_earlier_one(tmp_path):
    def varied(value, default, rates="default"):
        cells = [VariedCells(attention="lavo", value=value, hashes=(f"{value}_{default}",))]
        cells.append(VariedCells(attention="lavo", value=64, is_default=True, hashes=(default,)))
        names = {"task": "toy", "backbone": "net", "pattern": "causal_self", "preset": "smoke", "key": "lavo.window"}
        return Varied(**names, rates=rates, varied=tuple(cells), references=())

    add_varied(tmp_path, [varied(16, "d1")])
    add_varied(tmp_path, [varied(32, "d1")])
    assert {one.value for one in read_varied(tmp_path)[0].varied} == {16, 32, 64}
    add_varied(tmp_path, [varied(8, "d2")])
    assert {one.value for one in read_varied(tmp_path)[0].varied} == {8, 64}
    add_varied(tmp_path, [varied(4, "d2", "each")])
    assert {one.value for one in read_varied(tmp_path)[0].varied} == {4, 64}


@pytest.mark.parametrize("content", ["{", "3", "{}", "[3]", '[{"task": "toy"}]', "[" * 100_000])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match=r"sweeps\.json: not a list of sweeps") as caught:
        read_varied(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
