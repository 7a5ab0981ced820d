"""What all resolved tables say together: scores from ``none`` (0) to softmax (1), and ranks, as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.interface import EVERY
from benchmark.report import numbers
from benchmark.report.across import (
    Interval,
    RankTest,
    cliques,
    normalised,
    performance_profile,
    probability_of_improvement,
    rank_test,
    seed_interval,
)
from benchmark.report.cards import Card
from benchmark.report.degenerate import has_broken_scale
from benchmark.report.groups import Entry, Group, canonical, settings_by_name
from benchmark.report.style import PAGE_WIDTH, style_of
from benchmark.report.summary import headline
from benchmark.report.tables import Printed, Row, Table, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COVERAGE = "In simulations of 13 tables with three seeds, it covers the true value in 94 to 96 %."
"""Of the interval; tests/test_across.py simulates it."""


class Averaged(NamedTuple):
    """The resolved tables, by whether they enter the averages."""

    groups: list[Group]
    broken: list[Group]  # in which softmax or none is degenerate


def averaged(cards: Iterable[tuple[Group, Card | None]]) -> Averaged:
    """Returns the resolved sites without the pattern ``every``, which contains the other sites of its backbone.

    A table in which softmax or ``none`` is degenerate has no scale, so it is left out for every attention.  A degenerate cell of another
    attention is scored as it stands: if its table were left out, an attention would rise by diverging where it is weak, and if the
    attention were, its bad figures would be hidden.
    """
    resolved = [group for group, card in cards if card is not None and card.is_resolved and group.pattern != EVERY]
    broken = [group for group in resolved if has_broken_scale(group)]
    return Averaged([group for group in resolved if group not in broken], broken)


class Scores(NamedTuple):
    """Normalised scores of the attentions that have all seeds in all of these tables, and the figures they are made of.

    Arrays are (runs, tables); run i of a backbone is the same seed in all of its tables.
    """

    tables: tuple[str, ...]  # their titles
    by_label: Mapping[str, np.ndarray]  # label -> scores
    left_out: tuple[str, ...]  # labels that lack a seed in one of the tables
    reference: str  # the label of exact attention
    values: Mapping[str, np.ndarray]  # label -> metric
    none: np.ndarray  # metric of ``none``
    softmax: np.ndarray  # metric of exact attention
    backbones: np.ndarray  # (tables,), a number for each backbone with its data and settings


class _Scale(NamedTuple):
    """A table and both ends of its scale."""

    group: Group
    none: Entry
    softmax: Entry
    backbone: str  # equal for tables that share their models of softmax

    @property
    def seeds(self) -> list[int]:
        """The seeds that both ends have."""
        metric = headline(self.group)
        return [seed for seed in self.none.values(metric) if seed in self.softmax.values(metric)]


def scores_of(resolved: Sequence[Group]) -> Scores | None:
    """Returns the scores over resolved tables; None for fewer than two tables, attentions or seeds.

    Seeds are those that softmax and ``none`` have in all tables of a backbone, as many for each backbone.
    """
    scales = [
        _Scale(group, group.nothing, group.reference, _backbone(group))
        for group in resolved
        if group.reference is not None and group.nothing is not None
    ]
    seeds = _seeds(scales)
    if len(scales) < 2 or len(seeds[0]) < 2:
        return None
    groups = [scale.group for scale in scales]
    none, softmax = (
        _values(ends, groups, seeds) for ends in zip(*((one.none, one.softmax) for one in scales), strict=True)
    )
    assert none is not None
    assert softmax is not None
    by_label, values, left_out = {}, {}, []
    for label in dict.fromkeys(entry.label for group in groups for entry in group.contenders if entry.completed):
        own = _values([_row(group, label) for group in groups], groups, seeds)
        if own is None:
            left_out.append(label)
        else:
            values[label] = own
            by_label[label] = normalised(own, none=none.mean(0), softmax=softmax.mean(0))
    if len(by_label) < 2:
        return None
    numbered = np.unique([scale.backbone for scale in scales], return_inverse=True)[1]
    titles = tuple(f"{group.task}: {group.title}" for group in groups)
    return Scores(titles, by_label, tuple(left_out), scales[0].softmax.label, values, none, softmax, numbered)


def _backbone(group: Group) -> str:
    """Returns a text that is equal for the tables of one backbone with the same data and settings."""
    return canonical([group.task, group.backbone, group.preset, group.data.sha256, settings_by_name(group.settings)])


def _seeds(scales: Sequence[_Scale]) -> list[list[int]]:
    """Returns the seeds of each table: those that all tables of its backbone have, as many for every table."""
    common: dict[str, list[int]] = {}
    for scale in scales:
        before = common.get(scale.backbone, scale.seeds)
        common[scale.backbone] = [seed for seed in before if seed in scale.seeds]
    runs = min(map(len, common.values()), default=0)
    return [common[scale.backbone][:runs] for scale in scales]


def _row(group: Group, label: str) -> Entry | None:
    return next((entry for entry in group.contenders if entry.label == label), None)


def _values(
    entries: Sequence[Entry | None], groups: Sequence[Group], seeds: Sequence[Sequence[int]]
) -> np.ndarray | None:
    """Returns the headline metric of a row of each table, (runs, tables); None if a row or a seed is missing."""
    columns = []
    for entry, group, wanted in zip(entries, groups, seeds, strict=True):
        found = {} if entry is None else entry.values(headline(group))
        if any(seed not in found for seed in wanted):
            return None
        columns.append([found[seed] for seed in wanted])
    return np.array(columns).T


def ranks_of(scores: Scores) -> RankTest | None:
    """Returns the test of mean ranks, or None for fewer than three attentions."""
    means = np.stack([found.mean(0) for found in scores.by_label.values()])
    return rank_test(means) if len(means) > 2 else None


def score_intervals(scores: Scores | None) -> dict[str, Interval]:
    """Returns label -> interquartile mean of its scores, with its interval; nothing without scores.

    Exact attention is the 1 of the scale, whatever its seeds, so its score is 1 and its interval has no width.
    """
    if scores is None:
        return {}
    found = {
        label: seed_interval(own, none=scores.none, softmax=scores.softmax, backbones=scores.backbones)
        for label, own in scores.values.items()
    }
    return {label: Interval(1.0, 1.0, 1.0) if label == scores.reference else one for label, one in found.items()}


def aggregate_table(scores: Scores | None, intervals: Mapping[str, Interval]) -> Table | None:
    """Returns one row for each attention: interquartile mean, probability of beating exact attention, and mean rank.

    intervals: ``score_intervals(scores)``.
    """
    if scores is None:
        return None
    ranks = ranks_of(scores)
    exact = scores.by_label.get(scores.reference)
    rows, values = [], []
    for index, (label, found) in enumerate(scores.by_label.items()):
        mean = intervals[label]
        better = None if exact is None or label == scores.reference else probability_of_improvement(found, exact)
        rank = None if ranks is None else float(ranks.ranks[index])
        printed = [interval_words(mean), _optional(better), _optional(rank)]
        rows.append(Row(label, tuple(map(Printed, printed))))
        names = {"interquartile_mean": mean.value, "low": mean.low, "high": mean.high}
        values.append({"attention": label, **names, "probability_of_improvement": better, "mean_rank": rank})
    columns = ["attention", "interquartile mean", f"P(better than {scores.reference})", "mean rank"]
    caption = f"Across the {len(scores.tables)} resolved sites."
    return Table("across", caption, columns, rows, values, _notes(scores, ranks))


def interval_words(found: Interval) -> str:
    """Writes ``0.54 [0.47, 0.61]``, and ``1`` for the score of exact attention, which is 1 by construction."""
    if found == (1.0, 1.0, 1.0):
        return "1"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", numbers.MINUS)


def _optional(value: float | None) -> str:
    return numbers.MISSING if value is None else f"{value:.2f}"


def _notes(scores: Scores, ranks: RankTest | None) -> list[str]:
    runs, tables = scores.none.shape
    exact = escape(scores.reference)
    notes = [
        f"A score is 0 for the mean of none and 1 for that of {exact} in the same table, so {exact} has 1 by construction. The "
        f"interquartile mean (Agarwal et al., 2108.13264) is over {runs} seeds × {tables} tables. Its 95 % interval is for other seeds "
        f"at these sites; with other sites the scores would be others. Seeds are resampled by backbone, those of none, {exact} and the "
        f"attention together, so the ends of the scale vary too; the variance is corrected for few seeds (n / (n − 1), Student's t). "
        f"{COVERAGE} The pattern every is left out, because it contains the sites of its backbone. P: that a seed is better than one of "
        "exact attention, a tie counting half, mean over tables."
    ]
    if ranks is not None:
        notes.append(
            f"Mean ranks (1 is best) over {ranks.num_tables} tables: p {numbers.p_value(ranks.p)} by Friedman's test; two mean "
            f"ranks differ at 5 % if they are {ranks.critical_difference:.2f} apart (Nemenyi)."
        )
    if scores.left_out:
        notes.append(f"Left out, because a seed or a table is missing: {escape(', '.join(scores.left_out))}.")
    return notes


def across_figure(scores: Scores | None) -> Figure | None:
    """Draws the share of runs above each score, and the mean ranks with bars over those that don't differ (Nemenyi)."""
    from benchmark.report.figures import new_figure

    ranks = None if scores is None else ranks_of(scores)
    if scores is None or ranks is None:
        return None
    figure, axes = new_figure(1, 2, width=PAGE_WIDTH, height=2.4)
    profile, diagram = axes.flat
    thresholds = np.linspace(-0.25, 1.25, 301)
    for label, found in scores.by_label.items():
        style = style_of(label)
        shares = performance_profile(found, thresholds)
        profile.plot(thresholds, shares, label=label, color=style.color, linestyle=style.linestyle)
    profile.set(xlabel="score (0: none, 1: exact attention)", ylabel="share of runs above", ylim=(-0.02, 1.02))
    profile.legend(loc="lower left")
    _rank_diagram(diagram, list(scores.by_label), ranks)
    return figure


def _rank_diagram(axis: Axes, labels: Sequence[str], ranks: RankTest) -> None:
    order = np.argsort(ranks.ranks, kind="stable")
    for row, index in enumerate(order):
        rank, style = float(ranks.ranks[index]), style_of(labels[index])
        depth = row - len(order)  # the label furthest to the left stands lowest, so no line crosses one
        axis.plot([rank, rank], [0, depth], color=style.color, linewidth=0.8)
        axis.plot(rank, 0, marker=style.marker, color=style.color, markerfacecolor=style.markerfacecolor)
        axis.text(rank, depth, f" {labels[index]} ({rank:.2f})", va="center", fontsize=7.5)
    bars = cliques(ranks.ranks, ranks.critical_difference)
    for height, group in enumerate(bars, 1):
        ends = ranks.ranks[list(group)]
        axis.plot([ends.min() - 0.05, ends.max() + 0.05], [0.35 * height] * 2, color="black", linewidth=2.5)
    axis.set(
        xlim=(0.8, len(labels) + 0.9),
        ylim=(-len(labels) - 0.6, 0.35 * len(bars) + 0.6),
        xlabel=f"mean rank (1 is best); critical difference {ranks.critical_difference:.2f}",
    )
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
