"""Statistics agree with scipy and with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmark.statistics import (
    Summary,
    best_outside_spread,
    bootstrap_interval,
    holm,
    mean_ranks,
    paired_randomisation,
    paired_t_test,
    summarise,
    t_interval,
)


def test_a_summary_has_the_sample_standard_deviation():
    assert summarise([1.0, 2.0, 4.0]) == pytest.approx((3, 7 / 3, np.std([1, 2, 4], ddof=1)))


def test_one_value_has_no_deviation_and_no_value_is_an_error():
    assert summarise([0.5]) == Summary(1, 0.5, None)
    assert t_interval([0.5]) is None
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_t_interval_is_that_of_scipy():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert t_interval(values.tolist()) == pytest.approx(expected)


def test_paired_t_test_is_that_of_scipy():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=9), generator.normal(0.3, 1, 9)
    test, expected = paired_t_test(a.tolist(), b.tolist()), stats.ttest_rel(b, a)
    assert test.p == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert test.difference == pytest.approx((b - a).mean())


def test_paired_t_test_gives_no_p_where_the_differences_have_no_spread():
    assert paired_t_test([1.0], [2.0]).p is None
    assert paired_t_test([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired_t_test([1.0, 2.0], [2.0, 3.0]).p is None  # two equal differences prove nothing
    with pytest.raises(ValueError, match="partner"):
        paired_t_test([1.0], [1.0, 2.0])


def test_randomisation_test_of_a_mean_agrees_with_scipy():
    generator = np.random.default_rng(2)
    a = generator.normal(size=60)
    b = a + generator.normal(0.15, 0.6, 60)
    test = paired_randomisation({"x": a}, {"x": b}, lambda columns: float(columns["x"].mean()))
    expected = stats.permutation_test(
        (b, a), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=4000, random_state=0
    )
    assert test.p == pytest.approx(expected.pvalue, abs=0.03)
    low, high = stats.bootstrap((b - a,), np.mean, random_state=0, method="percentile").confidence_interval
    assert (test.low, test.high) == pytest.approx((low, high), abs=0.03)


def test_randomisation_test_takes_a_ratio_of_sums():
    nats, tokens = np.array([10.0, 400.0]), np.array([5, 100])
    a, b = {"nats": nats, "tokens": tokens}, {"nats": nats * 1.1, "tokens": tokens}
    test = paired_randomisation(a, b, lambda columns: float(columns["nats"].sum() / columns["tokens"].sum()))
    assert test.difference == pytest.approx(41 / 105)


def test_equal_columns_give_p_1():
    a = {"x": np.arange(10.0)}
    assert paired_randomisation(a, a, lambda columns: float(columns["x"].mean())).p == 1.0


def test_holm_gives_values_computed_by_hand():
    # 0.01·4, then 0.02·3 = 0.06, then max(0.06, 0.03·2), then max(0.06, 0.04·1).
    assert holm([0.01, 0.04, None, 0.03, 0.02]) == pytest.approx([0.04, 0.06, None, 0.06, 0.06], nan_ok=True)


def test_bootstrap_interval_of_the_median_covers_it():
    low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert 1 <= low <= 3 <= high <= 100
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("summaries", "higher_is_better", "expected"),
    [
        ([Summary(3, 1.0, 0.1), Summary(3, 2.0, 0.1)], False, 0),
        ([Summary(3, 1.0, 0.1), Summary(3, 2.0, 0.1)], True, 1),
        ([Summary(3, 1.0, 0.6), Summary(3, 2.0, 0.4)], False, None),  # the ranges touch at 1.6
        ([Summary(3, 1.0, 0.1), Summary(3, 1.5, 0.1), Summary(3, 2.0, 1.0)], False, None),  # the third touches
        ([Summary(1, 1.0, None), Summary(3, 2.0, 0.1)], False, None),  # the mean of one seed could lie anywhere
        ([Summary(3, 1.0, 0.1), None, Summary(3, 2.0, 0.1)], False, 0),  # an entry without a figure is skipped
        ([Summary(3, 1.0, 0.1)], False, None),  # nothing to compare with
        ([Summary(3, 1.0, 0.0), Summary(3, 1.0, 0.0)], False, None),  # equal
        ([], False, None),
    ],
)
def test_the_best_is_named_only_outside_the_spread_of_all_others(summaries, higher_is_better, expected):
    assert best_outside_spread(summaries, higher_is_better=higher_is_better) == expected


def test_ranks_share_ties_and_follow_the_direction():
    assert mean_ranks([[1.0, 9.0], [1.0, 5.0], [3.0, 7.0]], [False, True]) == pytest.approx([1.25, 2.25, 2.5])
