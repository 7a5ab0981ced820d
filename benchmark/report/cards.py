"""Site cards: a verdict, by rule, on whether a table can tell attentions apart at its site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal, NamedTuple

from benchmark.report import numbers
from benchmark.report.groups import Group, selection, words
from benchmark.report.tables import Printed, Row, Table, escape
from benchmark.settings.tuned import TunedFile, Verified, settings_of_site
from benchmark.statistics import Summary, summarise, t_half_width

Verdict = Literal["resolved", "transient", "redundant", "not_learnt"]

DEVIATIONS = 3.0
"""How many standard deviations of the differences between paired seeds the gap of softmax to ``none`` must be."""

MEANING: Mapping[Verdict, str] = {
    "resolved": "softmax is ahead of none by at least three deviations",
    "transient": "softmax is ahead of none, but after twice the steps the 95 % interval of the gap has zero in it",
    "redundant": "softmax is not ahead of none by three deviations, so the table can't rank attentions: as far as it shows, the "
    "rest of the model does this attention's work",
    "not_learnt": "a trivial rule is at least as good as softmax",
}


class Card(NamedTuple):
    """The verdict on one site, and the figures from which it follows."""

    verdict: Verdict | None  # None if it can't be given; ``reason`` says why
    reason: str = ""
    gap: Summary | None = None  # of softmax over none, paired by seed; positive if softmax is better
    doubled: Summary | None = None  # the same after twice the steps; None if that was not run
    rule: str | None = None  # the best trivial rule
    steady: tuple[str, Summary] | None = (
        None  # metric of selection and its gap, where the headline metric is another one
    )

    @property
    def is_verified(self) -> bool:
        """Whether the verdict takes twice the steps into account."""
        return self.doubled is not None

    @property
    def is_resolved(self) -> bool:
        """Whether the site tells attentions apart."""
        return self.verdict == "resolved"


def judge(
    softmax: Mapping[int, float],
    none: Mapping[int, float],
    rules: Mapping[str, float],
    *,
    higher_is_better: bool,
    doubled: tuple[Mapping[int, float], Mapping[int, float]] | None = None,
) -> Card:
    """Returns the verdict on a site.

    softmax, none: seed -> headline metric.  rules: trivial rule -> its value.  doubled: softmax and none after twice the steps.

    not_learnt   a rule is at least as good as the mean of softmax
    redundant    the mean gap of softmax to none, paired by seed, is below DEVIATIONS standard deviations
    transient    it is not, but after twice the steps its 95 % interval over seeds has zero in it
    resolved     it is not, and after twice the steps, where that was run with two seeds or more, the interval is above zero
    """
    sign = 1 if higher_is_better else -1
    gap = _gap(softmax, none, sign)
    if not softmax:
        return Card(None, "softmax has no result")
    mean = summarise(list(softmax.values())).mean
    best = max(rules, key=lambda name: sign * rules[name], default=None)
    if best is not None and sign * rules[best] >= sign * mean:
        return Card("not_learnt", gap=gap, rule=best)
    if gap is None or gap.deviation is None:
        return Card(None, "softmax and none need two seeds in common", gap=gap, rule=best)
    if not _is_clear(gap):
        return Card("redundant", gap=gap, rule=best)
    after = None if doubled is None else _gap(*doubled, sign)
    if after is not None and after.deviation is None:
        after = None  # one seed has no interval, so it verifies nothing
    if after is not None and not _survives(after):
        return Card("transient", gap=gap, doubled=after, rule=best)
    return Card("resolved", gap=gap, doubled=after, rule=best)


def _gap(softmax: Mapping[int, float], none: Mapping[int, float], sign: int) -> Summary | None:
    seeds = [seed for seed in softmax if seed in none]
    return summarise([sign * (softmax[seed] - none[seed]) for seed in seeds]) if seeds else None


def _is_clear(gap: Summary) -> bool:
    deviation = gap.deviation if gap.deviation is not None else math.inf
    return gap.mean > 0 and gap.mean >= DEVIATIONS * deviation


def _survives(gap: Summary) -> bool:
    deviation = gap.deviation if gap.deviation is not None else math.inf
    return gap.mean > 0 and gap.mean > t_half_width(gap.n, deviation)


def card_of(group: Group, files: Iterable[TunedFile]) -> Card | None:
    """Returns the card of a table, with what ``lavo-bench tune --verify`` found; None for a table without metrics."""
    metrics = group.metrics()
    reference = group.reference
    if not metrics or reference is None:
        return None
    name = next(iter(metrics))
    nothing = group.nothing
    rules = {rule: summarise(values[name]).mean for rule, values in group.rules().items() if values.get(name)}
    found = _verified(group, name, files)
    card = judge(
        reference.values(name),
        {} if nothing is None else nothing.values(name),
        rules,
        higher_is_better=metrics[name].higher_is_better,
        doubled=None
        if found is None
        else (dict(zip(found.seeds, found.softmax, strict=True)), dict(zip(found.seeds, found.none, strict=True))),
    )
    return card._replace(steady=_steady(group, name))


def _steady(group: Group, headline: str) -> tuple[str, Summary] | None:
    """Returns the metric by which weights and rates are selected, and the gap of softmax in it; None if it is the headline metric.

    It is a loss in most tasks, which varies less over seeds than what is made of generated texts or sounds.
    """
    metric, reference, nothing = selection(group.task), group.reference, group.nothing
    if metric is None or metric == headline or reference is None or nothing is None:
        return None
    found = group.metrics().get(metric)
    if found is None:
        return None
    gap = _gap(reference.values(metric), nothing.values(metric), 1 if found.higher_is_better else -1)
    return None if gap is None else (metric, gap)


def _verified(group: Group, metric: str, files: Iterable[TunedFile]) -> Verified | None:
    """Returns what was run at twice the steps for this task, preset, site and data, with the table's settings and learning rates.

    Of several files the last one counts, as for learning rates.
    """
    entries = (group.reference, group.nothing)
    configs = [asdict(entry.completed[0].config) for entry in entries if entry is not None]
    if len(configs) < 2:
        return None
    steps = configs[0]["train"].get("steps") or configs[0]["train"].get("epochs")
    wanted = (
        *(group.backbone, group.pattern, group.data.sha256, metric),
        *(2 * steps if isinstance(steps, int) else None, settings_of_site(configs[0])),
        tuple(config["train"].get("learning_rate") for config in configs),
    )
    for file in reversed(list(files)):
        for one in file.verified if (file.task, file.preset) == (group.task, group.preset) else ():
            found = (one.backbone, one.site, one.data, one.metric, one.steps, one.settings, one.learning_rates)
            if found == wanted:
                return one
    return None


def sentence(card: Card, metric: str) -> str:
    """Returns the card as markdown, to stand above its table."""
    if card.verdict is None:
        return f"**Site card:** no verdict, because {card.reason}."
    text = f"**Site card: {words(card.verdict)}.** {_capital(MEANING[card.verdict])}"
    if card.verdict == "not_learnt" and card.rule is not None:
        text += f" ({escape(card.rule)})"
    if card.gap is not None:
        text += f". Gap in {escape(metric)}: {_gap_words(card.gap)}"
        if card.gap.deviation is not None and _survives(card.gap._replace(mean=-card.gap.mean)):
            text += " (none is ahead: the 95 % interval is below zero)"
    if card.steady is not None:
        text += f"; in {escape(card.steady[0])}: {_gap_words(card.steady[1])}"
    if card.doubled is not None:
        text += f"; after twice the steps, on validation data, {_gap_words(card.doubled)}"
    elif card.verdict == "resolved":
        text += "; not verified at twice the steps"
    return text + "."


def _gap_words(gap: Summary) -> str:
    spread = "" if gap.deviation is None else f" ± {numbers.significant(gap.deviation, 2)}"
    return f"{numbers.significant(gap.mean)}{spread} ({gap.n} {'seed' if gap.n == 1 else 'seeds'})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def card_table(cards: Sequence[tuple[Group, Card]]) -> Table:
    """Returns the table of all cards."""
    rows, values = [], []
    for group, card in cards:
        title = f"{words(group.task)}: {group.title}"
        verdict = words(card.verdict) if card.verdict else f"no verdict: {card.reason}"
        verdict += " (not verified)" if card.is_resolved and not card.is_verified else ""
        steady = "–" if card.steady is None else f"{escape(card.steady[0])}: {_gap_words(card.steady[1])}"
        gap, doubled = ("–" if gap is None else _gap_words(gap) for gap in (card.gap, card.doubled))
        figures = [verdict, gap, steady, doubled]
        rows.append(Row(title, (*map(Printed, figures), Printed(card.rule or numbers.MISSING))))
        values.append({"site": title, "verdict": card.verdict, "is_verified": card.is_verified, "best_rule": card.rule})
    columns = ["site", "verdict", "gap to none", "gap in the metric of selection", "after twice the steps", "best rule"]
    notes = [f"{_capital(words(verdict))}: {meaning}." for verdict, meaning in MEANING.items()]
    notes += ["Verdicts follow from the first metric. That of selection, mostly a loss, varies less over seeds."]
    return Table("sites", "What each site can tell.", columns, rows, values, notes, is_prose=True)
