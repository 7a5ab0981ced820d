"""The conformance suite of ``lavo-bench check``: the list of its checks, and the table of their results for an attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from benchmark.checking.definition import equal_values, exact, gradients, linear_values, oracle
from benchmark.checking.dependence import batch_invariance, causality, empty_context, heads, padding, padding_gradients
from benchmark.checking.measurement import Broken, Measurement, Measurements, Missing, NotApplicable
from benchmark.checking.numerics import determinism, large_inputs, lengths, long_inputs, precision, state_dict
from benchmark.checking.refusals import mask_refused, max_length, unequal_lengths
from benchmark.checking.streams import branching, select, state_size, streaming
from benchmark.checking.subject import Subject
from benchmark.checking.tensors import inputs_untouched, shape_and_dtype, strides
from benchmark.interface import PATTERNS
from benchmark.registry import check_declarations, check_options, check_pattern, load_attention

Outcome = Literal["passed", "failed", "missing", "not applicable"]

Check = Callable[[Subject], Measurements]
"""A check tests one requirement and yields measurements; the requirement is violated if a measurement exceeds its limit."""

MATHEMATICS: tuple[Check, ...] = (
    oracle,
    exact,
    equal_values,
    linear_values,
    gradients,
    causality,
    heads,
    padding,
    padding_gradients,
    empty_context,
    batch_invariance,
    lengths,
    precision,
    long_inputs,
    large_inputs,
    determinism,
    strides,
)
"""Whether the attention is the function that it says it is."""

CONTRACT: tuple[Check, ...] = (
    shape_and_dtype,
    streaming,
    branching,
    select,
    state_size,
    state_dict,
    unequal_lengths,
    mask_refused,
    max_length,
    inputs_untouched,
)
"""Whether it keeps what the engine relies on.  An attention may lack streaming; then some cells can't be run."""

CHECKS: tuple[Check, ...] = (*MATHEMATICS, *CONTRACT)


Listener = Callable[[str, str], None]


class CheckResult(NamedTuple):
    """One row of the table.

    detail: the worst measurement with its limit, or the reason of a failure or of "not applicable".
    """

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
    listen: Listener = lambda _pattern, _check: None,
) -> list[CheckResult]:
    """Returns the results of all checks on a registered attention, at these patterns (by default at all).

    Raises ValueError for an unknown name, pattern or option.  A fault of the attention raises nothing; it is a row of the
    results.
    """
    cls = load_attention(name)
    check_options(name, cls, options or {})
    return check_class(cls, patterns=patterns, options=options, device=device, listen=listen)


def num_checks(name: str, patterns: Sequence[str] | None = None) -> int:
    """Returns how many checks ``check_attention`` runs on a registered attention, at these patterns (by default at all)."""
    unsupported = load_attention(name).unsupported
    return len(CHECKS) * sum(pattern not in unsupported for pattern in patterns or PATTERNS)


def check_class(
    cls: type,
    *,
    patterns: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    checks: Sequence[Check] | None = None,
    device: str = "cpu",
    listen: Listener = lambda _pattern, _check: None,
) -> list[CheckResult]:
    """Returns the results of ``checks`` (by default, of the whole suite) on a class, which need not be registered.

    listen: called with the pattern and the check's name before each check.
    Raises ValueError for an unknown pattern, and if the class lacks a declaration that every attention needs.
    """
    check_declarations(cls.__name__, cls)
    results = []
    for pattern in PATTERNS if patterns is None else patterns:
        check_pattern(pattern)
        if pattern in cls.unsupported:  # type: ignore[attr-defined]
            reason = cls.unsupported[pattern]  # type: ignore[attr-defined]
            results.append(CheckResult("pattern", pattern, "not applicable", f"unsupported: {reason}"))
            continue
        subject = Subject(cls, pattern, options or {}, device)  # type: ignore[arg-type]
        for check in checks or CHECKS:
            listen(pattern, check.__name__)
            results.append(run_check(check, subject))
    return results


def run_check(check: Check, subject: Subject) -> CheckResult:
    """Returns the row of one check.  An exception in the check is a failure of the attention, reported in one line."""
    outcome: Outcome
    try:
        with torch.no_grad():
            measurements = list(check(subject))
        beyond = [m for m in measurements if not m.difference <= m.limit]
        outcome, detail = ("failed" if beyond else "passed"), _figures(measurements, beyond)
    except Missing as reason:
        outcome, detail = "missing", str(reason)
    except NotApplicable as reason:
        outcome, detail = "not applicable", str(reason)
    except Broken as reason:
        outcome, detail = "failed", str(reason)
    except Exception as error:  # an attention may raise anything, and the other checks must still run
        outcome, detail = "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return CheckResult(check.__name__, subject.pattern, outcome, detail)


def _figures(measurements: Sequence[Measurement], beyond: Sequence[Measurement]) -> str:
    """Returns the detail of a row: the number of cases, and the worst one with its difference and its limit."""
    worst = max(measurements, key=_excess)
    figure = f"{worst.where}: {worst.difference:.2g}, limit {worst.limit:g}"
    if beyond:
        return f"{figure}; {len(beyond)} of {len(measurements)} cases fail"
    if worst.limit == math.inf:  # such a measurement only informs, and its text contains the figures
        return worst.where
    if worst.limit == 0:
        return f"{worst.where}: holds" if len(measurements) == 1 else f"{len(measurements)} cases, all hold"
    return f"{len(measurements)} cases; worst: {figure}"


def _excess(measurement: Measurement) -> float:
    """Returns the difference as a multiple of its limit; infinity if the limit is zero and the difference is not."""
    if measurement.limit:
        return measurement.difference / measurement.limit
    return math.inf if measurement.difference else 0.0
