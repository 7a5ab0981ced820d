"""The report's tables, against values computed by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import believable
import numpy as np
import pytest

from benchmark.interface import CLUSTER
from benchmark.report import numbers
from benchmark.report.aggregate import aggregate_table, score_intervals, scores_of
from benchmark.report.costs import cost_table
from benchmark.report.differences import against_exact
from benchmark.report.groups import floors, group_records
from benchmark.report.tables import metric_tables, to_csv
from benchmark.results import CellConfig, MetricValue, records
from benchmark.statistics import t_interval


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return believable.write_results(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def groups(results):
    return group_records(records([results]))


def group_of(groups, task, pattern):
    return next(group for group in groups if (group.task, group.pattern) == (task, pattern))


def tables_of(group):
    return metric_tables(group, against_exact(group))


def row_of(table, label):
    return next(row for row in table.rows if row.label == label)


def values_of(group, attention, metric):
    entry = next(entry for entry in group.entries if entry.label == attention)
    return [record.value(metric) for record in entry.completed]


def test_table_is_the_hand_computed_one(groups):
    group = group_of(groups, "forecasting", "noncausal_self")
    (table,) = tables_of(group)
    assert table.columns == [
        *(
            "attention",
            "seeds",
            "mse ↓",
            "mae ↓",
            "mse − softmax",
            "95 % over seeds",
            "one seed, 95 % over test",
            "verdict",
        )
    ]
    assert [row.label for row in table.rows] == [
        *("softmax", "flash", "lavo", "performer", "cosformer", "my_att"),
        *("none", "repeat", "dlinear"),
    ]
    values = values_of(group, "lavo", "mse")
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert row_of(table, "lavo").printed[0].text == "3"
    assert row_of(table, "lavo").printed[1].text == f"{mean:.3f} ± {deviation:.3f}"
    assert [row.is_control for row in table.rows] == [False] * 6 + [True] * 3
    assert row_of(table, "repeat").printed[1].text == "1.294"
    assert row_of(table, "cosformer").message.startswith("not supported: cosformer can't do")
    differences = np.subtract(values, values_of(group, "softmax", "mse"))
    assert row_of(table, "lavo").printed[3].text == numbers.signed(differences.mean(), 3)
    low, high = t_interval(differences.tolist())
    assert row_of(table, "lavo").printed[4].text == f"[{numbers.signed(low, 3)}, {numbers.signed(high, 3)}]"


def test_csv_holds_the_plain_values(groups):
    group = group_of(groups, "language_modeling", "causal_self")
    rows = {row["attention"]: row for row in csv.DictReader(io.StringIO(to_csv(tables_of(group)[0])))}
    assert float(rows["lavo"]["loss_mean"]) == np.mean(values_of(group, "lavo", "loss"))
    assert rows["lavo"]["word_perplexity_mean"] == ""
    assert rows["performer"]["seeds"] == "2"
    assert rows["performer"]["status"] == "failed"
    assert rows["unigram"]["kind"] == "control"


def test_a_failed_seed_is_counted_and_told(groups):
    table = tables_of(group_of(groups, "language_modeling", "causal_self"))[0]
    assert row_of(table, "performer").printed[0].text == "2 of 3"
    assert any("performer, seed 2: failed" in note for note in table.notes)


def test_noise_floor_and_learning_rate_are_stated(groups):
    group = group_of(groups, "forecasting", "causal_self")
    notes = " ".join(tables_of(group)[0].notes)
    floor = np.abs(np.subtract(values_of(group, "flash", "mse"), values_of(group, "softmax", "mse"))).mean()
    assert f"mse {numbers.significant(floor, 2)}" in notes
    assert "All at one learning rate, 0.0003" in notes


def two_attentions(tmp_path, first, second, **changes):
    for attention, values in (("softmax", first), ("lavo", second)):
        for seed, value in enumerate(values):
            metrics = {"mse": MetricValue(value, 200)}
            believable.write_cell(
                tmp_path, "forecasting", "informer", "causal_self", attention, seed, metrics=metrics, **changes
            )
    (group,) = group_records(records([tmp_path]))
    return tables_of(group)[0]


def bold(table):
    return [row.label for row in table.rows if any(one.bold for one in row.printed)]


def test_windows_that_depend_on_each_other_count_as_one(tmp_path):
    """Ten windows in each of four stretches, of which lavo is worse in two: forty windows would call that resolved."""
    stretches = np.repeat(np.arange(4), 10)
    error = np.linspace(1.0, 2.0, 40)
    columns = {"softmax": error, "lavo": error + np.repeat([0.5, 0.5, 0.0, 0.0], 10)}
    for clusters in (None, stretches):
        folder = tmp_path / ("windows" if clusters is None else "stretches")
        for attention, values in columns.items():
            for seed in range(3):
                made = believable.make_record("forecasting", "informer", "causal_self", attention, seed)
                mean = float(values.mean()) + (0.01 * seed if attention == "lavo" else 0)
                record = replace(made.record, status="completed", metrics={"mse": MetricValue(mean, 40)})
                own = {"mse": values} if clusters is None else {"mse": values, CLUSTER: clusters}
                believable.write(folder, made._replace(record=record, columns=own))
    found = {
        name: against_exact(group_records(records([tmp_path / name]))[0])["lavo"] for name in ("windows", "stretches")
    }
    assert found["windows"].over_examples.n == 40
    assert found["windows"].verdict == "worse"
    assert found["stretches"].over_examples.n == 4
    assert found["stretches"].verdict == "open"


def test_bold_is_the_best_outside_the_others_spread(tmp_path):
    assert bold(two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.5, 0.6, 0.7])) == ["lavo"]


def test_a_second_exact_attention_hides_no_best(tmp_path):
    """flash has one seed, and computes what softmax does: it is neither a rival nor a reason to call nothing best."""
    believable.write_cell(
        tmp_path, "forecasting", "informer", "causal_self", "flash", 0, metrics={"mse": MetricValue(0.99, 200)}
    )
    assert bold(two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.5, 0.6, 0.7])) == ["lavo"]
    assert bold(two_attentions(tmp_path, [0.5, 0.6, 0.7], [1.0, 1.1, 1.2])) == ["softmax"]


def test_nothing_is_bold_within_the_spread(tmp_path):
    assert bold(two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.9, 1.0, 1.1])) == []


def test_nothing_is_bold_with_one_seed_and_the_table_says_so(tmp_path):
    table = two_attentions(tmp_path, [1.0], [0.1])
    assert bold(table) == []
    assert any("with one seed the spread is unknown" in note for note in table.notes)
    assert row_of(table, "lavo").printed[1].text == "0.100"


def test_a_missing_value_marks_the_mean_of_the_others(tmp_path):
    table = two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.5, None, 0.7])
    assert row_of(table, "lavo").printed[1].text.endswith("†")
    assert any("† lavo" in note for note in table.notes)


def test_cells_of_other_settings_never_share_a_mean(tmp_path):
    for horizon in (96, 192):
        config = CellConfig(data={"horizon": horizon})
        believable.write_cell(
            tmp_path / str(horizon), "forecasting", "informer", "causal_self", "softmax", 0, config=config
        )
    groups = group_records(records([tmp_path / "96", tmp_path / "192"]))
    assert sorted(group.difference for group in groups) == ["data.horizon 192", "data.horizon 96"]
    assert len({group.slug for group in groups}) == 2


def test_variants_by_option_are_rows_of_their_own(tmp_path):
    for window in (32, 64):
        config = CellConfig(options={"window": window})
        believable.write_cell(
            tmp_path / str(window), "forecasting", "informer", "causal_self", "lavo", 0, config=config
        )
    (group,) = group_records(records([tmp_path / "32", tmp_path / "64"]))
    assert [entry.label for entry in group.entries] == ["lavo (window 32)", "lavo (window 64)"]


def test_the_same_cell_found_twice_counts_once(results):
    once, twice = group_records(records([results])), group_records(records([results, results]))
    assert [len(group.records) for group in once] == [len(group.records) for group in twice]


def test_costs_have_kernels_and_the_share_of_extra_parameters(groups):
    table = cost_table(group_of(groups, "forecasting", "causal_self"))
    assert row_of(table, "flash").printed[0].text == "cpu_flash"
    extra = table.columns.index("extra") - 1
    assert row_of(table, "lavo").printed[extra].text == "12,800 (6.0 %)"


def test_scores_across_tables_are_of_what_finished_everywhere(groups):
    assert scores_of([]) is None
    assert scores_of(groups[:1]) is None
    assert aggregate_table(None, {}) is None
    scores = scores_of(groups)
    table = aggregate_table(scores, score_intervals(scores))
    labels = [row.label for row in table.rows]
    assert "cosformer" not in labels  # a cell of it failed
    assert "none" not in labels
    assert "cosformer" in table.notes[-1]
    assert scores.by_label["softmax"].mean(0) == pytest.approx(np.ones(len(groups)))
    assert {found.shape for found in scores.by_label.values()} == {(len(believable.SEEDS), len(groups))}
    ranks = {row["attention"]: row["mean_rank"] for row in table.values}
    assert all(1 <= rank <= len(labels) for rank in ranks.values())
    assert sum(ranks.values()) == pytest.approx(len(labels) * (len(labels) + 1) / 2)
    by_label = dict(zip(labels, (row.printed for row in table.rows), strict=True))
    assert by_label["softmax"][1].text == numbers.MISSING
    assert by_label["softmax"][0].text == "1"
    assert "cover" in table.notes[0]
    assert "resampled by backbone" in table.notes[0]
    names = [group.backbone for group in groups]
    same = scores.backbones[:, None] == scores.backbones
    assert same.tolist() == [[one == other for other in names] for one in names]


def test_a_score_is_by_hand(groups):
    pair = [group_of(groups, "forecasting", "noncausal_self"), group_of(groups, "forecasting", "causal_self")]
    found = scores_of(pair).by_label["performer"]
    for column, group in enumerate(pair):
        softmax, none = (np.mean(values_of(group, name, "mse")) for name in ("softmax", "none"))
        assert found[:, column] == pytest.approx((values_of(group, "performer", "mse") - none) / (softmax - none))


def test_seeds_of_a_backbone_are_those_of_all_its_tables(tmp_path):
    for pattern in ("causal_self", "noncausal_cross", "causal_cross"):
        for attention in ("softmax", "lavo", "none"):
            for seed in believable.SEEDS:
                if (pattern, attention, seed) != ("causal_cross", "none", 1):
                    believable.write_cell(tmp_path, "forecasting", "informer", pattern, attention, seed)
    found = group_records(records([tmp_path]))
    scores = scores_of(found)
    for column, group in enumerate(found):
        assert scores.softmax[:, column].tolist() == [values_of(group, "softmax", "mse")[seed] for seed in (0, 2)]


def test_the_margin_over_the_best_control_is_stated(groups):
    group = group_of(groups, "forecasting", "noncausal_self")
    (table,) = tables_of(group)
    exact = np.mean(values_of(group, "softmax", "mse"))
    controls = {name: values["mse"][0] for name, values in group.controls().items()}
    controls["none"] = float(np.mean(values_of(group, "none", "mse")))
    best = min(controls, key=controls.get)
    ahead = controls[best] - exact
    words = f"softmax is {'better' if ahead > 0 else 'worse'} by {numbers.significant(abs(ahead))}"
    assert f"Against the best control, {best} " in table.notes[0]
    assert words in table.notes[0]


def test_a_floor_is_no_rule_to_be_beaten(tmp_path, monkeypatch):
    believable.write_cell(tmp_path, "forecasting", "informer", "causal_self", "softmax", 0)
    (group,) = group_records(records([tmp_path]))
    assert set(group.rules()) == {"repeat", "dlinear"}
    monkeypatch.setattr("benchmark.report.groups.floors", lambda task: ("dlinear",))
    assert set(group.rules()) == {"repeat"}
    assert "Against the best control, repeat" in tables_of(group)[0].notes[0]
    monkeypatch.undo()
    assert floors("text_to_speech") == ("vocoded_truth",)
    assert floors("forecasting") == floors("no_such_task") == ()
