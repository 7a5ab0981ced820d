"""Means, spreads, intervals and paired tests, for the report and for the sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Statistic = Callable[[Mapping[str, np.ndarray]], float]


class Summary(NamedTuple):
    """The mean of ``n`` values and their sample standard deviation (divided by n - 1), None for a single value."""

    n: int
    mean: float
    deviation: float | None


class PairedTest(NamedTuple):
    """The mean of n paired differences b - a, its interval, and the two-sided p of "there is no difference".

    The interval and p are None where they can't be computed: n is too small, or there is no spread.
    """

    n: int
    difference: float
    low: float | None
    high: float | None
    p: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Returns the mean and deviation of the values.  Raises ValueError if there are none."""
    if len(values) == 0:
        raise ValueError("values: at least one is needed for a mean")
    array = np.asarray(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return Summary(len(array), float(array.mean()), deviation)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Returns Student's confidence interval of the mean, or None for fewer than two values."""
    n, mean, deviation = summarise(values)
    if deviation is None:
        return None
    half = t_half_width(n, deviation, confidence)
    return mean - half, mean + half


def t_half_width(n: int, deviation: float, confidence: float = 0.95) -> float:
    """Returns half the width of Student's confidence interval of the mean of n values, two or more."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)


def paired_t_test(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> PairedTest:
    """Returns Student's paired test of b against a, which assumes that the differences are normal.

    If all differences are equal, p is 1 where they are 0.  Otherwise there is neither p nor interval, because the test would
    call a few equal differences certain: a metric at the end of its scale has no spread, and nor have copies of one run.  Raises ValueError for lists of unequal length.
    """
    from scipy.stats import t

    if len(a) != len(b):
        raise ValueError(f"paired values: {len(a)} against {len(b)}; each needs its partner")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    n, mean, deviation = summarise(differences.tolist())
    if deviation is None:
        return PairedTest(n, mean, None, None, None)
    low, high = t_interval(differences.tolist(), confidence) or (None, None)
    if deviation <= 1e-12 * abs(mean):  # equal but for rounding
        return PairedTest(n, mean, low, high, 1.0) if mean == 0 else PairedTest(n, mean, None, None, None)
    p = 2 * float(t.sf(abs(mean) / (deviation / math.sqrt(n)), n - 1))
    return PairedTest(n, mean, low, high, p)


def paired_randomisation(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    statistic: Statistic,
    *,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedTest:
    """Returns a randomisation test over examples, for any statistic of columns (a mean, a ratio of sums).

    a, b: column -> one value for each example, with the examples in the same order.  If there is no difference, the two values
    of an example may be exchanged; p is the share of random exchanges that give a difference at least as large.  The observed case counts as
    one of them, so p is never 0.  The interval is a bootstrap over examples.
    """
    n = len(next(iter(a.values())))
    generator = np.random.default_rng(seed)
    observed = statistic(b) - statistic(a)
    if n < 2 or not math.isfinite(observed):
        return PairedTest(n, observed, None, None, None)
    extreme = 0
    resampled = np.empty(draws)
    # An exchange that gives the observed difference again counts, although rounding may make it slightly smaller.
    threshold = abs(observed) * (1 - 1e-9)
    for draw in range(draws):
        swap = generator.random(n) < 0.5
        first = {name: np.where(swap, b[name], a[name]) for name in a}
        second = {name: np.where(swap, a[name], b[name]) for name in a}
        extreme += abs(statistic(second) - statistic(first)) >= threshold
        rows = generator.integers(0, n, n)
        resampled[draw] = statistic(_take(b, rows)) - statistic(_take(a, rows))
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return PairedTest(n, observed, float(low), float(high), (extreme + 1) / (draws + 1))


class Resamples(NamedTuple):
    """Sums over resampled units, of which any number of metrics can be tested.  A unit is a cluster of examples, or one example.

    n           number of units
    totals      (2, k): sums over all units of a and of b
    without     (2, n, k): sums over all units but one
    exchanged   (2, draws, k): sums after random exchanges of the two values of a unit
    resampled   (2, draws, k): sums over bootstrap samples of the units
    """

    n: int
    totals: np.ndarray
    without: np.ndarray
    exchanged: np.ndarray
    resampled: np.ndarray

    def only(self, columns: slice) -> Resamples:
        """Returns the sums of some columns."""
        return Resamples(self.n, *(sums[..., columns] for sums in self[1:]))


def resample(
    a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None, *, draws: int = 2000, seed: int = 0
) -> Resamples:
    """Returns sums over resampled units, for ``paired_test_of_sums``: a product of matrices instead of a loop over draws.

    a, b: (examples, k), what is summed over examples, with the examples in the same order.
    clusters: (examples,), the cluster of each example, if some depend on each other; whole clusters are then resampled.
    """
    if clusters is not None:
        a, b = (_by_cluster(values, clusters) for values in (a, b))
    n, k = a.shape
    generator = np.random.default_rng(seed)
    totals, both = np.stack([a.sum(0), b.sum(0)]), np.concatenate([a, b], axis=1)
    without = totals[:, None] - np.stack([a, b])
    exchanged, resampled = np.empty((2, draws, k)), np.empty((2, draws, k))
    size = max(1, _ELEMENTS // max(n, 1))
    for first in range(0, draws, size):
        part = slice(first, min(first + size, draws))
        count = part.stop - first
        moved = (generator.random((count, n)) < 0.5).astype(np.float64) @ (b - a)
        exchanged[:, part] = totals[0] + moved, totals[1] - moved
        rows = generator.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(rows.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)
        sums = times @ both
        resampled[:, part] = sums[:, :k], sums[:, k:]
    return Resamples(n, totals, without, exchanged, resampled)


def _by_cluster(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums the values of each cluster: (examples, k) -> (clusters, k)."""
    numbers = np.unique(clusters, return_inverse=True)[1]
    sums = np.zeros((numbers.max(initial=-1) + 1, values.shape[1]))
    np.add.at(sums, numbers, values)
    return sums


_ELEMENTS = 1 << 22  # of a matrix of draws by examples: 32 MB


def paired_test_of_sums(
    found: Resamples, value: Callable[[np.ndarray], np.ndarray], *, confidence: float = 0.95
) -> PairedTest:
    """Returns what ``paired_randomisation`` does, for a statistic that is a function of sums over examples.

    With fewer than FEW_UNITS units, p and the interval are those of the delete-one jackknife with Student's t: percentiles of a bootstrap
    are then too narrow, and n exchanges can't give a p below 2^(1 - n).

    value: sums (..., k) -> (...).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        first, second = value(found.totals)
        exchanged = np.abs(np.subtract(*value(found.exchanged)))
        resampled = np.subtract(*value(found.resampled)[::-1])
        without = np.subtract(*value(found.without)[::-1])
    observed = float(second - first)
    if found.n < 2 or not math.isfinite(observed):
        return PairedTest(found.n, observed, None, None, None)
    if found.n < FEW_UNITS:
        return _jackknife(observed, without, confidence)
    draws = len(exchanged)
    extreme = int((exchanged >= abs(observed) * (1 - 1e-9)).sum())
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return PairedTest(found.n, observed, float(low), float(high), (extreme + 1) / (draws + 1))


FEW_UNITS = 100
"""With fewer clusters or examples than this, a test over examples is a jackknife."""


def _jackknife(observed: float, without: np.ndarray, confidence: float) -> PairedTest:
    """Returns the test of a difference from its values with one of n units left out, with n - 1 degrees of freedom."""
    from scipy.stats import t

    n = len(without)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    if not math.isfinite(error):  # a statistic that isn't defined without one of the units
        return PairedTest(n, observed, None, None, None)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * error
    if error <= 1e-12 * abs(observed):  # equal but for rounding
        return PairedTest(n, observed, observed, observed, 1.0 if observed == 0 else None)
    return PairedTest(n, observed, observed - half, observed + half, 2 * float(t.sf(abs(observed) / error, n - 1)))


def _take(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p values by Holm's step-down method.  None, for an unknown p, stays None and isn't counted as a test."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.median,
    *,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile interval of a statistic over bootstrap resamples of the values.

    statistic: a function that takes ``axis``, like ``np.median``.
    """
    array = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(array[rows], axis=1), [tail, 1 - tail])
    return float(low), float(high)


def best_outside_spread(summaries: Sequence[Summary | None], *, higher_is_better: bool) -> int | None:
    """Returns the index of the best summary, or None if it can't be distinguished from all others.

    Two summaries are distinguished if their means differ by more than the sum of their deviations, so that the ranges
    mean ± deviation don't touch.  The result is None for fewer than two summaries, and if any of them has no deviation
    (one seed), because its mean could lie anywhere.  Entries that are None have no figure and are skipped.
    """
    contenders = [(index, summary) for index, summary in enumerate(summaries) if summary is not None]
    if len(contenders) < 2 or any(summary.deviation is None for _, summary in contenders):
        return None
    sign = -1 if higher_is_better else 1
    (index, best), *others = sorted(contenders, key=lambda contender: sign * contender[1].mean)
    if all(_apart(best, other) for _, other in others):
        return index
    return None


def _apart(first: Summary, second: Summary) -> bool:
    """Returns True if the ranges mean ± deviation don't touch, False if they do or a deviation is unknown."""
    if first.deviation is None or second.deviation is None:
        return False
    return abs(first.mean - second.mean) > first.deviation + second.deviation
