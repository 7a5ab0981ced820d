"""Findings about cost, from sweeps of time and memory by length, and from the states that language modelling counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.measuring.points import Point
from benchmark.report import numbers
from benchmark.report.claims.files import Growth, Reach, Slower
from benchmark.report.claims.found import Records, largest, losses_by_length, table_words, the_entry
from benchmark.report.claims.rules import (
    Finding,
    Outcome,
    Scale,
    device_limits,
    judge_growth,
    judge_reach,
    judge_slower,
    judge_state,
    scale_limits,
)
from benchmark.report.crossing import crossing
from benchmark.report.figures import MODE_WORDS
from benchmark.report.scaling import slope
from benchmark.report.speed import Sweep
from benchmark.report.tables import data_words

STATE = "state"
"""The part of a growth claim that is about the size of the state."""


def mode_words(mode: str) -> str:
    """Returns the name of a sweep's mode as readers see it."""
    return MODE_WORDS.get(mode, mode)


def _deciding(sweeps: Iterable[Sweep], pattern: str, mode: str, attention: str) -> list[Sweep]:
    """Returns the sweeps of a mode that hold the attention; those on a CPU only if there is no other."""
    found = [s for s in sweeps if (s.pattern, s.mode) == (pattern, mode) and attention in s.attentions]
    free = [sweep for sweep in found if not device_limits(sweep.device)]
    return sorted(free or found, key=lambda sweep: sweep.slug)


def _sweep_finding(part: str, outcome: Outcome, sweep: Sweep, reason: str) -> Finding:
    scale = Scale("", f"random inputs, {sweep.conditions}", device_limits(sweep.device))
    where = f"sweep of {sweep.title[0].lower()}{sweep.title[1:]}"
    return Finding(part, outcome, where, scale=scale, reason=reason)


def growth_findings(rule: Growth, attention: str, records: Records) -> list[Finding]:
    """Returns how time and state grow with the length."""
    found = []
    for mode in rule.modes:
        for sweep in _deciding(records.sweeps, rule.pattern, mode, attention):
            points = sweep.of(attention)
            fitted = slope(points)
            outcome, reason = judge_growth(fitted)
            one = _sweep_finding(f"time, {mode_words(mode)}", outcome, sweep, reason)
            if fitted is not None:
                used = sum(p.seconds is not None and p.length >= fitted.shortest for p in points)
                one = one._replace(value=fitted.value, low=fitted.low, high=fitted.high, n=used)
            found.append(one._replace(what=attention, figure="exponent of time"))
    return [*found, *_states(rule, attention, records)]


def _states(rule: Growth, attention: str, records: Records) -> list[Finding]:
    """Returns how large the state is: as language modelling counted it, and as sweeps of single tokens hold it."""
    found = []
    for group in largest(records.at("language_modeling", "gpt", rule.pattern), attention):
        for record in the_entry(group, attention).completed[:1]:
            rows = losses_by_length(record)
            sizes = {length: int(row["state_bytes"]) for length, row in rows.items() if row.get("state_bytes")}
            outcome, reason = judge_state(sizes)
            value = float(max(sizes.values())) if sizes else None
            one = Finding(STATE, outcome, table_words(group), attention, "bytes of state", value, n=len(sizes))
            # The size of a state follows from the model's sizes, not from data or training.
            limits = tuple(limit for limit in scale_limits(group.preset, embedded=False))
            found.append(one._replace(scale=Scale(group.preset, data_words(group.data), limits), reason=reason))
    for mode in ("decode",):
        for sweep in _deciding(records.sweeps, rule.pattern, mode, attention):
            sizes = {p.length: p.base_bytes for p in sweep.of(attention) if p.base_bytes and p.status == "completed"}
            outcome, reason = judge_state(sizes)
            one = _sweep_finding(STATE, outcome, sweep, reason)
            value = float(max(sizes.values())) if sizes else None
            found.append(
                one._replace(what=attention, figure="bytes of parameters, inputs and state", value=value, n=len(sizes))
            )
    return found


def reach_findings(rule: Reach, attention: str, sweeps: Sequence[Sweep]) -> list[Finding]:
    """Returns whether the length was reached in each mode."""
    found = []
    for mode in rule.modes:
        for sweep in _deciding(sweeps, rule.pattern, mode, attention):
            outcome, reason, point = judge_reach(sweep.of(attention), rule.length, rule.plain_kernels)
            one = _sweep_finding(mode_words(mode), outcome, sweep, reason)
            if point is not None and point.seconds is not None:
                one = one._replace(n=point.rounds, reason=f"{reason}, in {numbers.duration(point.seconds)}")
                if point.peak_bytes is not None:
                    one = one._replace(value=point.peak_bytes / 2**30)
            found.append(
                one._replace(what=attention, figure=f"GiB that a call of {numbers.length(rule.length)} tokens holds")
            )
    return found


def slower_findings(rule: Slower, attention: str, sweeps: Sequence[Sweep]) -> list[Finding]:
    """Returns whether the attention is slower than the other one on short text."""
    found = []
    for mode in rule.modes:
        for sweep in _deciding(sweeps, rule.pattern, mode, attention):
            ours, theirs = sweep.of(attention), sweep.of(rule.than)
            outcome, reason = judge_slower(ours, theirs, rule.up_to)
            where = crossing(ours, theirs)
            one = _sweep_finding(
                mode_words(mode), outcome, sweep, reason if where is None else f"{reason}; overtakes: {where}"
            )
            pair = _first_pair(ours, theirs, rule.up_to)
            if pair is not None:
                first, second = pair
                one = one._replace(value=_ratio(first.seconds, second.seconds), n=first.rounds)
                low, high = (
                    _ratio(first.seconds_low, second.seconds_high),
                    _ratio(first.seconds_high, second.seconds_low),
                )
                one = one._replace(low=low, high=high, figure=f"time at {numbers.count(first.length)} tokens")
            found.append(one._replace(what=f"{attention} / {rule.than}"))
    return found


def _ratio(first: float | None, second: float | None) -> float | None:
    return first / second if first and second else None


def _first_pair(ours: Sequence[Point], theirs: Sequence[Point], up_to: int) -> tuple[Point, Point] | None:
    """Returns the two points of the shortest common length."""
    second = {p.length: p for p in theirs if p.seconds}
    common = [p for p in ours if p.seconds and p.length in second and p.length <= up_to]
    first = min(common, key=lambda p: p.length, default=None)
    return None if first is None else (first, second[first.length])
