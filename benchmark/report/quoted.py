"""The figures of cost that README.md and docs/ quote, written from ``results/``: tables and sentences by name (``readme.py`` fills them in).

Every function takes the folder of results, in which ``efficiency``, ``speed`` and ``long-context`` lie.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from benchmark.measuring.points import FILE_NAME, Point
from benchmark.report import numbers
from benchmark.report.groups import declared
from benchmark.report.quoted_tables import QUALITY, spoken, table
from benchmark.report.scaling import slope
from benchmark.report.speed import Sweep, read_sweeps
from benchmark.results import records

_LENGTHS = (256, 1024, 4096, 16384, 131072)
_MODES = {"forward": "forward", "forward+backward": "forward and backward"}
_FORMS = {"lavo": "", "lavo, learned basis": ", learned basis"}


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


QUOTED: Mapping[str, Callable[[Path], str]] = {
    **QUALITY,
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
}
"""Name of a part, as its mark gives it -> what writes it."""
