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
    paired_randomisation,
    paired_t_test,
    paired_test_of_sums,
    resample,
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
    assert paired_t_test([0.0] * 3, [100.0] * 3) == (
        3,
        100.0,
        None,
        None,
        None,
    )  # nor is an interval of no width honest
    assert paired_t_test([100.0] * 3, [100.0] * 3) == (3, 0.0, 0.0, 0.0, 1.0)
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


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize("elements", [1 << 22, 500])
def test_sums_give_what_the_loop_over_draws_gives(monkeypatch, elements):
    monkeypatch.setattr("benchmark.statistics._ELEMENTS", elements)  # in parts, too
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 50, 120).astype(float)
    a = {"nats": generator.gamma(2.0, 10.0, 120), "tokens": tokens}
    b = {"nats": a["nats"] * generator.normal(1.03, 0.1, 120), "tokens": tokens}
    slow = paired_randomisation(
        a, b, lambda columns: float(columns["nats"].sum() / columns["tokens"].sum()), draws=4000
    )
    terms = (np.stack([side["nats"], side["tokens"]], axis=-1) for side in (a, b))
    fast = paired_test_of_sums(resample(*terms, draws=4000, seed=9), ratio)
    assert (fast.n, fast.difference) == (slow.n, pytest.approx(slow.difference))
    assert fast.p == pytest.approx(slow.p, abs=0.03)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.1 * (slow.high - slow.low))


def test_of_two_samples_of_one_distribution_one_is_better_in_five_per_cent_and_the_interval_covers_zero():
    generator, count = np.random.default_rng(6), 600
    called, covered = 0, 0
    for _ in range(count):
        level = generator.normal(size=(120, 1))  # what an example has in common for both
        a, b = (np.concatenate([level + generator.normal(size=(120, 1)), np.ones((120, 1))], axis=1) for _ in "ab")
        found = paired_test_of_sums(resample(a, b, draws=400, seed=int(generator.integers(1 << 31))), ratio)
        called += found.p < 0.05
        covered += found.low <= 0 <= found.high
    assert 0.02 < called / count < 0.08
    assert 0.92 < covered / count < 0.97


def coverage(draw, *, count=1000):
    """The share of simulations whose 95 % interval of a ratio of sums holds the true difference.

    draw: generator -> (a, b, clusters, difference).
    """
    generator, covered = np.random.default_rng(7), 0
    for _ in range(count):
        a, b, clusters, difference = draw(generator)
        found = paired_test_of_sums(resample(a, b, clusters, draws=1000, seed=int(generator.integers(1 << 31))), ratio)
        covered += found.low <= difference <= found.high
    return covered / count


@pytest.mark.parametrize("n", [5, 12, 40, 200])
def test_intervals_over_examples_cover_in_95_of_100_simulations(n):
    """b has 1 nat more a token than a; texts have different lengths, and some are harder for both."""

    def draw(generator):
        tokens = generator.integers(20, 60, n).astype(float)
        level = generator.gamma(4.0, 0.5, n)
        a, b = (
            np.stack([(level + more + 0.3 * generator.normal(size=n)) * tokens, tokens], axis=-1) for more in (0, 1)
        )
        return a, b, None, 1.0

    assert coverage(draw) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("num_clusters", [6, 20, 80])
def test_intervals_over_clusters_cover_where_examples_depend_on_each_other(num_clusters):
    def draw(generator):
        clusters = np.repeat(np.arange(num_clusters), 8)
        shared = generator.normal(size=num_clusters)[clusters]  # how much better b is in this cluster
        zero, ones = np.zeros(len(clusters)), np.ones(len(clusters))
        b = shared + 0.5 * generator.normal(size=len(clusters))
        return np.stack([zero, ones], axis=-1), np.stack([b, ones], axis=-1), clusters, 0.0

    assert coverage(draw) == pytest.approx(0.95, abs=0.02)
    blind = coverage(lambda generator: (*draw(generator)[:2], None, 0.0), count=200)
    assert blind < 0.75  # the same examples, taken to be independent


def test_few_units_give_student_s_test_of_the_mean():
    generator = np.random.default_rng(8)
    a, b = generator.normal(size=12), generator.normal(0.4, 1.0, size=12)
    with_ones = (np.stack([values, np.ones(12)], axis=-1) for values in (a, b))
    found = paired_test_of_sums(resample(*with_ones), ratio)
    expected = stats.ttest_rel(b, a)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_clusters_of_one_example_change_nothing():
    generator = np.random.default_rng(9)
    a, b = (np.stack([generator.normal(size=120), np.ones(120)], axis=-1) for _ in "ab")
    assert paired_test_of_sums(resample(a, b), ratio) == pytest.approx(
        paired_test_of_sums(resample(a, b, np.arange(120)), ratio)
    )


def test_intervals_over_seeds_cover_in_95_of_100_simulations_and_one_of_two_equal_attentions_is_better_in_5():
    generator, count = np.random.default_rng(10), 4000
    a, b = generator.normal(size=(2, count, 3)) + generator.normal(size=(count, 3))  # seeds are paired
    tests = [paired_t_test(first, second) for first, second in zip(a, b, strict=True)]
    assert np.mean([test.low <= 0 <= test.high for test in tests]) == pytest.approx(0.95, abs=0.02)
    families = np.array([test.p for test in tests]).reshape(-1, 5)  # five attentions in a table
    called = [min(holm(list(family))) < 0.05 for family in families]
    assert np.mean(called) < 0.07


def test_a_figure_that_is_not_finite_is_not_tested():
    a = np.array([[1.0, 1.0], [np.nan, 1.0]])
    assert paired_test_of_sums(resample(a, a[::-1]), ratio).p is None
    columns = {"x": np.array([1.0, np.nan])}
    assert paired_randomisation(columns, columns, lambda found: float(found["x"].mean())).p is None


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
