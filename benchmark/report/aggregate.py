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
    interquartile_mean,
    normalised,
    performance_profile,
    probability_of_improvement,
    rank_test,
    stratified_interval,
)
from benchmark.report.cards import Card
from benchmark.report.degenerate import has_broken_scale
from benchmark.report.groups import Entry, Group
from benchmark.report.style import PAGE_WIDTH, style_of
from benchmark.report.summary import headline
from benchmark.report.tables import Printed, Row, Table, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    """Normalised scores of the attentions that have all seeds in all of these tables."""

    tables: tuple[str, ...]  # their titles
    by_label: Mapping[str, np.ndarray]  # label -> (runs, tables)
    left_out: tuple[str, ...]  # labels that lack a seed in one of the tables
    reference: str  # the label of exact attention


def scores_of(resolved: Sequence[Group]) -> Scores | None:
    """Returns the scores over resolved tables; None for fewer than two tables or attentions.

    Seeds are those that softmax and ``none`` have in common, as many for each table.
    """
    pairs = [(group, group.nothing) for group in resolved if group.reference is not None]
    usable = [(group, none) for group, none in pairs if none is not None]
    if len(usable) < 2:
        return None
    seeds = [_common(group, none) for group, none in usable]
    runs = min(len(found) for found in seeds)
    labels = list(dict.fromkeys(entry.label for group, _ in usable for entry in group.contenders if entry.completed))
    by_label, left_out = {}, []
    for label in labels:
        columns = []
        for (group, none), found in zip(usable, seeds, strict=True):
            metric, entry = headline(group), next((e for e in group.contenders if e.label == label), None)
            values = {} if entry is None else entry.values(metric)
            own = [values[seed] for seed in found[:runs] if seed in values]
            if len(own) < runs or group.reference is None:
                break
            ends = (_mean(one, metric, found[:runs]) for one in (none, group.reference))
            low, high = (np.array([end]) for end in ends)
            columns.append(normalised(np.array(own)[:, None], none=low, softmax=high))
        if runs and len(columns) == len(usable):
            by_label[label] = np.concatenate(columns, axis=1)
        else:
            left_out.append(label)
    reference = usable[0][0].reference
    if len(by_label) < 2 or reference is None:
        return None
    titles = tuple(f"{group.task}: {group.title}" for group, _ in usable)
    return Scores(titles, by_label, tuple(left_out), reference.label)


def _common(group: Group, none: Entry) -> list[int]:
    metric, reference = headline(group), group.reference
    return [seed for seed in none.values(metric) if reference is not None and seed in reference.values(metric)]


def _mean(entry: Entry, metric: str, seeds: Sequence[int]) -> float:
    values = entry.values(metric)
    return float(np.mean([values[seed] for seed in seeds]))


def ranks_of(scores: Scores) -> RankTest | None:
    """Returns the test of mean ranks, or None for fewer than three attentions."""
    means = np.stack([found.mean(0) for found in scores.by_label.values()])
    return rank_test(means) if len(means) > 2 else None


def score_intervals(scores: Scores | None) -> dict[str, Interval]:
    """Returns label -> interquartile mean of its scores, with its interval; nothing without scores."""
    found = {} if scores is None else scores.by_label
    return {label: stratified_interval(own, interquartile_mean) for label, own in found.items()}


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
    """Writes ``0.54 [0.47, 0.61]``."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", numbers.MINUS)


def _optional(value: float | None) -> str:
    return numbers.MISSING if value is None else f"{value:.2f}"


def _notes(scores: Scores, ranks: RankTest | None) -> list[str]:
    runs = next(iter(scores.by_label.values())).shape[0]
    notes = [
        f"A score is 0 for the mean of none and 1 for that of {escape(scores.reference)} in the same table. The interquartile "
        f"mean is over {runs} seeds × {len(scores.tables)} tables; its 95 % interval is a bootstrap over seeds, stratified by table "
        "(Agarwal et al., 2108.13264); with other sites the scores would be others. The pattern every is left out, because it contains "
        "the sites of its backbone. P: that a seed is better than one of exact attention, a tie counting half, mean over tables."
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
