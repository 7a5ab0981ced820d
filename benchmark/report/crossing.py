"""Finds the length from which on one attention is faster than another: from measured points, and by CAB's fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmark.measuring.points import Point
from benchmark.report import numbers


class Crossing(NamedTuple):
    """The length at which an attention becomes faster than the reference and stays so.

    low       the longest length at which it is still clearly slower; None if there is none
    high      the length from which on it is clearly faster at every measured length; None if there is none
    estimate  the length between low and high at which the medians cross, interpolated between measured lengths
    shortest, longest  the shortest and longest length at which both were measured
    """

    low: int | None
    high: int | None
    estimate: float | None
    shortest: int
    longest: int

    def __str__(self) -> str:
        if self.high is None:
            return f"not reached up to {numbers.length(self.longest)}"
        if self.high == self.shortest:
            return f"faster from the shortest length measured, {numbers.length(self.shortest)}"
        if self.low is None or self.estimate is None:
            return f"at {numbers.length(self.high)} at the latest; not told apart at shorter lengths"
        between = f"between {numbers.length(self.low)} and {numbers.length(self.high)}"
        rounded = float(f"{self.estimate:.2g}")  # an interpolation supports no more digits
        return f"near {numbers.count(rounded)} ({between})"


def crossing(points: Sequence[Point], reference: Sequence[Point]) -> Crossing | None:
    """Compares the points of two attentions in one mode and pattern.  Returns None if they have no length in common.

    At a length, one is clearly faster if the intervals of the two medians don't touch.
    """
    ours = {point.length: point for point in points if point.seconds is not None}
    theirs = {point.length: point for point in reference if point.seconds is not None}
    lengths = sorted(ours.keys() & theirs.keys())
    if not lengths:
        return None
    high = None
    for length in reversed(lengths):
        if _high(ours[length]) >= _low(theirs[length]):
            break
        high = length
    slower = [n for n in lengths if _low(ours[n]) > _high(theirs[n])]
    if high is None or not slower:
        return Crossing(slower[-1] if slower else None, high, None, lengths[0], lengths[-1])
    ratios = [math.log(_median(ours[length]) / _median(theirs[length])) for length in lengths]
    return Crossing(slower[-1], high, _last_zero(lengths, ratios, high), lengths[0], lengths[-1])


FITTED = (512, 8192)  # the shortest and longest length of CAB's fits of time


def fitted_length(points: Sequence[Point], reference: Sequence[Point]) -> float | None:
    """Returns CAB's efficiency length: where a line through an attention's times meets a parabola through the exact one's.

    (CAB: Comprehensive Attention Benchmark.)  Both are fitted by least squares to the measured lengths from 512 to 8,192, as in
    CAB's script.  The result depends on which lengths were measured and has no interval, so it only serves for a comparison
    with CAB's tables.  Returns None with fewer than four lengths, or if line and parabola don't meet.
    """
    ours, theirs = (
        {point.length: point.seconds for point in some if point.seconds and FITTED[0] <= point.length <= FITTED[1]}
        for some in (points, reference)
    )
    lengths = sorted(ours.keys() & theirs.keys())
    if len(lengths) < 4:
        return None
    line = np.polynomial.Polynomial.fit(lengths, [ours[n] for n in lengths], 1)
    parabola = np.polynomial.Polynomial.fit(lengths, [theirs[n] for n in lengths], 2)
    roots = [complex(root) for root in (parabola.convert() - line.convert()).roots()]
    return max((root.real for root in roots if not root.imag and root.real > 0), default=None)


def _last_zero(lengths: Sequence[int], ratios: Sequence[float], high: int) -> float:
    """Returns the last length up to ``high`` at which the log ratio becomes negative, interpolated in log length."""
    pairs = zip(zip(lengths, ratios, strict=True), zip(lengths[1:], ratios[1:], strict=True), strict=False)
    *_, ((before, positive), (after, negative)) = (
        pair for pair in pairs if pair[0][1] >= 0 > pair[1][1] and pair[1][0] <= high
    )
    share = positive / (positive - negative)
    return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))


def _median(point: Point) -> float:
    assert point.seconds is not None
    return point.seconds


def _low(point: Point) -> float:
    low = point.seconds_low if point.seconds_low is not None else point.seconds
    assert low is not None
    return low


def _high(point: Point) -> float:
    high = point.seconds_high if point.seconds_high is not None else point.seconds
    assert high is not None
    return high
