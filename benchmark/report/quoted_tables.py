"""The figures of quality that README.md and docs/ quote, written from ``results/quick`` and ``results/recall-mqar``: tables and sentences by name.

Every function takes the folder of results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmark.report import numbers
from benchmark.report.aggregate import averaged, ranks_of, score_intervals, scores_of
from benchmark.report.cards import card_of
from benchmark.report.differences import against_exact
from benchmark.report.groups import Entry, Group, declared, group_records, words
from benchmark.report.tables import pipe_row
from benchmark.results import records
from benchmark.settings.tuned import FOLDER, read_rates
from benchmark.statistics import summarise

Difficulties = dict[tuple[int, int], list[dict[str, Any]]]
"""(pairs, length) -> what the record of each seed says of texts of this difficulty."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Returns a pipe table whose first ``words`` columns are texts, and all others figures."""
    ruler = ["---"] * words + ["---:"] * (len(columns) - words)
    return "\n".join(map(pipe_row, [columns, ruler, *rows]))


def spoken(parts: Sequence[str]) -> str:
    """Joins parts as a sentence does: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


@cache
def _groups(folder: Path) -> tuple[Group, ...]:
    return tuple(group_records(records([folder])))


def across(results: Path) -> str:
    """Returns the sentences on the scores across all resolved sites of ``quick``, and on the ranks there."""
    files = read_rates(FOLDER).files
    scores = scores_of(averaged((group, card_of(group, files)) for group in _groups(results / "quick")).groups)
    ranks = None if scores is None else ranks_of(scores)
    if scores is None or ranks is None:
        raise ValueError(f"{results}/quick: too few resolved sites for scores across them")
    inexact = [name for name in scores.by_label if not declared(name).get("exact", False)]
    intervals = score_intervals(scores)
    means = {name: intervals[name] for name in inexact}
    listed = [
        f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}] for {_name(name)}"
        for name, mean in sorted(means.items(), key=lambda pair: -pair[1].value)
    ]
    return (
        f"Across the {len(scores.tables)} resolved sites, with 0 for `none` and 1 for softmax, the interquartile mean with its 95 % "
        f"interval is {spoken(listed)}. The intervals are over seeds, for these sites. {_order(dict(zip(scores.by_label, ranks.ranks, strict=True)), inexact, ranks.critical_difference)}"
    )


def _order(ranks: Mapping[str, float], compared: Sequence[str], critical_difference: float) -> str:
    """Returns the sentence on which of the compared attentions the mean ranks over tables tell apart."""
    ordered = sorted(compared, key=lambda name: ranks[name])
    apart = [
        f"{_name(one)} from {_name(other)}"
        for one, other in combinations(ordered, 2)
        if ranks[other] - ranks[one] > critical_difference
    ]
    listed = spoken([f"{_name(name)} {ranks[name]:.2f}" for name in ordered])
    verdict = f"tell {spoken(apart)} apart" if apart else "do not tell them apart"
    return f"The mean ranks over sites ({listed}; critical difference {critical_difference:.2f}) {verdict}."


def _name(attention: str) -> str:
    """Returns the attention's name as papers write it, for the built-in ones."""
    return {"lavo": "LAVO", "performer": "Performer", "cosformer": "cosFormer"}.get(attention, f"`{attention}`")


def duration(results: Path, run: str = "quick") -> str:
    """Returns how long the cells of a run took: the sum of their seconds, on two cores."""
    found = list(records([results / run]))
    seconds = sum(record.seconds or 0.0 for record in found)
    return f"{len(found)} cells, which took {seconds / 60:.0f} minutes of one core"


