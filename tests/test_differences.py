"""Verdicts on differences at their edges: no spread over seeds, and a first seed that says the opposite of the mean."""

from __future__ import annotations

from dataclasses import replace

import believable
import numpy as np
import pytest

from benchmark.report.comparison import NO_SPREAD, compare
from benchmark.report.costs import cost_table
from benchmark.report.differences import against_exact, verdict_of
from benchmark.report.groups import group_records
from benchmark.report.tables import metric_tables
from benchmark.results import CellConfig, Efficiency, MetricValue, records
from benchmark.statistics import PairedTest, paired_t_test

SITE = ("forecasting", "informer", "causal_self")


def write(folder, attention, values, columns=None, **changes):
    """Writes one cell for each value of the metric ``mse``.  columns: seed -> values by example, of this mean."""
    for seed, value in enumerate(values):
        made = believable.make_record(*SITE, attention, seed)
        record = replace(made.record, metrics={"mse": MetricValue(value, 200)}, **changes)
        own = {} if columns is None else {"mse": columns[seed]}
        believable.write(folder, made._replace(record=record, columns=own))


def table_of(folder):
    (group,) = group_records(records([folder]))
    return metric_tables(group, against_exact(group))[0]


def verdict_in(table, label="lavo"):
    return next(row for row in table.rows if row.label == label).printed[-1]


def examples(mean, seed):
    values = np.random.default_rng(seed).gamma(8, 1 / 8, 200)
    return values * mean / values.mean()


def write_a_first_seed_that_says_the_opposite(folder):
    """Over ten seeds lavo's error is lower by 0.87, and in the first, whose examples are compared, significantly higher."""
    softmax = [2.0] * 10
    lavo = [2.3, *np.linspace(0.95, 1.05, 9)]
    assert paired_t_test(softmax, lavo).difference == pytest.approx(-0.87)
    noise = examples(2.0, 0)
    for attention, values in (("softmax", softmax), ("lavo", lavo)):
        write(folder, attention, values, {seed: noise + value - 2.0 for seed, value in enumerate(values)})


def test_a_first_seed_that_says_the_opposite_leaves_a_difference_open(tmp_path):
    write_a_first_seed_that_says_the_opposite(tmp_path)
    (group,) = group_records(records([tmp_path]))
    found = against_exact(group)["lavo"]
    assert found.p_holm < 0.001
    assert found.over_examples.p < 0.01
    assert found.over_examples.low > 0
    assert found.verdict == "open"
    table = table_of(tmp_path)
    assert verdict_in(table) == ("open", False, None)
    assert any("the first seed's examples say the opposite of the mean" in note for note in table.notes)
    assert compare([tmp_path], attentions=["softmax", "lavo"]).verdict.iloc[0] == ""


def test_seeds_without_spread_get_a_verdict_that_says_so(tmp_path):
    write(tmp_path, "softmax", [100.0] * 3)
    write(tmp_path, "lavo", [0.0] * 3)
    table = table_of(tmp_path)
    assert verdict_in(table) == ("better (no spread)", False, 1.0)  # an error: less is better
    row = next(row for row in table.rows if row.label == "lavo")
    assert row.printed[-3].text == "–"  # an interval of no width would claim certainty
    note = next(note for note in table.notes if "No spread" in note)
    assert "lavo differs by the same figure in every seed" in note
    assert "point to seeds that repeat one run" in note
    compared = compare([tmp_path], attentions=["softmax", "lavo"])
    assert (compared.verdict.tolist(), compared.note.tolist()) == (["better"], [NO_SPREAD])
    assert not compared.low.notna().any()


def test_two_seeds_without_spread_stay_open(tmp_path):
    write(tmp_path, "softmax", [100.0] * 2)
    write(tmp_path, "lavo", [0.0] * 2)
    assert verdict_in(table_of(tmp_path)) == ("open (no spread)", False, None)


