"""The task, called as the engine calls it."""

import json
from pathlib import Path

import believable
import numpy as np
import pytest
import torch
import yaml

from benchmark.interface import PRESETS
from tasks.forecasting import task as task_module
from tasks.forecasting.figures import figures
from tasks.forecasting.task import ForecastBatch, Forecasting, ForecastingSettings

from .conftest import csv_lines, softmax_for
from .test_informer import published_parameters

PRESET_FILE = Path(task_module.__file__).with_name("presets.yaml")


def preset(name):
    """The groups of a preset on top of those of ``base``, and its seeds."""
    content = yaml.safe_load(PRESET_FILE.read_text())
    base, own = content["base"], content[name]
    groups = {key: {**base.get(key, {}), **own.get(key, {})} for key in ("data", "model", "eval", "train")}
    return groups, own["seeds"]


def evaluate(task, model, part, batch_size):
    """The columns of all examples of a part."""
    model.eval()
    with torch.no_grad():
        scores = [task.score(model, task.collate(part[i : i + batch_size])) for i in range(0, len(part), batch_size)]
    return {name: torch.cat([score[name] for score in scores]).double().numpy() for name in scores[0]}


def test_the_class_has_the_declarations_of_the_protocol():
    assert (Forecasting.name, Forecasting.version, Forecasting.selection) == ("forecasting", 2, "mse")
    assert next(iter(Forecasting.metrics)) == "mse"
    assert set(Forecasting.metrics) == {"mse", "mae"}
    assert not any(metric.higher_is_better for metric in Forecasting.metrics.values())
    with pytest.raises(ValueError, match="backbone 'gpt'"):
        Forecasting(ForecastingSettings(), backbone="gpt")


def test_a_batch_is_its_examples(make_task):
    task = make_task()
    examples = [task.data.splits.train[i] for i in (0, 5, 9)]
    batch = task.collate(examples)
    assert isinstance(batch, ForecastBatch)
    assert [tuple(x.shape) for x in batch] == [(3, 48, 3), (3, 48, 4), (3, 36, 4), (3, 12, 3)]
    assert torch.equal(batch.future[1], examples[1].future)
    assert torch.equal(batch.decoder_times[:, :24], batch.history_times[:, -24:])
    assert task.tokens(batch) == 3 * (48 + 36)


def test_the_loss_is_a_sum_and_its_count(make_task):
    task = make_task()
    model = task.build_model(softmax_for).eval().requires_grad_(False)
    batch = task.collate(task.data.splits.train[0:6])
    loss = task.loss(model, batch)
    assert loss.num_terms == 6 * 12 * 3
    scores = task.score(model, batch)
    assert float(loss.total / loss.num_terms) == pytest.approx(float(scores["mse"].mean()), rel=1e-5)
    halves = [task.loss(model, ForecastBatch(*(x[rows] for x in batch))) for rows in (slice(2), slice(2, 6))]
    assert float(sum(half.total for half in halves)) == pytest.approx(float(loss.total), rel=1e-5)


def test_scores_do_not_depend_on_the_evaluation_batch(make_task):
    task = make_task()
    model = task.build_model(softmax_for)
    test = task.data.splits.test
    by_size = [evaluate(task, model, test, size) for size in (1, 7, 32)]
    for columns in by_size:
        for name, metric in Forecasting.metrics.items():
            assert metric.n(columns) == len(test) == 120 - 12 + 1
            assert metric.value(columns) == pytest.approx(metric.value(by_size[0]), abs=1e-6)
            np.testing.assert_allclose(columns[name], by_size[0][name], atol=1e-6)


def test_the_unit_of_a_column_changes_no_metric(make_task, write_csv):
    lines = csv_lines(400)
    scaled = [lines[0], *(f"{d},{1000 * float(a)!r},{b}" for d, a, b in (line.split(",") for line in lines[1:]))]
    values = []
    for number, text in enumerate((lines, scaled)):
        task = make_task(data={"file": str(write_csv(text, f"series{number}.csv"))})
        torch.manual_seed(0)
        model = task.build_model(softmax_for)
        columns = evaluate(task, model, task.data.splits.test, 32)
        values.append([m.value(columns) for m in Forecasting.metrics.values()])
        values[-1] += [m.value(c) for c in task.controls().values() for m in Forecasting.metrics.values()]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)


def test_four_examples_are_learnt_by_heart(make_task):
    task = make_task()
    torch.manual_seed(0)
    model = task.build_model(softmax_for)
    batch = task.collate([task.data.splits.train[i] for i in (0, 50, 100, 150)])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        (loss.total / loss.num_terms).backward()
        optimizer.step()
    assert float(loss.total.detach() / loss.num_terms) < 0.02


def test_controls_have_a_row_for_each_test_window(make_task):
    task = make_task()
    controls = task.controls()
    assert set(controls) == {"repeat", "seasonal_naive", "dlinear"}
    for columns in controls.values():
        assert set(columns) == set(Forecasting.metrics)
        assert all(len(values) == len(task.data.splits.test) for values in columns.values())


