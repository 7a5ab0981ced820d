"""Writes numbers as the report shows them: means with their deviation, lengths, bytes, durations, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.statistics import Summary

MISSING = "–"
MINUS = "−"
_LARGE, _SMALL = 1e7, 1e-4  # numbers outside this range are written with a power of ten
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DIGITS = 6  # significant digits of a mean; a handful of seeds never supports more


def decimals(summaries: Sequence[Summary]) -> int:
    """Returns the number of decimals for a column of means.

    It is chosen so that the median deviation shows two digits and the smallest at least one, up to six significant digits of
    the largest mean.  Without any deviation, the largest mean shows four significant digits.
    """
    means = [abs(summary.mean) for summary in summaries]
    largest = math.floor(math.log10(max(means))) if means and max(means) > 0 else 0
    deviations = sorted(summary.deviation for summary in summaries if summary.deviation)
    if not deviations:
        return max(0, 3 - largest)
    middle = deviations[len(deviations) // 2]
    wanted = max(1 - math.floor(math.log10(middle)), -math.floor(math.log10(deviations[0])))
    return max(0, min(wanted, _MOST_DIGITS - 1 - largest))


def mean_and_deviation(summary: Summary, places: int) -> str:
    """Writes ``0.7321 ± 0.0042``, or the mean alone if the deviation is unknown."""
    if abs(summary.mean) >= _LARGE:
        power = math.floor(math.log10(abs(summary.mean)))
        scaled = Summary(summary.n, summary.mean / 10**power, summary.deviation and summary.deviation / 10**power)
        text = mean_and_deviation(scaled, decimals([scaled]))
        return f"{text}{_power(power)}" if summary.deviation is None else f"({text}){_power(power)}"
    mean = fixed(summary.mean, places)
    return mean if summary.deviation is None else f"{mean} ± {fixed(summary.deviation, places)}"


def _power(exponent: int) -> str:
    return "·10" + str(exponent).translate(_SUPERSCRIPTS)


def fixed(value: float, places: int) -> str:
    """Writes a number with ``places`` decimals, commas between thousands, and the minus sign ``−``."""
    text = f"{value:,.{places}f}"
    return text.replace("-", MINUS) if any(digit in text for digit in "123456789") else text.lstrip("-")


def signed(value: float, places: int) -> str:
    """Writes a number like ``fixed``, with a ``+`` before positive numbers unless they round to zero."""
    text = fixed(value, places) if abs(value) < _LARGE else significant(value)
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


def significant(value: float | None, digits: int = 3) -> str:
    """Writes a number with ``digits`` significant digits; a dash for None."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if not _SMALL <= abs(value) < _LARGE:
        return fixed(value / 10**power, digits - 1) + _power(power)
    return fixed(value, max(0, digits - 1 - power))


def count(value: float | None) -> str:
    """Writes a whole number with commas between thousands; a dash for None."""
    return MISSING if value is None else f"{round(value):,}"


def length(value: float) -> str:
    """Writes a number of tokens as 256, 512, 1K, 1.5K, 128K or 1M, where 1K is 1,024."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """Writes a number of bytes as B, KiB, MiB or GiB; a dash for None."""
    if value is None:
        return MISSING
    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{significant(value / unit)} {letter}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Writes a time with three digits, in the unit that suits its size; a dash for None."""
    if seconds is None:
        return MISSING
    if seconds >= 100:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    for unit, letter in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{significant(seconds / unit)} {letter}"
    return f"{significant(seconds / 1e-6)} µs"


def trimmed(text: str) -> str:
    """Removes trailing zeros, for the tick of an axis: ``2.00 ms`` becomes ``2 ms``."""
    number, space, unit = text.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + space + unit


def p_value(p: float | None) -> str:
    """Writes p as ``0.03``, ``0.012`` or ``< 0.001``; a dash for None."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
