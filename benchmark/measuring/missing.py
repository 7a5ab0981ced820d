"""Finds the points of a grid that have no row yet, or a stale one, and the attentions to measure in the same rounds.

Times are compared only if they come from the same rounds, so where an attention's point is missing, the exact attentions are
measured together with it once more.  Their earlier rows stay for the attentions that were measured before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from benchmark.measuring.identity import identified, staleness
from benchmark.measuring.limits import DEADLINE_WORDS, Limits
from benchmark.measuring.points import Point, key_of, latest
from benchmark.measuring.shape import Shape
from benchmark.measuring.workloads import exists, lacking_methods
from benchmark.registry import attention_declarations, attention_names, load_attention


class Missing(NamedTuple):
    """The points of one pattern, mode and length that are to be measured.

    attentions    those whose points are missing or stale, and the exact attentions that are measured with them
    wanted        the former alone: name -> why its row is measured again, or None if there is no row
    """

    pattern: str
    mode: str
    length: int
    attentions: tuple[str, ...]
    wanted: Mapping[str, str | None]


def exact_attentions() -> tuple[str, ...]:
    """Returns the names of all attentions that declare that they compute softmax attention exactly."""
    return tuple(name for name in attention_names() if attention_declarations(name).get("exact", False))


def missing_points(
    attentions: Sequence[str],
    places: Iterable[tuple[str, str, int]],
    shape: Shape,
    limits: Limits,
    earlier: Sequence[Point],
) -> list[Missing]:
    """Returns what is to be measured, in the order of ``places``.

    places: (pattern, mode, length); those whose mode doesn't exist for the pattern are left out.
    earlier: the rows that there are.
    """
    known = {key_of(point): point for point in latest(earlier)}
    exact = exact_attentions()

    @cache
    def columns(attention: str, mode: str) -> Point:
        """Returns a point with the columns by which a stale row is found; they don't depend on pattern and length."""
        return identified(shape.point(mode, "causal_self", 1, attention), shape)

    found = []
    for pattern, mode, length in places:
        if not exists(mode, pattern):
            continue
        wanted: dict[str, str | None] = {}
        for name in attentions:
            row = known.get(key_of(shape.point(mode, pattern, length, name)))
            if row is None:
                wanted[name] = None
            elif (reason := _why_again(row, columns(name, mode), limits)) is not None:
                wanted[name] = reason
        if wanted:
            able = any(can_measure(name, mode, pattern) for name in wanted)
            beside = [name for name in exact if able and name not in wanted and can_measure(name, mode, pattern)]
            found.append(Missing(pattern, mode, length, (*wanted, *beside), wanted))
    return found


def _why_again(row: Point, now: Point, limits: Limits) -> str | None:
    """Returns why a point that has a row is measured again, or None if it isn't."""
    changed = staleness(row, now)
    if changed is not None:
        return changed
    if row.status == "over_budget":
        reason = row.reason or ""
        if reason.endswith(DEADLINE_WORDS):
            return "the sweep before ended first"
        if "the limit for a point is" in reason and not reason.endswith(limits.time_words):
            return "another limit of time"
    return None


def can_measure(attention: str, mode: str, pattern: str) -> bool:
    """Returns whether the attention declares nothing against the pattern, and has the methods that the mode calls."""
    cls = load_attention(attention)
    return pattern not in dict(cls.unsupported) and not lacking_methods(attention, mode, pattern)


def in_words(missing: Sequence[Missing]) -> list[str]:
    """Returns lines that say which attentions have missing points, and why others are measured again."""
    new: dict[str, int] = {}
    again: dict[tuple[str, str], int] = {}
    for one in missing:
        for name, reason in one.wanted.items():
            if reason is None:
                new[name] = new.get(name, 0) + 1
            else:
                again[name, reason] = again.get((name, reason), 0) + 1
    lines = [f"{name}: {count} points are missing" for name, count in new.items()]
    return [*lines, *(f"{name}: {count} points are stale ({reason})" for (name, reason), count in again.items())]
