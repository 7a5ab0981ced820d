"""The battery of ``lavo-bench check``: every check at every pattern, and the table that comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from benchmark.checking.definition import (
    batch_invariance,
    causality,
    empty_context,
    exact,
    gradients,
    oracle,
    padding,
    padding_gradients,
    shape_and_dtype,
)
from benchmark.checking.numerics import (
    determinism,
    inputs_untouched,
    large_inputs,
    lengths,
    long_inputs,
    precision,
    state_dict,
    strides,
)
from benchmark.checking.refusals import mask_refused, max_length, unequal_lengths
from benchmark.checking.streams import branching, select, state_size, streaming
from benchmark.checking.subject import (
    Broken,
    Check,
    Measurement,
    NotApplicable,
    Subject,
)
from benchmark.interface import PATTERNS
from benchmark.registry import check_declarations, check_options, check_pattern, load_attention

Outcome = Literal["passed", "failed", "not applicable"]


class CheckResult(NamedTuple):
    """One row of the table: a check, the pattern it ran at, what came out, and the figure with its limit."""

    check: str
    pattern: str
    outcome: Outcome
    detail: str


def check_attention(
    name: str,
    *,
    patterns: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """All checks on the attention of this name, at each pattern.

    Raises ValueError for an unknown name, pattern or option; whatever the attention does wrong is a row.
    """
    cls = load_attention(name)
    check_options(name, cls, options or {})
    return check_class(cls, patterns=patterns, options=options, device=device)


def check_class(
    cls: type,
    *,
    patterns: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    checks: Sequence[Check] | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """All checks (or ``checks``) on a class that need not be registered."""
    check_declarations(cls.__name__, cls)
    results = []
    for pattern in PATTERNS if patterns is None else patterns:
        check_pattern(pattern)
        if pattern in cls.unsupported:  # type: ignore[attr-defined]
            reason = cls.unsupported[pattern]  # type: ignore[attr-defined]
            results.append(CheckResult("pattern", pattern, "not applicable", f"unsupported: {reason}"))
            continue
        subject = Subject(cls, pattern, options or {}, device)  # type: ignore[arg-type]
        results += [run_check(check, subject) for check in checks or CHECKS]
    return results


def run_check(check: Check, subject: Subject) -> CheckResult:
    """One row.  An exception inside a check is the attention's failure, told in a line."""
    outcome: Outcome
    try:
        with torch.no_grad():
            measurements = list(check(subject))
        beyond = [m for m in measurements if not m.difference <= m.limit]
        outcome, detail = ("failed" if beyond else "passed"), _figures(measurements, beyond)
    except NotApplicable as reason:
        outcome, detail = "not applicable", str(reason)
    except Broken as reason:
        outcome, detail = "failed", str(reason)
    except Exception as error:  # a stranger's module may raise anything, and the other checks still tell something
        outcome, detail = "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return CheckResult(check.__name__, subject.pattern, outcome, detail)


def _figures(measurements: Sequence[Measurement], beyond: Sequence[Measurement]) -> str:
    """The worst case with its figure and limit, and how many there were."""
    worst = max(measurements, key=_excess)
    figure = f"{worst.where}: {worst.difference:.2g}, limit {worst.limit:g}"
    if beyond:
        return f"{figure}; {len(beyond)} of {len(measurements)} cases fail"
    if worst.limit == math.inf:  # asked for the figure's sake
        return worst.where
    if worst.limit == 0:
        return f"{worst.where}: holds" if len(measurements) == 1 else f"{len(measurements)} cases, all hold"
    return f"{len(measurements)} cases; worst: {figure}"


def _excess(measurement: Measurement) -> float:
    """How far over its limit; where only equality will do, any difference is infinitely far."""
    if measurement.limit:
        return measurement.difference / measurement.limit
    return math.inf if measurement.difference else 0.0


CHECKS: tuple[Check, ...] = (
    shape_and_dtype,
    oracle,
    exact,
    gradients,
    causality,
    padding,
    padding_gradients,
    empty_context,
    batch_invariance,
    streaming,
    branching,
    select,
    lengths,
    precision,
    long_inputs,
    large_inputs,
    determinism,
    state_dict,
    state_size,
    unequal_lengths,
    mask_refused,
    max_length,
    strides,
    inputs_untouched,
)