def verdicts(results: Path, run: str = "quick") -> str:
    """Returns how many of the differences from softmax in resolved tables are resolved themselves, and where that of ``none`` isn't."""
    files = read_rates(FOLDER).files
    resolved = [group for group in _groups(results / run) if (card := card_of(group, files)) and card.is_resolved]
    found = [(group, against_exact(group)) for group in resolved]
    compared = [
        differences[entry.label].verdict
        for group, differences in found
        for entry in group.contenders
        if not entry.is_exact and entry.label in differences
    ]
    unsettled = [
        f"{words(group.task)}, {words(group.pattern)}"
        for group, differences in found
        if group.nothing is not None and differences[group.nothing.label].verdict == "open"
    ]
    settled = sum(verdict != "open" for verdict in compared)
    sentence = f"that test settles {settled} of the {len(compared)} differences from softmax in these rows"
    return f"{sentence}, and not that of `none` in {spoken(unsettled)}" if unsettled else sentence


def sizes(results: Path, run: str = "quick") -> str:
    """Returns the sizes of the models of a run, their steps, and the number of test examples of each task."""
    found = [record for record in records([results / run]) if record.is_completed]
    parameters, steps = (
        sorted(value for record in found if (value := getattr(record.efficiency, name)))
        for name in ("parameters", "steps")
    )
    # Of the further texts of recall only curves are made, and a metric of language modelling is made of bytes.
    n = {group.task: next(iter(group.metrics().values())).n for group in _groups(results / run)}
    examples = {record.cell.task: min(n[record.cell.task], record.data.details["examples"]["test"]) for record in found}
    listed = spoken(
        [f"{number:,} in {words(task)}" for task, number in sorted(examples.items(), key=lambda pair: pair[1])]
    )
    return f"Models have {parameters[0]:,} to {parameters[-1]:,} parameters and are trained for {steps[0]:,} to {steps[-1]:,} steps; test examples are {listed}."


def _recall(results: Path) -> list[Group]:
    return [group for group in _groups(results / "quick") if group.task == "recall"]


def _families(group: Group) -> list[str]:
    return [name for name, metric in group.metrics().items() if metric.unit == "%" and name != "accuracy"]


def recall_gaps(results: Path) -> str:
    """Returns how far softmax is ahead of ``none`` in each pattern, and its worst seed in any family."""
    gaps, worst = [], []
    for group in _recall(results):
        if group.reference is None or group.nothing is None:
            raise ValueError(f"{results}/quick/recall: {group.pattern} lacks softmax or none")
        ahead, behind = (entry.values("accuracy") for entry in (group.reference, group.nothing))
        gaps.append(summarise([ahead[seed] - behind[seed] for seed in ahead if seed in behind]))
        worst += [value for family in _families(group) for value in group.reference.values(family).values()]
    means, spreads = [gap.mean for gap in gaps], [gap.deviation or 0.0 for gap in gaps]
    return (
        f"Softmax is ahead of `none` by {min(means):.1f} to {max(means):.1f} (deviations of the gap over seeds {min(spreads):.1f} to "
        f"{max(spreads):.1f}). No seed of softmax is below {min(worst):.1f} in any family."
    )


def recall_cross(results: Path) -> str:
    """Returns what LAVO reaches in cross-attention: the range of its means over families."""
    means = [
        summarise(list(entry.values(family).values())).mean
        for group in _recall(results)
        if group.pattern.endswith("cross")
        for entry in group.entries
        if entry.label == "lavo"
        for family in _families(group)
    ]
    return f"{min(means):.1f} to {max(means):.1f}"


def recall_controls(results: Path) -> str:
    """Returns what a guess and a bag of values reach, in per cent, in the order of the families."""
    (found, *_) = (group.controls() for group in _recall(results))
    families = _families(_recall(results)[0])
    bags = [f"{found['bag'][family][0]:g}" for family in families]
    return f"A guess is right in {found['chance'][families[0]][0]:.1f} %, and a bag of values in {spoken(bags)} %."


