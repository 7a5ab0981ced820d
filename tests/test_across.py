"""Statistics across tables agree with rliable 1.2.0 and scikit-posthocs 0.17.1 (figures computed once), scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmark.report.across import (
    cliques,
    interquartile_mean,
    normalised,
    performance_profile,
    probability_of_improvement,
    rank_test,
    stratified_interval,
)

GENERATOR = np.random.default_rng(11)
A, B, C = (GENERATOR.normal(mean, 0.3, (3, 7)) for mean in (0.6, 0.5, 0.2))
PROFILE = [0.9523809523809523, 0.7619047619047619, 0.3333333333333333]
NEMENYI = [
    [1.0, 0.06236768973524498, 0.00244235857482655, 0.7288047596903384],
    [0.06236768973524498, 1.0, 0.7288047596903388, 0.468608116202488],
    [0.00244235857482655, 0.7288047596903388, 1.0, 0.06236768973524509],
    [0.7288047596903384, 0.468608116202488, 0.06236768973524509, 1.0],
]
MEANS = np.stack([A.mean(0), B.mean(0), C.mean(0), B.mean(0) + 0.01])


def test_interquartile_mean_is_that_of_rliable():
    assert interquartile_mean(A) == pytest.approx(0.640657032380672, rel=1e-12)
    assert interquartile_mean(B) == pytest.approx(0.43403965204843914, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (3, 5), (1, 4), (10, 9)])
def test_interquartile_mean_is_scipys_trimmed_mean(shape):
    values = np.random.default_rng(0).normal(size=(4, *shape))
    assert interquartile_mean(values) == pytest.approx([stats.trim_mean(one, 0.25, axis=None) for one in values])


def test_the_interval_is_that_of_rliable():
    found = stratified_interval(A, interquartile_mean, draws=20000)
    assert found.value == interquartile_mean(A)
    assert (found.low, found.high) == pytest.approx((0.5463932610838749, 0.7239469662268401), abs=0.005)


def test_the_interval_covers_the_mean_in_95_per_cent_of_draws():
    generator, covered = np.random.default_rng(3), 0
    for number in range(300):
        scores = generator.normal(0.5, 0.2, (20, 6))
        found = stratified_interval(scores, interquartile_mean, draws=400, seed=number)
        covered += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_runs_of_one_table_are_not_mixed_with_those_of_another():
    scores = np.stack([np.zeros(3), np.full(3, 5.0)], axis=1)
    assert stratified_interval(scores, lambda x: x.mean((-2, -1))) == (2.5, 2.5, 2.5)


def test_probability_of_improvement_is_that_of_rliable():
    assert probability_of_improvement(A, B) == pytest.approx(0.857142857142857, rel=1e-12)
    assert probability_of_improvement(np.round(A, 1), np.round(B, 1)) == pytest.approx(0.8174603174603176, rel=1e-12)
    assert probability_of_improvement(A, A) == 0.5


def test_performance_profile_is_that_of_rliable():
    assert performance_profile(A, np.array([0.3, 0.5, 0.8])) == pytest.approx(PROFILE)


def test_ranks_are_those_of_scikit_posthocs():
    found = rank_test(MEANS)
    expected = stats.friedmanchisquare(*MEANS)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    distance = np.abs(found.ranks[:, None] - found.ranks)
    at_difference = stats.studentized_range.sf(distance * np.sqrt(2) / np.sqrt(4 * 5 / (6 * 7)), 4, np.inf)
    off = ~np.eye(4, dtype=bool)
    assert at_difference[off] == pytest.approx(np.array(NEMENYI)[off], rel=1e-6)
    assert ((distance > found.critical_difference) == (np.array(NEMENYI) < 0.05))[off].all()


def test_the_critical_difference_is_demsars():
    # Demšar (2006), table 5: q for 4 classifiers at 0.05 is 2.569; his example has 14 data sets, and a difference of 1.25.
    scores = np.random.default_rng(0).normal(size=(4, 14))
    assert rank_test(scores).critical_difference == pytest.approx(1.25, abs=0.005)


def test_equal_attentions_share_their_ranks():
    found = rank_test(np.ones((3, 4)))
    assert found.ranks.tolist() == [2, 2, 2]
    assert found.p == 1.0
    with pytest.raises(ValueError, match="needs 3 in 2"):
        rank_test(np.ones((2, 4)))


def test_bars_join_neighbours_that_do_not_differ():
    assert cliques(np.array([1.0, 1.5, 2.9, 3.0]), 1.0) == [(0, 1), (2, 3)]
    assert cliques(np.array([3.0, 1.0, 1.8, 2.6]), 1.0) == [(1, 2), (2, 3), (3, 0)]
    assert cliques(np.array([1.0, 3.0, 5.0]), 1.0) == []


def test_scores_are_0_for_none_and_1_for_softmax_in_both_directions():
    none, softmax = np.array([2.0, 10.0]), np.array([1.0, 90.0])
    assert normalised(np.stack([none, softmax]), none=none, softmax=softmax).tolist() == [[0, 0], [1, 1]]
    assert normalised(np.array([[1.5, 50.0]]), none=none, softmax=softmax).tolist() == [[0.5, 0.5]]
