"""The view of claims, as blocks of the page: one table of verdicts, then each claim with the figures that decide it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark.report import numbers
from benchmark.report.claims.evidence import findings_of, parts_of
from benchmark.report.claims.files import Claim, ClaimsFile, Diagnostic
from benchmark.report.claims.found import Records, largest, table_words, the_entry
from benchmark.report.claims.rules import (
    CONSTANT,
    FULL_PRESETS,
    LINEAR,
    RANGE,
    Decision,
    Finding,
    Outcome,
    State,
    Verdict,
    decide,
)
from benchmark.report.document import Block, Heading, Text
from benchmark.report.groups import Entry, Group
from benchmark.report.tables import Printed, Row, Table, data_words, escape, summary_of
from benchmark.statistics import summarise

LITTLE = 0.1
"""The share of softmax's lead over ``none`` below which a diagnostic confirms what an attention can't do by construction."""

_SAYS: Mapping[Outcome, str] = {
    "for": "for",
    "against": "against",
    "open": "open",
    "unusable": "decides nothing",
    "missing": "not measured",
    "context": "shown only",
}
_STATES: Mapping[State, str] = {
    "holds": "holds",
    "fails": "fails",
    "open": "is open",
    "missing": "was not measured",
}


class Judged(NamedTuple):
    """A claim with its verdict and the findings that it follows from."""

    number: int
    claim: Claim
    decision: Decision
    findings: Sequence[Finding]


def judge_claims(file: ClaimsFile, records: Records) -> list[Judged]:
    """Returns the verdict on every claim of the file."""
    judged = []
    for number, claim in enumerate(file.claims, 1):
        findings = findings_of(claim, file.attention, records)
        judged.append(Judged(number, claim, decide(parts_of(claim), findings), findings))
    return judged


def view(file: ClaimsFile, records: Records) -> list[Block]:
    """Returns the blocks of the view; none if the records hold nothing of the attention that the claims are about."""
    if not records.hold(file.attention):
        return []
    judged = judge_claims(file, records)
    blocks: list[Block] = [Text(_introduction(file, judged)), verdict_table(judged)]
    for one in judged:
        blocks += _section(one, file.attention, records)
    return blocks


_ORDER = ("supported", "contradicted", "undecided", "not measured")


def _introduction(file: ClaimsFile, judged: Sequence[Judged]) -> str:
    counted = Counter(str(one.decision) for one in judged)
    found = sorted(counted, key=lambda text: (_ORDER.index(text.removesuffix(" at this scale")), text))
    counts = ", ".join(f"{counted[verdict]} {verdict}" for verdict in found)
    return (
        f"{file.about}\n\n**{len(judged)} {'claim' if len(judged) == 1 else 'claims'} about {escape(file.attention)}: {counts}.** A rule in code gives "
        "each verdict. *Supported*: every part of the claim holds. *Contradicted*: a part fails. *Not measured*: the records that it needs "
        "are not here. *Undecided*: some are, and don't decide it. *At this scale*: at least one figure behind the verdict is below the preset "
        f"{FULL_PRESETS[0]}, from data that the project made, from a CPU, or without known test sampling; such a verdict says nothing of larger "
        "models or of the published data."
    ).strip()


def verdict_table(judged: Sequence[Judged]) -> Table:
    """Returns the table with one row for each claim; its CSV file has one row for each finding."""
    rows, values = [], []
    for one in judged:
        shown = [f for f in one.findings if f.outcome in _DECIDING[one.decision.verdict]]
        cells = (
            str(one.decision),
            _joined([_short(finding) for finding in shown], most=2),
            _joined([finding.scale.preset or "sweep" for finding in shown if finding.scale.data]) or numbers.MISSING,
            _joined([finding.scale.data for finding in shown]) or numbers.MISSING,
        )
        verdict, *others = cells
        is_decided = one.decision.verdict in ("supported", "contradicted")
        rows.append(Row(f"{one.number}. {one.claim.claim}", (Printed(verdict, bold=is_decided), *map(Printed, others))))
        values += [_csv_row(one, finding) for finding in one.findings]
    notes = [
        f"Limits: an exponent of time is linear if its interval ends at {LINEAR:.2f} at most; a state is constant within {100 * (CONSTANT - 1):.0f} % "
        f"over lengths {RANGE} times apart; a difference is resolved if p is below 5 % over seeds, adjusted by Holm over the claim's comparisons, and over "
        "test examples where their values are known."
    ]
    columns = ["claim", "verdict", "figures that decide, with 95 % interval", "preset", "data"]
    return Table("claims", "Verdicts on the claims.", columns, rows, values, notes, is_prose=True)


_DECIDING: Mapping[Verdict, tuple[Outcome, ...]] = {  # the findings from which a verdict follows
    "supported": ("for",),
    "contradicted": ("against",),
    "undecided": ("open", "unusable", "missing"),
    "not measured": ("missing",),
}


def _joined(texts: Sequence[str], most: int = 4) -> str:
    """Returns the different texts, in order; those beyond ``most`` are counted."""
    different = list(dict.fromkeys(text for text in texts if text))
    more = f"; and {len(different) - most} more below" if len(different) > most else ""
    return "; ".join(different[:most]) + more


def _short(finding: Finding) -> str:
    if finding.value is None:
        reason = finding.reason.partition(" (")[0]
        return f"{finding.where}: {reason}" if finding.where else reason
    return f"{finding.where}: {finding.what}, {finding.figure} {_value(finding)}"


def _value(finding: Finding) -> str:
    """Returns the figure with its first interval: over seeds, or over the points of a fit."""
    if finding.value is None:
        return numbers.MISSING
    is_difference = numbers.MINUS in finding.what or numbers.MINUS in finding.figure
    return _number(finding.value, signed=is_difference) + _interval(finding.low, finding.high, signed=is_difference)


def _interval(low: float | None, high: float | None, *, signed: bool) -> str:
    if low is None or high is None:
        return ""
    return f" [{_number(low, signed=signed)}, {_number(high, signed=signed)}]"


def _number(value: float, *, signed: bool) -> str:
    text = numbers.count(value) if value == int(value) and abs(value) >= 1000 else numbers.significant(value)
    return f"+{text}" if signed and value > 0 else text


def _csv_row(one: Judged, finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"number": one.number, "claim": one.claim.name, "verdict": str(one.decision)}
    kept = {key: value for key, value in finding._asdict().items() if key != "scale"}
    return (
        row
        | kept
        | {"preset": finding.scale.preset, "data": finding.scale.data, "limits": "; ".join(finding.scale.limits)}
    )


def _section(one: Judged, attention: str, records: Records) -> list[Block]:
    claim, decision = one.claim, one.decision
    title = f"Claim {one.number}, {claim.name.replace('_', ' ')}: {decision}"
    said = f"*Claim.* {claim.claim} *Source.* {claim.source}"
    why = "\n".join(_part_words(part, state, one.findings) for part, state in decision.states.items())
    scale = f" ({escape('; '.join(decision.limits))})" if decision.limits and decision.verdict != "not measured" else ""
    verdict = f"*Verdict.* **{_capital(str(decision))}**{scale}.\n\n{why}"
    blocks: list[Block] = [Heading(3, title), Text(f"{said}\n\n{verdict}")]
    if any(finding.scale.data for finding in one.findings):
        blocks.append(_evidence_table(one))
    limits = [f"*What it doesn't say.* {claim.limits}"] if claim.limits else []
    limits += [text for diagnostic in claim.diagnostics if (text := _diagnosed(diagnostic, attention, records))]
    if claim.to_measure and decision.verdict in ("undecided", "not measured"):
        limits.append(f"*The run that the rule needs.* `{claim.to_measure}`")
    return [*blocks, *([Text("\n\n".join(limits))] if limits else [])]


_FOLLOWS: Mapping[State, tuple[Outcome, ...]] = {  # the findings from which the state of a part follows
    "holds": ("for",),
    "fails": ("against",),
    "open": ("open", "unusable"),
    "missing": ("missing",),
}


def _part_words(part: str, state: State, findings: Sequence[Finding]) -> str:
    """Returns the state of a part and what it follows from."""
    compared: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        if one.part == part and one.outcome in _FOLLOWS[state]:
            what, figure = (
                (one.what, one.figure.partition(" ↓")[0].partition(" ↑")[0]) if one.p is not None else ("", "")
            )
            compared.setdefault((one.reason, one.where, figure), []).append(what)
    reasons = []
    for (reason, where, figure), whats in compared.items():
        named = ", ".join(dict.fromkeys(what for what in whats if what))
        reasons.append(f"{f'{named} in {figure}: ' if named else ''}{reason}{f' ({where})' if where else ''}")
    because = f": {escape(_joined(reasons, most=3))}" if reasons else ""
    return f"- *{escape(part)}* {_STATES[state]}{because}."


_COLUMNS: Mapping[
    str, Callable[[Finding], str]
] = {  # heading -> what stands in the cell; columns without any text are left out
    "table or sweep": lambda f: f.where,
    "figure": lambda f: ", ".join(text for text in (f.what, f.figure) if text),
    "value, 95 % over seeds or points": lambda f: "" if f.value is None else _value(f),
    "95 % over test": lambda f: _interval(f.low_test, f.high_test, signed=True).strip(),
    "p (Holm)": lambda f: "" if f.p is None else numbers.p_value(f.p),
    "seeds, points or rounds": lambda f: "" if f.n is None else numbers.count(f.n),
    "says": lambda f: f"{_SAYS[f.outcome]}: {f.reason}",
}


def _evidence_table(one: Judged) -> Table:
    shown = {name: cell for name, cell in _COLUMNS.items() if any(cell(finding) for finding in one.findings)}
    rows = [
        Row(finding.part, tuple(Printed(cell(finding) or numbers.MISSING) for cell in shown.values()))
        for finding in one.findings
    ]
    caption = f"Claim {one.number}: all figures that bear on it."
    values = [_csv_row(one, finding) for finding in one.findings]
    columns = ["part", *shown]
    return Table(f"claims-{one.claim.name}", caption, columns, rows, values, _evidence_notes(one), is_prose=True)


def _evidence_notes(one: Judged) -> list[str]:
    """Returns preset and data of each table and sweep, and how differences are tested, if the claim has any."""
    places: dict[str, list[str]] = {}
    for finding in one.findings:
        if finding.scale.data:
            preset = (
                f"preset {finding.scale.preset}, data {finding.scale.data}"
                if finding.scale.preset
                else finding.scale.data
            )
            places.setdefault(preset, []).append(finding.where)
    notes = [f"{escape(_capital(_joined(where, most=9)))}: {escape(preset)}." for preset, where in places.items()]
    if any(finding.p is not None for finding in one.findings):
        notes.append(
            "Over seeds: Student's t, not adjusted; p: the same test, adjusted by Holm over the comparisons of this claim, so p can be above 5 % "
            "beside an interval without zero. Over test: test examples of the first seed. ↓ lower is better, ↑ higher is better."
        )
    return notes


def _diagnosed(diagnostic: Diagnostic, attention: str, records: Records) -> str:
    """Returns what a diagnostic table shows of the attention; nothing without such a table."""
    tables = largest(records.at(diagnostic.task, diagnostic.backbone, diagnostic.pattern), attention)
    texts = []
    for group in tables:
        metric = diagnostic.metric or next(iter(group.metrics()))
        ours, exact, nothing = the_entry(group, attention), group.reference, group.nothing
        card = records.cards.get(id(group))
        if (
            card is None
            or not card.is_resolved
            or metric not in group.metrics()
            or not ours.values(metric)
            or exact is None
            or nothing is None
        ):
            continue
        means = [summary_of(entry, metric) for entry in (ours, exact, nothing)]
        if any(mean is None for mean in means):
            continue
        first, second, third = (mean.mean for mean in means if mean is not None)
        if second == third:
            continue
        share = (first - third) / (second - third)
        follows = (
            diagnostic.shows
            if share <= LITTLE
            else "This table doesn't show the limit that follows from the construction."
        )
        texts.append(
            f"*By construction.* {escape(table_words(group))}, {escape(metric)} (preset {group.preset}, data {escape(data_words(group.data))}): "
            f"{escape(_listed(group, metric))}. {escape(ours.label)} keeps {100 * share:.0f} % of the lead of {escape(exact.label)} over "
            f"none. {follows}"
        )
    return "\n\n".join(texts)


def _listed(group: Group, metric: str) -> str:
    """Returns every row of a table in one metric: attentions, controls, then rules."""
    found = [f"{entry.label} {_mean(entry, metric)}" for entry in group.entries if entry.values(metric)]
    rules = {name: values[metric] for name, values in group.controls().items() if values.get(metric)}
    return ", ".join([*found, *(f"rule {name} {numbers.significant(summarise(v).mean)}" for name, v in rules.items())])


def _mean(entry: Entry, metric: str) -> str:
    summary = summary_of(entry, metric)
    assert summary is not None
    spread = "" if summary.deviation is None else f" ± {numbers.significant(summary.deviation, 2)}"
    return f"{numbers.significant(summary.mean)}{spread}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
