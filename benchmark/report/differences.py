"""Differences between two rows of a table, with both kinds of uncertainty: over seeds, and over test examples."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark.interface import CLUSTER, Sums, mean_of
from benchmark.report.groups import Entry, Group, task_metrics
from benchmark.results import Record
from benchmark.statistics import PairedTest, holm, paired_randomisation, paired_t_test, paired_test_of_sums, resample

LEVEL = 0.05  # of the tests, after Holm's adjustment
FEWEST_EQUAL = 3  # seeds that must give the same difference for a verdict without a p; two agree by chance where figures are coarse
_DRAWS = 1000  # random exchanges of the test over examples

Verdict = Literal["better", "worse", "open"]


class Difference(NamedTuple):
    """One row against another, in one metric.

    over_seeds      over the seeds that both have; interval and p are None for a single seed, and where seeds have no spread
    over_examples   over the test examples of the first such seed; None if their values aren't known
    p_holm          p over seeds, adjusted for the number of rows in the table
    verdict         "better" or "worse" if the difference is resolved, else "open"
    """

    over_seeds: PairedTest
    over_examples: PairedTest | None
    p_holm: float | None
    verdict: Verdict

    @property
    def has_no_spread(self) -> bool:
        """Whether all seeds give the same difference."""
        return has_no_spread(self.over_seeds)


def has_no_spread(over_seeds: PairedTest) -> bool:
    """Returns whether all of several seeds give the same difference, other than 0, so that there is no p."""
    return over_seeds.n > 1 and over_seeds.p is None


def says_opposite(over_seeds: PairedTest, over_examples: PairedTest | None) -> bool:
    """Returns whether the first seed, on which test examples are compared, differs the other way than the mean over seeds."""
    return over_examples is not None and over_examples.difference * over_seeds.difference < 0


def verdict_of(
    over_seeds: PairedTest, over_examples: PairedTest | None, p_holm: float | None, *, higher_is_better: bool
) -> Verdict:
    """Returns "better" or "worse" if the difference is resolved and test examples don't say the opposite; else "open".

    Where all seeds give the same difference there is no p.  It counts as resolved over seeds from FEWEST_EQUAL seeds on.
    """
    if has_no_spread(over_seeds) and over_seeds.n >= FEWEST_EQUAL:
        p_holm = 0.0
    if not is_resolved(p_holm, None if over_examples is None else over_examples.p):
        return "open"
    if says_opposite(over_seeds, over_examples):
        return "open"
    return "better" if (over_seeds.difference > 0) == higher_is_better else "worse"


def is_resolved(p_holm: float | None, p_examples: float | None) -> bool:
    """Returns whether a difference is resolved: both p are below LEVEL.  That over examples may be unknown (None, NaN)."""
    over_seeds = p_holm is not None and p_holm < LEVEL
    return over_seeds and (p_examples is None or math.isnan(p_examples) or p_examples < LEVEL)


def against_exact(group: Group) -> dict[str, Difference]:
    """Returns label -> difference of the table's first metric from that of the exact attention."""
    logging.getLogger(__name__).info("comparing attentions: %s, %s", group.task, group.title)
    reference, metrics = group.reference, group.metrics()
    if reference is None or not metrics:
        return {}
    metric = next(iter(metrics))
    found: dict[str, tuple[PairedTest, PairedTest | None]] = {}
    for entry in group.entries:
        first, second = reference.values(metric), entry.values(metric)
        seeds = [seed for seed in first if seed in second]
        if entry is reference or not seeds:
            continue
        over_seeds = paired_t_test([first[seed] for seed in seeds], [second[seed] for seed in seeds])
        found[entry.label] = over_seeds, tests_over_examples(reference, entry, [metric], group.task).get(metric)
    adjusted = holm([over_seeds.p for over_seeds, _ in found.values()])
    return {
        label: Difference(*pair, p, verdict_of(*pair, p, higher_is_better=metrics[metric].higher_is_better))
        for (label, pair), p in zip(found.items(), adjusted, strict=True)
    }


def tests_over_examples(a: Entry, b: Entry, metrics: Sequence[str], task: str) -> dict[str, PairedTest]:
    """Tests over the examples of the first seed that both have, or over clusters of them where records name clusters: metric -> test.

    Empty if the examples aren't the same.  Metrics that can't be computed from their columns are left out, and so are those for which
    the columns give another figure than the record has.
    """
    seeds = [record.cell.seed for record in b.completed]
    pair = next(((one, _of_seed(b, one.cell.seed)) for one in a.completed if one.cell.seed in seeds), None)
    if pair is None or pair[0].data.sha256 != pair[1].data.sha256:
        return {}
    try:
        first, second = ({str(name): column.to_numpy() for name, column in r.examples.items()} for r in pair)
    except ValueError:  # recorded without examples, or copied without them
        return {}
    clusters = first.pop(CLUSTER, None)
    second.pop(CLUSTER, None)
    if first.keys() != second.keys() or len({len(column) for column in (*first.values(), *second.values())}) != 1:
        return {}
    forms = {name: form for name in metrics if (form := _sums(name, task, first)) is not None}
    known = task_metrics(task)
    tests = {
        name: paired_randomisation(first, second, known[name].value, draws=_DRAWS)
        for name in metrics
        if name in known and name not in forms
    }
    terms = {name: (form.terms(first), form.terms(second)) for name, form in forms.items()}
    if not terms:
        return tests
    one, other = (np.concatenate([pair[side] for pair in terms.values()], axis=1) for side in (0, 1))
    found = resample(one, other, clusters, draws=_DRAWS)
    begin = 0
    for name, (own, _) in terms.items():
        part = slice(begin, begin := begin + own.shape[1])
        test = paired_test_of_sums(found.only(part), forms[name].value)
        if _agrees(forms[name].value(found.totals[0, part]), pair[0].value(name)):
            tests[name] = test
    return tests


def _of_seed(entry: Entry, seed: int) -> Record:
    return next(record for record in entry.completed if record.cell.seed == seed)


def _agrees(computed: Any, recorded: float | None) -> bool:
    return recorded is not None and math.isclose(float(computed), recorded, rel_tol=1e-5, abs_tol=1e-9)


def _sums(metric: str, task: str, columns: Mapping[str, np.ndarray]) -> Sums | None:
    """Returns the form of the metric that can be resampled: the task's, or the mean of its column if the task isn't installed."""
    known = task_metrics(task)
    if metric in known:
        return known[metric].sums
    return mean_of(metric, unit="", card="").sums if metric in columns else None