@pytest.mark.parametrize(
    ("by_example", "verdict"), [(None, "worse"), ((1.0, 0.001), "worse"), ((1.0, 0.4), "open"), ((-1.0, 0.001), "open")]
)
def test_test_examples_can_leave_a_difference_without_spread_open(by_example, verdict):
    over_seeds = paired_t_test([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    over_examples = None if by_example is None else PairedTest(200, by_example[0], None, None, by_example[1])
    assert verdict_of(over_seeds, over_examples, None, higher_is_better=False) == verdict


@pytest.mark.parametrize(
    ("flash", "said"),
    [
        (
            [2.0],
            "over one seed, their mean absolute difference is mse 0. Rounding changed nothing there, which sets no limit",
        ),
        (
            [2.5],
            "over one seed, their mean absolute difference is mse 0.50. Rounding alone can change figures by about as much",
        ),
        (
            [2.5, 3.1, 4.0],
            "over 3 seeds, their mean absolute difference is mse 0.20. Differences between attentions that are not larger",
        ),
    ],
)
def test_the_noise_floor_says_on_how_many_seeds_it_rests(tmp_path, flash, said):
    write(tmp_path, "softmax", [2.0, 3.0, 4.0])
    write(tmp_path, "flash", flash)
    (note,) = (note for note in table_of(tmp_path).notes if note.startswith("Noise floor"))
    assert said in note
    assert "means nothing" not in note


def test_costs_are_medians_over_an_even_number_of_seeds_too(tmp_path):
    for seed, seconds in enumerate((10.0, 40.0)):
        believable.write_cell(tmp_path, *SITE, "lavo", seed, efficiency=Efficiency(train_seconds=seconds))
    (group,) = group_records(records([tmp_path]))
    assert cost_table(group).values[0]["train_seconds"] == 25.0


def config(*, window=64, rate=3e-4, horizon=96):
    return CellConfig(
        data={"horizon": horizon},
        train={"learning_rate": rate, "steps": 400},
        options={"window": window, "basis": "fixed"},
    )


def test_a_comparison_notes_options_and_rates(tmp_path):
    write(tmp_path / "a", "lavo", [1.0, 1.1, 1.2], config=config())
    write(tmp_path / "b", "lavo", [2.0, 2.2, 2.1], config=config(window=8, rate=3e-2))
    (note,) = compare([tmp_path / "a"], [tmp_path / "b"]).note
    assert note == "learning_rate 0.0003 -> 0.03; window 64 -> 8"


def test_two_attentions_are_compared_without_their_options_but_with_their_rates(tmp_path):
    write(tmp_path, "softmax", [1.0, 1.1, 1.2], config=replace(config(rate=1e-3), options={}))
    write(tmp_path, "lavo", [2.0, 2.2, 2.1], config=config())
    (note,) = compare([tmp_path], attentions=["softmax", "lavo"]).note
    assert note == "learning_rate 0.001 -> 0.0003"


def write_tables(folder, *configs):
    for number, one in enumerate(configs):
        for seed in range(3):
            made = believable.make_record(*SITE, "lavo", seed)
            cell = replace(made.record.cell, hash=f"{number}{made.record.cell.hash[1:]}")
            value = 1.0 + seed + number * (1 + 0.1 * seed)
            record = replace(made.record, cell=cell, config=one, metrics={"mse": MetricValue(value, 200)})
            believable.write(folder, made._replace(record=record))


@pytest.mark.parametrize("changed", [{"horizon": 192}, {"window": 8}])
def test_rows_of_equal_settings_are_compared_first(tmp_path, changed):
    """B has one row, which is A's second."""
    write_tables(tmp_path / "a", config(), config(**changed))
    write_tables(tmp_path / "b", config(**changed))
    for a, b, alone in (("a", "b", "only in A"), ("b", "a", "only in B")):
        frame = compare([tmp_path / a], [tmp_path / b])
        assert sorted(frame.note) == ["", alone]
        assert frame.difference.dropna().abs().tolist() == pytest.approx(
            [1.1]
        )  # the same cell has another number there


def test_rows_that_differ_least_are_compared(tmp_path):
    write_tables(tmp_path / "a", config(horizon=96), config(horizon=192))
    write_tables(tmp_path / "b", config(horizon=192, window=8), config(horizon=96, window=8))
    assert set(compare([tmp_path / "a"], [tmp_path / "b"]).note) == {"window 64 -> 8"}
