"""Finds in records and sweeps the figures that bear on a claim, judged by the rules."""

from __future__ import annotations

from benchmark.report.claims.cost import STATE, growth_findings, mode_words, reach_findings, slower_findings
from benchmark.report.claims.files import Claim
from benchmark.report.claims.found import Records
from benchmark.report.claims.quality import EXTRAPOLATION, ablation_findings, extrapolation_findings, sites_findings
from benchmark.report.claims.rules import Finding, Outcome


def parts_of(claim: Claim) -> list[str]:
    """Returns the parts that a claim has by its rule."""
    if claim.growth is not None:
        return [*(f"time, {mode_words(mode)}" for mode in claim.growth.modes), STATE]
    if claim.reach is not None:
        return [mode_words(mode) for mode in claim.reach.modes]
    if claim.slower is not None:
        return [mode_words(mode) for mode in claim.slower.modes]
    if claim.sites is not None:
        return list(claim.sites.parts)
    return list(claim.ablation.without) if claim.ablation is not None else [EXTRAPOLATION]


def findings_of(claim: Claim, attention: str, records: Records) -> list[Finding]:
    """Returns the findings of a claim about an attention; a part of which nothing was measured has a missing one."""
    found: list[Finding] = []
    if claim.growth is not None:
        found = growth_findings(claim.growth, attention, records)
    elif claim.reach is not None:
        found = reach_findings(claim.reach, attention, records.sweeps)
    elif claim.slower is not None:
        found = slower_findings(claim.slower, attention, records.sweeps)
    elif claim.sites is not None:
        found = sites_findings(claim.sites, attention, records)
    elif claim.ablation is not None:
        found = ablation_findings(claim.ablation, attention, records)
    elif claim.extrapolation is not None:
        found = extrapolation_findings(claim.extrapolation, attention, records)
    parts = parts_of(claim)
    absent = [Finding(part, "missing", reason="no record") for part in parts if all(f.part != part for f in found)]
    return sorted(
        [*found, *absent], key=lambda one: (parts.index(one.part), _ORDER.index(one.outcome), one.where, one.what)
    )


_ORDER: tuple[Outcome, ...] = ("against", "for", "open", "unusable", "missing", "context")
