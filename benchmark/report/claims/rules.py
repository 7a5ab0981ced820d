"""The rules that give verdicts on claims.  They know numbers only; evidence.py finds these in records and sweeps.

A claim has parts, and each part has findings.  Limits, chosen before any rule was run on a record (docs/decisions/0013-verdicts-on-claims.md):

LINEAR        a time grows linearly if the 95 % interval of its exponent ends at 1.10 at most; n log n has 1.10 at such lengths
CONSTANT      a state is constant if the largest is at most 1 % above the smallest
RANGE         over lengths of which the longest is at least 8 times the shortest (or the training length)
LEVEL         a difference is resolved if p is below 5 % over seeds, after Holm, and over test examples where they are known
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from benchmark.interface import PRESETS
from benchmark.measuring.points import Point
from benchmark.report.differences import is_resolved, says_opposite
from benchmark.report.scaling import Slope
from benchmark.statistics import PairedTest

LINEAR = 1.10
CONSTANT = 1.01
RANGE = 8
FULL_PRESETS = PRESETS[PRESETS.index("gpu") :]

Outcome = Literal["for", "against", "open", "unusable", "missing", "context"]
"""What one finding says of its part.

for, against   it decides
open           it was measured, and the difference isn't resolved
unusable       it was measured where nothing can be decided (a site that isn't resolved)
missing        it wasn't measured
context        it is shown, and doesn't enter the verdict
"""

State = Literal["holds", "fails", "open", "missing"]
Verdict = Literal["supported", "contradicted", "undecided", "not measured"]


class Scale(NamedTuple):
    """On what a finding was made."""

    preset: str  # "" for a sweep
    data: str
    limits: tuple[
        str, ...
    ] = ()  # why a verdict from it holds at this scale only; empty if it holds without this addition


class Finding(NamedTuple):
    """One figure that bears on a part of a claim."""

    part: str
    outcome: Outcome
    where: str = ""  # the table or the sweep
    what: str = ""  # what is compared, such as "lavo − performer"
    figure: str = ""  # the name of the figure, such as "loss" or "exponent of time"
    value: float | None = None
    low: float | None = None  # 95 % interval: over seeds, or over the points of a fit
    high: float | None = None
    low_test: float | None = None  # 95 % interval over test examples
    high_test: float | None = None
    p: float | None = None  # over seeds, after Holm
    n: int | None = None  # number of seeds, or of points
    scale: Scale = Scale("", "")
    reason: str = ""  # the outcome in words


class Decision(NamedTuple):
    """The verdict on a claim, and how it follows from the parts."""

    verdict: Verdict
    states: Mapping[str, State]  # part -> state
    limits: tuple[str, ...]  # why it holds at this scale only; empty if it holds without this addition

    def __str__(self) -> str:
        return f"{self.verdict} at this scale" if self.limits and self.verdict != "not measured" else self.verdict


def decide(parts: Sequence[str], findings: Iterable[Finding]) -> Decision:
    """Returns the verdict on a claim with these parts.

    contradicted   a part fails: one of its findings is against the claim
    supported      all parts hold: each has findings, and all of them are for the claim
    not measured   no part has a finding besides missing ones
    undecided      else
    """
    found = list(findings)
    states = {part: _state([one for one in found if one.part == part]) for part in parts}
    verdict: Verdict = "undecided"
    if "fails" in states.values():
        verdict = "contradicted"
    elif all(state == "missing" for state in states.values()):
        verdict = "not measured"
    elif all(state == "holds" for state in states.values()):
        verdict = "supported"
    outcomes = {"contradicted": ("against",), "supported": ("for",)}.get(
        verdict, ("for", "against", "open", "unusable")
    )
    deciding = [one for one in found if one.outcome in outcomes]
    # A contradiction is free of limits if one finding against the claim is; a support needs that of all.
    if verdict == "contradicted" and any(not one.scale.limits for one in deciding):
        return Decision(verdict, states, ())
    return Decision(verdict, states, tuple(sorted({limit for one in deciding for limit in one.scale.limits})))


def _state(findings: Sequence[Finding]) -> State:
    outcomes = {one.outcome for one in findings} - {"context", "missing"}
    if "against" in outcomes:
        return "fails"
    if outcomes == {"for"}:
        return "holds"
    return "open" if outcomes else "missing"


def scale_limits(preset: str, *, embedded: bool | None) -> tuple[str, ...]:
    """Returns why a table's verdict holds at this scale only: its preset, or data that the project made itself."""
    found = [] if preset in FULL_PRESETS else [f"preset {preset}"]
    return (*found, *(["made-up data"] if embedded is not False else []))


def device_limits(device: str) -> tuple[str, ...]:
    """Returns why a sweep's verdict holds at this scale only: it ran on a CPU."""
    return ("measured on a CPU",) if device.lower().startswith("cpu") else ()


def judge_growth(slope: Slope | None) -> tuple[Outcome, str]:
    """Returns the outcome of a fitted exponent of time, and the reason."""
    if slope is None:
        return "missing", "fewer than two lengths from 4,096 tokens on"
    if slope.low is None or slope.high is None:
        return "open", f"{slope.shortest:,} and {slope.longest:,} tokens alone give no interval"
    if slope.low > LINEAR:
        return "against", f"the interval lies above {LINEAR:.2f}"
    if slope.longest < RANGE * slope.shortest:
        return "open", f"{slope.shortest:,} to {slope.longest:,} tokens are less than {RANGE} times apart"
    if slope.high <= LINEAR:
        return "for", f"the interval lies below {LINEAR:.2f}"
    return "open", f"{LINEAR:.2f} lies inside the interval"


def judge_state(bytes_by_length: Mapping[int, int]) -> tuple[Outcome, str]:
    """Returns the outcome of the sizes of a state by length, and the reason."""
    if len(bytes_by_length) < 2 or not all(bytes_by_length.values()):
        return "missing", "fewer than two lengths"
    shortest, longest = min(bytes_by_length), max(bytes_by_length)
    growth = max(bytes_by_length.values()) / min(bytes_by_length.values())
    between = f"from {shortest:,} to {longest:,} tokens"
    if growth > CONSTANT:
        return "against", f"it grows {growth:.3g} times {between}"
    if longest < RANGE * shortest:
        return "open", f"{shortest:,} to {longest:,} tokens are less than {RANGE} times apart"
    return "for", f"it has one size {between}"


def judge_reach(
    points: Sequence[Point], length: int, plain_kernels: Sequence[str]
) -> tuple[Outcome, str, Point | None]:
    """Returns whether a length is reached by a kernel that isn't IO-aware, the reason, and the point that says so."""
    full = [p for p in points if p.status == "out_of_memory" and p.length <= length]
    if full:
        return "against", f"out of memory at {full[0].length:,} tokens", full[0]
    long = sorted((p for p in points if p.length >= length), key=lambda p: p.length)
    done = [p for p in long if p.status == "completed"]
    plain = [p for p in done if p.kernel in plain_kernels]
    if plain:
        return "for", f"completed at {plain[0].length:,} tokens by the kernel {plain[0].kernel}", plain[0]
    if done:
        return "unusable", f"completed by {done[0].kernel}, which isn't known as free of IO-aware kernels", done[0]
    if long:
        return "open", f"{long[0].length:,} tokens: {long[0].status.replace('_', ' ')} ({long[0].reason})", long[0]
    longest = max((p.length for p in points if p.status == "completed"), default=0)
    return "missing", f"the longest length measured is {longest:,} tokens" if longest else "no point", None


def judge_slower(ours: Sequence[Point], theirs: Sequence[Point], up_to: int) -> tuple[Outcome, str]:
    """Returns whether the first is slower than the second at every common length up to ``up_to``, and the reason."""
    second = {p.length: p for p in theirs if p.seconds is not None and p.length <= up_to}
    pairs = [(p, second[p.length]) for p in ours if p.seconds is not None and p.length in second]
    if not pairs:
        return "missing", f"no common length up to {up_to:,} tokens"
    slower = [a.length for a, b in pairs if (a.seconds_low or a.seconds or 0) > (b.seconds_high or b.seconds or 0)]
    faster = [a.length for a, b in pairs if (a.seconds_high or a.seconds or 0) < (b.seconds_low or b.seconds or 0)]
    named = f"{len(pairs)} lengths up to {up_to:,}" if len(pairs) > 1 else f"the one length up to {up_to:,}"
    if len(slower) == len(pairs):
        return "for", f"slower at {'all ' if len(pairs) > 1 else ''}{named}"
    if len(faster) == len(pairs):
        return "against", f"faster at {'all ' if len(pairs) > 1 else ''}{named}"
    return "open", f"clearly slower at {len(slower)} and clearly faster at {len(faster)} of {named}"


class Compared(NamedTuple):
    """A paired comparison: ours − theirs, in one figure."""

    over_seeds: PairedTest
    over_examples: PairedTest | None
    higher_is_better: bool


def judge_difference(found: Compared, p_holm: float | None) -> tuple[Outcome, str]:
    """Returns whether ours is better (for) or worse (against), and the reason."""
    if found.over_seeds.n < 2:
        return "open", "one seed"
    if found.over_seeds.p is None:
        return "open", "all seeds give exactly the same difference, so there is no p"
    over_examples = None if found.over_examples is None else found.over_examples.p
    if not is_resolved(p_holm, None):
        return "open", "not resolved over seeds"
    if not is_resolved(p_holm, over_examples):
        return "open", "resolved over seeds, and not over test examples"
    if says_opposite(found.over_seeds, found.over_examples):
        return "open", "the first seed, on which test examples are compared, says the opposite of the mean"
    better = (found.over_seeds.difference > 0) == found.higher_is_better
    return ("for", "better") if better else ("against", "worse")
