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
    seed_interval,
)
from benchmark.statistics import t_interval

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


BACKBONES = np.repeat(np.arange(7), [1, 1, 1, 3, 2, 1, 4])
"""The 13 resolved sites of ``quick``: how many each backbone has."""


class World:
    """Attentions, ``none`` and softmax with true means and deviations, from which cells are drawn as a run would give them."""

    def __init__(self, generator: np.random.Generator) -> None:
        tables = len(BACKBONES)
        self.mean = np.clip(generator.normal(0.7, 0.35, tables), -0.05, 1.1)
        self.deviation = generator.choice([0.02, 0.05, 0.1, 0.3, 0.5], tables)
        self.of_none = generator.choice([0.01, 0.03, 0.06, 0.1, 0.2], tables)
        self.of_softmax = generator.choice([0.002, 0.04, 0.08, 0.12, 0.2], 7)[BACKBONES]

    def draw(self, generator: np.random.Generator, runs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what the attention, ``none`` and softmax have, (runs, tables); the tables of a backbone share softmax."""
        own, none = generator.standard_normal((2, runs, len(BACKBONES)))
        shared = generator.standard_normal((runs, 7))[:, BACKBONES]
        return self.mean + self.deviation * own, self.of_none * none, 1 + self.of_softmax * shared


def test_the_interval_covers_the_mean_of_many_seeds_with_estimated_and_shared_ends():
    """Three seeds, 13 tables.  Intervals that take the ends as known, and tables as independent, cover about 80 %."""
    generator, covered = np.random.default_rng(3), []
    for _ in range(50):
        world = World(generator)
        true = interquartile_mean(world.draw(generator, 3001)[0])  # softmax is 1 and none 0 on average
        for _ in range(8):
            values, none, softmax = world.draw(generator, 3)
            found = seed_interval(values, none=none, softmax=softmax, backbones=BACKBONES, draws=60)
            covered.append(found.low <= true <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_of_one_table_with_known_ends_is_students():
    values = np.array([[0.2], [0.5], [0.9]])
    ends = {"none": np.zeros((3, 1)), "softmax": np.ones((3, 1))}
    found = seed_interval(values, **ends, backbones=np.zeros(1), draws=40_000)
    assert (found.low, found.high) == pytest.approx(t_interval(values[:, 0].tolist()), abs=0.02)


def test_the_ends_of_the_scale_are_drawn_with_the_attention():
    softmax, none = np.array([[0.8], [1.0], [1.2]]), np.zeros((3, 1))
    one = {"none": none, "softmax": softmax, "backbones": np.zeros(1)}
    same = seed_interval(softmax, **one)  # as flash is: seed by seed what softmax is
    assert same == pytest.approx((1, 1, 1))
    steady = seed_interval(np.full((3, 1), 0.5), **one)
    assert steady.low < 0.4 < steady.value == 0.5 < 0.6 < steady.high


def test_tables_of_one_backbone_have_the_same_draw_of_softmax():
    softmax, none = np.repeat([[0.8], [1.0], [1.2]], 2, axis=1), np.zeros((3, 2))
    values = np.full((3, 2), 0.5)
    variances = []
    for backbones in ([0, 0], [0, 1]):
        found = seed_interval(values, none=none, softmax=softmax, backbones=np.array(backbones), draws=4000)
        freedom = 2 if backbones == [0, 0] else 4
        variances.append(((found.high - found.value) / stats.t.ppf(0.975, freedom)) ** 2)
    assert variances[0] / variances[1] == pytest.approx(2, rel=0.15)


def test_seeds_that_agree_leave_an_interval_without_width():
    scores = np.stack([np.zeros(3), np.full(3, 5.0)], axis=1)
    found = seed_interval(
        scores, none=np.zeros((3, 2)), softmax=np.full((3, 2), 10.0), backbones=np.array([0, 1]), draws=10
    )
    assert found == (0.25, 0.25, 0.25)


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
