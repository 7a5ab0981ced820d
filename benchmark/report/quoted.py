"""The figures that README.md and docs/ quote, written from ``results/``: tables and sentences by name (``readme.py`` fills them in).

Every function takes the folder of results, in which ``quick``, ``efficiency``, ``speed`` and ``long-context`` lie.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmark.measuring.points import FILE_NAME, Point
from benchmark.report import numbers
from benchmark.report.across import interquartile_mean, stratified_interval
from benchmark.report.aggregate import averaged, ranks_of, scores_of
from benchmark.report.cards import card_of
from benchmark.report.groups import Entry, Group, declared, group_records
from benchmark.report.scaling import slope
from benchmark.report.speed import Sweep, read_sweeps
from benchmark.report.tables import pipe_row
from benchmark.results import records
from benchmark.settings.tuned import FOLDER, read_rates
from benchmark.statistics import summarise

_LENGTHS = (256, 1024, 4096, 16384, 131072)
_MODES = {"forward": "forward", "forward+backward": "forward and backward"}
Difficulties = dict[tuple[int, int], list[dict[str, Any]]]
"""(pairs, length) -> what the record of each seed says of texts of this difficulty."""
_FORMS = {"lavo": "", "lavo, learned basis": ", learned basis"}


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
    means = {name: stratified_interval(scores.by_label[name], interquartile_mean) for name in inexact}
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


def duration(results: Path) -> str:
    """Returns how long the cells of ``quick`` took: the sum of their seconds, on two cores."""
    found = list(records([results / "quick"]))
    seconds = sum(record.seconds or 0.0 for record in found)
    return f"{len(found)} cells, which took {seconds / 60:.0f} minutes of one core"


def versus_exact(results: Path) -> dict[tuple[str, str, int], str]:
    """Returns (mode, form, length) -> how many times as fast, as ``studies.versus_exact`` has printed it."""
    text = (results / "speed" / "versus_exact.txt").read_text(encoding="utf-8")
    rows = re.findall(r"^(\S+) +(\d+) tokens  (lavo(?:, learned basis)?) .* (\S+) times as fast", text, re.MULTILINE)
    return {(mode, form, int(length)): times for mode, length, form, times in rows}


def versus_table(results: Path) -> str:
    """Returns the table of speed-ups over exact attention, with the goals of the project between them."""
    found = versus_exact(results)
    lengths = sorted({length for _, _, length in found})
    goals = {"forward": ("4", "25", "50", "350"), "forward+backward": ("5", "25", "50", numbers.MISSING)}
    rows = []
    for mode, shown in _MODES.items():
        for form, suffix in _FORMS.items():
            rows.append([shown + suffix, *(found.get((mode, form, length), numbers.MISSING) for length in lengths)])
            rows += [["goal", *goals[mode]]] if form == "lavo" else []
    return table(["", *map(numbers.count, lengths)], rows)


def speed(results: Path) -> str:
    """Returns the sentences on speed: forward, forward and backward, and training."""
    found = versus_exact(results)
    sentences = []
    for mode, shown in _MODES.items():
        lengths = sorted(length for one, form, length in found if (one, form) == (mode, "lavo"))
        listed = ", ".join(f"{found[mode, 'lavo', length]} at {numbers.count(length)}" for length in lengths)
        learned = ", ".join(found[mode, "lavo, learned basis", length] for length in lengths)
        sentences.append(f"{shown.capitalize()}: {listed} tokens; with a learned basis {learned}.")
    text = (results / "speed" / "training_speed.txt").read_text(encoding="utf-8")
    rates = re.findall(r"length (\d+): .* lavo \S+ tokens/s \((\S+)\)", text)
    listed = ", ".join(f"{rate} at {numbers.count(int(length))}" for length, rate in rates)
    trained = f"(`python -m studies.training_speed`): {listed}."
    return " ".join(
        [*sentences, "Training the quick `gpt` of version 1, tokens per second divided by flash's", trained]
    )


def profile_table(results: Path) -> str:
    """Returns the table of where the time of a call goes, as ``studies.lavo_profile`` has printed it."""
    text = (results / "speed" / "profile.txt").read_text(encoding="utf-8")
    found = re.findall(
        r"^(forward\S*) +(\d+) tokens  basis (\S+) .*products ([\d.]+), softmax ([\d.]+), elementwise ([\d.]+), "
        r"sums and maxima ([\d.]+), other ([\d.]+); .* at (\d+) GFLOP/s, (\d+) %",
        text,
        re.MULTILINE,
    )
    rows = [
        [
            f"{_MODES[mode]}, {numbers.count(int(length))} tokens{'' if basis == 'identity' else f', {basis} basis'}",
            *parts,
            f"{rate} GFLOP/s, {share} %",
        ]
        for mode, length, basis, *parts, rate, share in found
    ]
    return table(["", "products", "softmax", "elementwise", "sums, maxima", "other calls", "rate of products"], rows)


def profile_peak(results: Path) -> str:
    """Returns the rate of a large matrix product in the run of the profile."""
    found = re.search(
        r"of this machine: (\d+) GFLOP/s", (results / "speed" / "profile.txt").read_text(encoding="utf-8")
    )
    if found is None:
        raise ValueError(f"{results}/speed/profile.txt: names no rate of this machine")
    return f"{found[1]} GFLOP/s in this run"


def decode_ratio(results: Path) -> str:
    """Returns how many times a projection a decoded token takes, in the profile."""
    text = (results / "speed" / "profile.txt").read_text(encoding="utf-8")
    ratios = re.findall(r"^decode .*basis identity .*: (\S+) times", text, re.MULTILINE)
    learned = re.findall(r"^decode .*basis learned .*: (\S+) times", text, re.MULTILINE)
    return (
        f"In the profile of two threads above, a token takes {min(ratios)} to {max(ratios)} times as long as the projection, and "
        f"{min(learned)} to {max(learned)} times with a learned basis."
    )


@cache
def _sweeps(results: Path) -> tuple[Sweep, ...]:
    return tuple(read_sweeps([results / "efficiency"]))


def _sweep(results: Path, mode: str, pattern: str) -> Sweep:
    found = [sweep for sweep in _sweeps(results) if (sweep.mode, sweep.pattern) == (mode, pattern)]
    if len(found) != 1:
        raise ValueError(f"{results}/efficiency/{FILE_NAME}: {len(found)} sweeps of {mode}, {pattern} in place of one")
    return found[0]


def _shown(sweep: Sweep) -> list[str]:
    return [name for name in sweep.attentions if not declared(name).get("control", False)]


def _point(sweep: Sweep, name: str, length: int) -> Point | None:
    return next((point for point in sweep.of(name) if point.length == length), None)


def _time(point: Point | None) -> str:
    return numbers.MISSING if point is None or point.seconds is None else numbers.duration(point.seconds)


def times(results: Path, mode: str, pattern: str) -> str:
    """Returns the table of median times of a call by length, with the slope from 4K on."""
    sweep = _sweep(results, mode, pattern)
    rows = []
    for name in _shown(sweep):
        power = slope(sweep.of(name))
        cells = [_time(_point(sweep, name, length)) for length in _LENGTHS]
        rows.append([name, *cells, str(power) if power else numbers.MISSING])
    return table(["attention", *map(numbers.length, _LENGTHS), "slope from 4K"], rows)


def decoding(results: Path) -> str:
    """Returns the table of the time of a decoded token, by the length of its context."""
    sweep = _sweep(results, "decode", "causal_self")
    lengths = sorted({point.length for point in sweep.points})
    rows = [[name, *(_time(_point(sweep, name, length)) for length in lengths)] for name in _shown(sweep)]
    return table(["attention", *map(numbers.length, lengths)], rows)


def whole_model(results: Path) -> str:
    """Returns the table of a whole model's tokens per second, and of the peak of its memory at 4K."""
    lengths = (512, 1024, 2048, 4096)
    rows = []
    for mode, shown in (("training", "training"), ("checkpointed", "checkpointed"), ("generation", "generating")):
        sweep = _sweep(results, mode, "causal_self")
        for name in _shown(sweep):
            points = [_point(sweep, name, length) for length in lengths]
            rates = [_rate(point) for point in points]
            held = points[-1]
            rows.append([f"{name}, {shown}", *rates, numbers.size(None if held is None else held.peak_bytes)])
    return table(["tokens per second", *map(numbers.length, lengths), "memory at 4K"], rows)