def test_dlinear_learns_from_as_many_windows_as_the_model(make_task):
    task = make_task()
    train = task.data.parts[0]
    assert [len(train.thinned(count)) for count in (1, 10, len(train), 10**9)] == [1, 10, len(train), len(train)]
    assert set(train.thinned(10).forecast_starts) < set(train.forecast_starts)
    few, all_of_it = (task.controls_after(count) for count in (10, 10**9))
    assert few["dlinear"]["mse"].mean() > all_of_it["dlinear"]["mse"].mean()
    for name in ("repeat", "seasonal_naive"):
        np.testing.assert_array_equal(few[name]["mse"], all_of_it[name]["mse"])
    np.testing.assert_array_equal(task.controls()["dlinear"]["mse"], all_of_it["dlinear"]["mse"])


def test_curves_are_strict_json_and_in_the_target_s_own_unit(make_task, write_csv):
    lines = csv_lines(400)
    task = make_task(data={"file": str(write_csv(lines)), "target": "a"})
    model = task.build_model(softmax_for)
    curves = json.loads(json.dumps(task.curves(model), allow_nan=False))
    assert model.training
    assert curves["target"] == "a"
    assert [window["index"] for window in curves["windows"]] == [0, 34, 68]  # of 80 - 12 + 1
    truth = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
    for window in curves["windows"]:
        start = list(truth).index(window["start"].replace("T", " "))
        values = list(truth.values())
        np.testing.assert_allclose(window["truth"], values[start : start + 12], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(window["history"], values[start - 48 : start], rtol=1e-4, atol=1e-5)
        assert len(window["forecast"]) == len(window["forecast_standardised"]) == 12
    columns = evaluate(task, model, task.data.splits.test, 32)
    assert np.mean(curves["mse_by_step"]) == pytest.approx(columns["mse"].mean(), rel=1e-4)
    assert np.mean(curves["mae_by_step"]) == pytest.approx(columns["mae"].mean(), rel=1e-4)


def test_details_are_strict_json_without_paths(make_task, write_csv, tmp_path):
    task = make_task(data={"file": str(write_csv(csv_lines(400)))})
    details = json.dumps(dict(task.data.splits.details), allow_nan=False)
    assert str(tmp_path) not in details


def test_figures_show_every_attention_of_a_pattern(make_task):
    task = make_task()
    records = []
    for pattern in ("causal_self", "noncausal_cross"):
        for attention in ("softmax", "lavo"):
            for seed in (0, 1):
                torch.manual_seed(seed)
                curves = task.curves(task.build_model(softmax_for))
                records.append(believable.with_curves(curves, pattern=pattern, attention=attention, seed=seed))
    records.append(believable.with_curves({}, pattern=pattern, attention="failed"))
    records.append(believable.with_curves(records[0].curves, pattern=pattern, attention="lavo", variant="lavo_rank_8"))
    made = figures(records)
    assert set(made) == {f"{k}_{p}" for k in ("forecasts", "error_by_step") for p in ("causal_self", "noncausal_cross")}
    axes = made["forecasts_noncausal_cross"].axes
    assert len(axes) == 3
    assert axes[0].get_legend_handles_labels()[1] == ["truth", "softmax", "lavo", "lavo_rank_8"]
    mean = np.mean([r.curves["mse_by_step"] for r in records[:2]], axis=0)
    np.testing.assert_allclose(made["error_by_step_causal_self"].axes[0].lines[1].get_ydata(), mean)
    assert figures([]) == {}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    groups, seeds = preset(name)
    train = groups.pop("train")
    ForecastingSettings.model_validate(groups)
    assert ("steps" in train) != ("epochs" in train)
    assert train["batch_size"] >= 1
    assert len(set(seeds)) == len(seeds) >= 1
    assert set(yaml.safe_load(PRESET_FILE.read_text())) == {"base", *PRESETS}


@pytest.mark.parametrize(("features", "columns"), [("M", 7), ("S", 1)])
def test_the_paper_preset_has_the_published_sizes(features, columns, tmp_path):
    groups, _ = preset("paper")
    train = groups.pop("train")
    assert (train["learning_rate"], train["batch_size"], train["epochs"], train["patience"]) == (1e-4, 32, 6, 3)
    groups["data"] |= {"features": features}
    task = Forecasting(ForecastingSettings.model_validate(groups), backbone="informer")
    task.load_data(None, tmp_path)
    model = task.build_model(softmax_for)
    assert sum(p.numel() for p in model.parameters()) == published_parameters(columns, 4, 512, 2048, 2, 1)
    assert task.data.lengths == ((48, 48, 24) if features == "M" else (720, 168, 24))
    assert task.settings.model.mix
    assert task.settings.model.circular


def test_faults_are_off_by_default():
    settings = ForecastingSettings()
    assert not settings.model.mix
    assert not settings.model.circular
    assert (settings.eval.drop_last, settings.eval.stride) == (0, 1)
    for name in ("smoke", "quick", "small", "gpu"):
        groups, _ = preset(name)
        assert not {"mix", "circular", "drop_last"} & {*groups["model"], *groups["eval"]}
