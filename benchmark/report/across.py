"""Statistics across tables: normalised scores, their interquartile mean, and ranks with a critical difference.

The measures are those of Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2108.13264), and of
Demšar, "Statistical comparisons of classifiers over multiple data sets" (JMLR 7, 2006).  Scores are arrays (runs, tables): one row
for each seed, one column for each table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A figure and its interval."""

    value: float
    low: float
    high: float


def normalised(values: np.ndarray, *, none: np.ndarray, softmax: np.ndarray) -> np.ndarray:
    """Returns scores in which 0 is the mean of ``none`` and 1 that of softmax, whichever direction is better.

    values: (..., runs, tables).  none, softmax: (tables,) or (..., 1, tables), means over seeds, which must differ.
    """
    return (values - none) / (softmax - none)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of all scores, runs and tables together: (..., runs, tables) -> (...).

    A quarter of the scores (rounded down) is left out at each end, as by ``scipy.stats.trim_mean``.
    """
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    return ordered[..., cut : count - cut].mean(-1)


def seed_interval(
    values: np.ndarray,
    *,
    none: np.ndarray,
    softmax: np.ndarray,
    backbones: np.ndarray,
    draws: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Returns the interquartile mean of the scores, and its interval for other seeds in the same tables.

    values, none, softmax: (runs, tables), the metric by seed, two runs or more; run i of a backbone is the same seed in all three.
    backbones: (tables,), a number for each backbone.

    The seeds of one backbone at a time are drawn anew, for the attention, ``none`` and softmax in all of its tables together, because its
    tables share the models of softmax, and because both ends of the scale are known from as few seeds as the attention.  The variances
    over the draws add up.  That of n seeds drawn with replacement is too small by n / (n - 1), and an estimate from n - 1 degrees of
    freedom a backbone asks for Student's t, with the degrees of freedom of the sum by Welch and Satterthwaite.
    """
    from scipy.stats import t

    runs, tables = values.shape
    scores = normalised(values, none=none.mean(0), softmax=softmax.mean(0))
    value = float(interquartile_mean(scores))
    generator = np.random.default_rng(seed)
    variances = []
    for backbone in np.unique(backbones):
        own = backbones == backbone
        rows = generator.integers(0, runs, (draws, runs))
        drawn = np.broadcast_to(scores, (draws, runs, tables)).copy()
        low, high = (end[:, own][rows].mean(1, keepdims=True) for end in (none, softmax))
        drawn[..., own] = normalised(values[:, own][rows], none=low, softmax=high)
        variances.append(interquartile_mean(drawn).var() * runs / (runs - 1))
    total = sum(variances)
    if total == 0:
        return Interval(value, value, value)
    freedom = (runs - 1) * total**2 / sum(variance**2 for variance in variances)
    half = float(t.ppf((1 + confidence) / 2, freedom) * np.sqrt(total))
    return Interval(value, value - half, value + half)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of runs, averaged over tables, whose score is above each threshold: (thresholds,)."""
    return (scores[..., None] > thresholds).mean(axis=(0, 1))


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the probability that a run of the first is better than one of the second, mean over tables; a tie counts half.

    first, second: (runs, tables), higher is better.
    """
    difference = first[:, None, :] - second[None, :, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


class RankTest(NamedTuple):
    """Mean ranks over tables (1 is best), Friedman's test, and Nemenyi's critical difference.

    p       of "all attentions are equal"
    critical_difference   two mean ranks that are further apart differ at the level of the test
    """

    ranks: np.ndarray  # (attentions,)
    num_tables: int
    p: float
    critical_difference: float


def rank_test(scores: np.ndarray, *, level: float = 0.05) -> RankTest:
    """Returns Friedman's test over tables and Nemenyi's critical difference.

    scores: (attentions, tables), higher is better, with at least three attentions and two tables; else ValueError.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    count, tables = scores.shape
    if count < 3 or tables < 2:
        raise ValueError(f"scores: {count} attentions in {tables} tables; a test of ranks needs 3 in 2")
    ranks = rankdata(-scores, axis=0).mean(axis=1)
    q = float(studentized_range.ppf(1 - level, count, np.inf)) / np.sqrt(2)
    difference = q * np.sqrt(count * (count + 1) / (6 * tables))
    is_tied = np.ptp(scores, axis=0).max() == 0
    p = 1.0 if is_tied else float(friedmanchisquare(*scores).pvalue)
    return RankTest(ranks, tables, p, float(difference))


def cliques(ranks: np.ndarray, critical_difference: float) -> list[tuple[int, ...]]:
    """Returns the largest groups of neighbours whose mean ranks don't differ: the bars of a critical-difference diagram."""
    order = np.argsort(ranks, kind="stable")
    found: list[tuple[int, ...]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and ranks[order[last + 1]] - ranks[order[first]] <= critical_difference:
            last += 1
        group = tuple(int(index) for index in order[first : last + 1])
        if len(group) > 1 and not any(set(group) <= set(other) for other in found):
            found.append(group)
    return found