def mqar_table(results: Path) -> str:
    """Returns accuracy on ``mqar`` at Zoology's small size, by number of pairs and length: a row for each attention.

    Attentions that can't answer all by the size of their window or state have a row for the ceiling that this sets.
    """
    measured = _mqar(results)
    _, first = measured[0]  # all were asked texts of the same difficulties
    places = list(first)
    trained = next(place for place, rows in first.items() if rows[0]["is_trained"])
    lines = []
    for entry, found in measured:
        means = [numbers.mean_and_deviation(summarise([row["accuracy"] for row in found[one]]), 1) for one in places]
        lines.append([entry.label, numbers.count(found[trained][0]["state_bytes"]), *means])
        bounds = [[found[place][0][name] for name in ("window", "state")] for place in places]
        ceilings = [min(bound for bound in two if bound is not None) for two in bounds]
        if min(ceilings) < 100 and not entry.is_control:
            lines.append(["*its ceiling*", "", *(f"{one:.1f}" for one in ceilings)])
    heads = [f"{pairs} pairs, {numbers.count(length)} words" for pairs, length in places]
    return table(["attention", f"state at {trained[1]} words, bytes", *heads], lines)


def mqar_falls(results: Path) -> str:
    """Returns how the attentions that have neither a growing state nor a window fall from 4 to 64 pairs, and softmax beside them."""
    found = {entry.label: rows for entry, rows in _mqar(results)}
    falls = [
        f"{_name(label)} from {_accuracy(found[label], 4, 64)} to {_accuracy(found[label], 64, 256)}"
        for label in ("softmax", "performer", "cosformer")
    ]
    return f"from 4 pairs to 64, {spoken(falls)}"


def mqar_by_state(results: Path) -> str:
    """Returns accuracy at 64 pairs beside the bytes of the state, from the smallest state to the largest."""
    found = {entry.label: rows for entry, rows in _mqar(results)}
    parts = sorted(
        (rows[64, 256][0]["state_bytes"], f"{_name(label)} {_accuracy(rows, 64, 256)}")
        for label, rows in found.items()
        if label in ("softmax", "lavo", "performer", "cosformer")
    )
    return spoken([f"{text} with {numbers.size(state)}" for state, text in parts])


def _accuracy(rows: Difficulties, pairs: int, length: int) -> str:
    return f"{summarise([row['accuracy'] for row in rows[pairs, length]]).mean:.1f}"


def _mqar(results: Path) -> list[tuple[Entry, Difficulties]]:
    (group,) = _groups(results / "recall-mqar")
    return [(entry, _by_difficulty(entry)) for entry in group.entries]


def _by_difficulty(entry: Entry) -> Difficulties:
    """Returns (pairs, length) -> what each seed's record says of texts of this difficulty."""
    found: Difficulties = {}
    for record in entry.completed:
        for row in record.curves.get("recall", []):
            found.setdefault((row["pairs"], row["length"]), []).append(row)
    return found


def recall_seconds(results: Path) -> str:
    """Returns what a cell of ``recall`` took."""
    found = [record for record in records([results / "quick"]) if record.cell.task == "recall" and record.seconds]
    seconds = [record.seconds or 0.0 for record in found]
    longest = max(found, key=lambda record: record.seconds or 0.0)
    return (
        f"A cell of `quick` took {sum(seconds) / len(seconds):.1f} s on average over these {len(found)} cells, data included, on one core of an "
        f"{found[0].environment.device}; the longest ({_name(longest.cell.label)}) took {max(seconds):.1f} s."
    )


QUALITY: Mapping[str, Callable[[Path], str]] = {
    "scores across tables": across,
    "verdicts of quick": verdicts,
    "sizes of quick": sizes,
    "duration of quick": duration,
    "verdicts of small-real": partial(verdicts, run="small-real"),
    "sizes of small-real": partial(sizes, run="small-real"),
    "duration of small-real": partial(duration, run="small-real"),
    "recall: gaps": recall_gaps,
    "recall: cross": recall_cross,
    "recall: controls": recall_controls,
    "recall: seconds": recall_seconds,
    "recall: mqar": mqar_table,
    "recall: mqar falls": mqar_falls,
    "recall: mqar by state": mqar_by_state,
}
"""Name of a part, as its mark gives it -> what writes it."""