def _rate(point: Point | None) -> str:
    if point is None or point.seconds is None:
        return numbers.MISSING
    return numbers.significant(point.batch * (1 if point.mode == "generation" else point.length) / point.seconds)


def long_step(results: Path) -> str:
    """Returns what a checkpointed training step takes at the longest length measured."""
    sweep = _sweep(results, "checkpointed", "causal_self")
    lavo, flash = (
        max((point for point in sweep.of(name) if point.seconds), key=lambda point: point.length)
        for name in ("lavo", "flash")
    )
    return (
        f"We measured {numbers.size(lavo.peak_bytes)} and {numbers.duration(lavo.seconds)} a step with LAVO on the CPU; flash already takes "
        f"{numbers.duration(flash.seconds)} at {numbers.count(flash.length)} tokens."
    )


@cache
def _stream(results: Path) -> tuple[dict[str, str], ...]:
    with (results / "long-context" / "long_context.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def stream_table(results: Path) -> str:
    """Returns the table of time by token and memory by position, while a model reads a million tokens."""
    shown = [("to 8K", 0, 8192)]
    for start in (8192, 32768, 131072, 524288):
        shown.append((f"{numbers.length(start)} to {numbers.length(2 * start)}", start, 2 * start))
    rows = []
    for name in dict.fromkeys(row["attention"] for row in _stream(results)):
        own = [row for row in _stream(results) if row["attention"] == name]
        done = {(int(row["start"]), int(row["stop"])): row for row in own if row["status"] == "completed"}
        cells = [_bin(done.get((start, stop))) for _, start, stop in shown]
        rows.append([name, *cells, numbers.size(max(float(row["state_bytes"]) for row in own if row["state_bytes"]))])
    return table(["attention", *(title for title, _, _ in shown), "state at the end"], rows)


def _bin(row: Mapping[str, str] | None) -> str:
    if row is None:
        return numbers.MISSING
    return f"{float(row['seconds_per_token']) / 1e-6:.1f} µs, {float(row['peak_bytes']) / 2**20:.0f} MiB"


def stream_spread(results: Path) -> str:
    """Returns how far LAVO's time and memory move from those at 8K to 16K, and where the exact attentions stopped."""
    own = [row for row in _stream(results) if row["attention"] == "lavo" and int(row["start"]) >= 8192]
    most = []
    for column in ("peak_bytes", "seconds_per_token"):
        values = [float(row[column]) for row in own]
        most.append(max(abs(value / values[0] - 1) for value in values))
    ends = [
        f"{numbers.count(int(found[1]))} tokens ({row['attention']})"
        for row in _stream(results)
        if (found := re.search(r"after (\d+) tokens", row["reason"] or ""))
    ]
    return (
        f"From 8K to 1M tokens LAVO's memory stays within {100 * most[0]:.1f} % and its time by token within {100 * most[1]:.1f} % of those "
        f"at 8K to 16K (medians by bin). The exact attentions stopped after {spoken(ends)}."
    )


def long_losses(results: Path) -> str:
    """Returns the table of losses on whole books by the length of the blocks in which they are read."""
    (record,) = records([results / "long-context"])
    found = record.curves["loss_by_length"]
    rows = [
        ["nats a byte", *(f"{row['loss']:.3f}" for row in found)],
        ["state", *(numbers.size(row["state_bytes"]) for row in found)],
    ]
    return table(["", *(numbers.count(row["length"]) for row in found)], rows)


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
        if label in ("softmax", "performer", "cosformer")
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


QUOTED: Mapping[str, Callable[[Path], str]] = {
    "scores across tables": across,
    "duration of quick": duration,
    "speed": speed,
    "versus exact": versus_table,
    "profile": profile_table,
    "peak of the profile": profile_peak,
    "decode in the profile": decode_ratio,
    "forward, causal self": partial(times, mode="forward", pattern="causal_self"),
    "backward, causal self": partial(times, mode="backward", pattern="causal_self"),
    "forward, noncausal self": partial(times, mode="forward", pattern="noncausal_self"),
    "forward, noncausal cross": partial(times, mode="forward", pattern="noncausal_cross"),
    "decoding": decoding,
    "whole model": whole_model,
    "long step": long_step,
    "stream": stream_table,
    "spread of the stream": stream_spread,
    "losses of long contexts": long_losses,
    "recall: gaps": recall_gaps,
    "recall: cross": recall_cross,
    "recall: controls": recall_controls,
    "recall: seconds": recall_seconds,
    "recall: mqar": mqar_table,
    "recall: mqar falls": mqar_falls,
    "recall: mqar by state": mqar_by_state,
}
"""Name of a part, as its mark gives it -> what writes it."""
