"""Findings about quality, from tables: comparisons at sites, ablations, and losses beyond the training length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from benchmark.interface import PRESETS
from benchmark.report import numbers
from benchmark.report.claims.files import Ablation, Extrapolation, Sites
from benchmark.report.claims.found import (
    Records,
    largest,
    losses_by_length,
    scale_of,
    table_words,
    the_entry,
    unresolved,
)
from benchmark.report.claims.rules import RANGE, Compared, Finding, judge_difference
from benchmark.report.differences import tests_over_examples
from benchmark.report.groups import Entry, Group, declared
from benchmark.report.tables import heading, reason_of, status_words
from benchmark.statistics import PairedTest, holm, paired_t_test

EXTRAPOLATION = "extrapolation"
"""The only part of a claim about extrapolation."""


class _Pair(NamedTuple):
    """A comparison before its p is adjusted: what the finding will be, once it is judged.

    The reason of ``finding`` is what stands after that of the outcome.
    """

    finding: Finding
    compared: Compared
    is_context: bool = False


def _judged(pairs: Sequence[_Pair]) -> list[Finding]:
    """Returns the findings of these comparisons, with p adjusted by Holm over all of them."""
    found = []
    for pair, p in zip(pairs, holm([pair.compared.over_seeds.p for pair in pairs]), strict=True):
        outcome, reason = judge_difference(pair.compared, p)
        over_seeds, over_examples = pair.compared.over_seeds, pair.compared.over_examples
        one = pair.finding._replace(
            value=over_seeds.difference,
            low=over_seeds.low,
            high=over_seeds.high,
            p=p,
            n=over_seeds.n,
            outcome="context" if pair.is_context else outcome,
            reason=reason + pair.finding.reason,
        )
        if over_examples is not None:
            one = one._replace(low_test=over_examples.low, high_test=over_examples.high)
        found.append(one)
    return found


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> PairedTest | None:
    seeds = [seed for seed in ours if seed in theirs]
    return paired_t_test([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds]) if seeds else None


def _compare(group: Group, ours: Entry, theirs: Entry, metric: str) -> Compared | None:
    over_seeds = _paired(ours.values(metric), theirs.values(metric))
    if over_seeds is None:
        return None
    over_examples = tests_over_examples(theirs, ours, [metric], group.task).get(metric)
    return Compared(over_seeds, over_examples, group.metrics()[metric].higher_is_better)


def _pair(
    part: str, group: Group, ours: Entry, theirs: Entry, *, metric: str, is_context: bool = False
) -> _Pair | None:
    compared = _compare(group, ours, theirs, metric)
    if compared is None:
        return None
    scale = scale_of(group)
    if compared.over_examples is None:
        scale = scale._replace(limits=(*scale.limits, "test sampling unknown"))
    what = f"{ours.label} {numbers.MINUS} {theirs.label}"
    figure = heading(metric, compared.higher_is_better, group.metrics()[metric].unit)
    one = Finding(part, "open", table_words(group), what, figure, scale=scale, reason=_untuned(ours, theirs))
    return _Pair(one, compared, is_context)


def _untuned(ours: Entry, theirs: Entry) -> str:
    """Returns a warning if the learning rate of only one of the two rows was tuned."""
    tuned = [e.label for e in (ours, theirs) if e.completed[0].config.learning_rate_from == "tuned"]
    return f", where only the learning rate of {tuned[0]} was tuned" if len(tuned) == 1 else ""


def sites_findings(rule: Sites, attention: str, records: Records) -> list[Finding]:
    """Returns comparisons at the sites of each part; those at sites that are not resolved decide nothing."""
    pairs: list[_Pair | None] = []
    found: list[Finding] = []
    for part, sites in rule.parts.items():
        for site in sites:
            tables = records.at(site.task, site.backbone, site.pattern)
            deciding = largest(tables, attention)
            found += [] if deciding else [_lost(part, group, attention) for group in tables]
            for group in deciding:
                reason = unresolved(group, records.cards.get(id(group)), attention)
                metric = rule.metric or next(iter(group.metrics()))
                if not reason and metric not in group.metrics():
                    reason = f"it has no metric {metric}"
                if not reason and not _rivals(group, attention):
                    reason = "no other linear attention has a result there"
                if reason:
                    found.append(Finding(part, "unusable", table_words(group), scale=scale_of(group), reason=reason))
                    continue
                pairs += _site_pairs(part, group, the_entry(group, attention), metric)
    return [*found, *_judged([pair for pair in pairs if pair is not None])]


def _lost(part: str, group: Group, attention: str) -> Finding:
    """Returns the finding of a table in which the attention has no result."""
    own = [entry for entry in group.entries if entry.attention == attention]
    reason = f"no record of {attention}"
    if len([entry for entry in own if entry.completed]) > 1:
        reason = f"several variants of {attention}, none of them named {attention}"
    elif own:
        first = own[0].records[0]
        reason = f"{status_words(first)}: {reason_of(first)}"
    return Finding(part, "missing", table_words(group), scale=scale_of(group), reason=reason)


def _rivals(group: Group, attention: str) -> list[Entry]:
    """Returns the rows of the other linear attentions that have results."""
    own = [e for e in group.contenders if e.completed and e.attention != attention]
    return [entry for entry in own if declared(entry.attention).get("linear_state", False)]


def _site_pairs(part: str, group: Group, ours: Entry, metric: str) -> list[_Pair | None]:
    """Returns the comparisons at a resolved site: with linear attentions and ``none``, which decide, and with the exact one."""
    make = partial(_pair, part, group, ours, metric=metric)
    deciding = [*_rivals(group, ours.attention), *([group.nothing] if group.nothing is not None else [])]
    exact = group.reference
    context = [exact] if exact is not None and exact is not ours else []
    return [*map(make, deciding), *(make(entry, is_context=True) for entry in context)]


def ablation_findings(rule: Ablation, attention: str, records: Records) -> list[Finding]:
    """Returns comparisons of the whole attention with the same without a part."""
    pairs: list[_Pair | None] = []
    found: list[Finding] = []
    tables = records.at(rule.task, rule.backbone, rule.pattern)
    for part, options in rule.without.items():
        matched = [(group, *two) for group in tables for two in _ablated(group, attention, options)]
        ranks = [PRESETS.index(group.preset) if group.preset in PRESETS else -1 for group, _, _ in matched]
        for (group, whole, without), rank in zip(matched, ranks, strict=True):
            card = records.cards.get(id(group))
            # A table of variants alone has no card; its comparison needs none, because a part that matters shows in it.
            has_verdict = card is not None and card.verdict is not None
            if rank < max(ranks):
                continue
            if has_verdict and (reason := unresolved(group, card, attention)):
                found.append(Finding(part, "unusable", table_words(group), scale=scale_of(group), reason=reason))
            else:
                pairs.append(_pair(part, group, whole, without, metric=next(iter(group.metrics()))))
        if not matched:
            named = ", ".join(f"{name}: {str(value).lower()}" for name, value in options.items())
            found.append(Finding(part, "missing", reason=f"no record of {attention} with {named}"))
    return [*found, *_judged([pair for pair in pairs if pair is not None])]


def _ablated(group: Group, attention: str, off: Mapping[str, object]) -> list[tuple[Entry, Entry]]:
    """Returns pairs (whole, without) of rows that differ in these options alone."""
    own = [entry for entry in group.entries if entry.attention == attention and entry.completed]

    def options(entry: Entry) -> dict[str, object]:
        return dict(entry.completed[0].config.options)

    without = [entry for entry in own if {**options(entry), **off} == options(entry)]
    return [
        (whole, other)
        for other in without
        for whole in own
        if whole not in without and {**options(whole), **off} == options(other)
    ]


def extrapolation_findings(rule: Extrapolation, attention: str, records: Records) -> list[Finding]:
    """Returns comparisons of the loss at the longest length, and of its rise since the training length."""
    found: list[Finding] = []
    pairs: list[_Pair] = []
    for group in largest(records.at(rule.task, rule.backbone, rule.pattern), attention):
        ours = the_entry(group, attention)
        trained, longest = _lengths(ours)
        scale = scale_of(group)._replace(limits=(*scale_of(group).limits, "test sampling unknown"))
        blank = Finding(EXTRAPOLATION, "unusable", table_words(group), scale=scale)
        if not longest or longest < RANGE * trained:
            reason = f"no loss at {RANGE} times the training length" if trained else "no loss by length"
            found.append(blank._replace(outcome="missing", reason=reason))
            continue
        if reason := unresolved(group, records.cards.get(id(group)), attention):
            found.append(blank._replace(reason=reason))
            continue
        found += [_rise_of(blank, entry, trained, longest) for entry in group.entries if _losses(entry, longest)]
        rivals = [e for e in group.contenders if e.completed and e.attention != ours.attention]
        rivals = [entry for entry in rivals if not entry.is_exact or entry is group.reference]
        against = [pair for rival in rivals for pair in _extrapolated(blank, ours, rival, trained, longest)]
        if not against:
            found.append(blank._replace(reason="no other attention has losses at these lengths"))
        pairs += against
    return [*found, *_judged(pairs)]


def _lengths(entry: Entry) -> tuple[int, int]:
    """Returns the length of training, and the longest length with a loss; zeros without any."""
    record = entry.completed[0]
    rows = losses_by_length(record)
    if not rows:
        return 0, 0
    trained = record.curves.get("training_length")
    return (trained if trained in rows else min(rows)), max(rows)


def _losses(entry: Entry, length: int) -> dict[int, float]:
    """Returns seed -> loss at this length."""
    found = {record.cell.seed: losses_by_length(record).get(length) for record in entry.completed}
    return {seed: float(row["loss"]) for seed, row in found.items() if row is not None}


def _rises(entry: Entry, trained: int, longest: int) -> dict[int, float]:
    first, last = _losses(entry, trained), _losses(entry, longest)
    return {seed: last[seed] - first[seed] for seed in last if seed in first}


def _rise_of(blank: Finding, entry: Entry, trained: int, longest: int) -> Finding:
    """Returns the rise of one attention's own loss, which is shown and decides nothing."""
    rises = _rises(entry, trained, longest)
    test = _paired(rises, dict.fromkeys(rises, 0.0))
    figure = f"loss at {numbers.length(longest)} {numbers.MINUS} loss at {numbers.length(trained)}"
    one = blank._replace(outcome="context", what=entry.label, figure=figure, reason="its own rise; falls if negative")
    return one if test is None else one._replace(value=test.difference, low=test.low, high=test.high, n=test.n)


def _extrapolated(blank: Finding, ours: Entry, rival: Entry, trained: int, longest: int) -> list[_Pair]:
    what = f"{ours.label} {numbers.MINUS} {rival.label}"
    length = numbers.length(longest)
    figures = {
        f"loss at {length} ↓": (_losses(ours, longest), _losses(rival, longest)),
        f"rise of the loss from {numbers.length(trained)} to {length} ↓": (
            _rises(ours, trained, longest),
            _rises(rival, trained, longest),
        ),
    }
    tests = {figure: _paired(*values) for figure, values in figures.items()}
    return [
        _Pair(blank._replace(what=what, figure=figure), Compared(test, None, higher_is_better=False))
        for figure, test in tests.items()
        if test is not None
    ]
