"""The highest accuracy that a window, a mean or a state of some size allows, by counting; in per cent.

docs/lavo.md derives those of LAVO.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def visible(
    evidence: np.ndarray, asked: np.ndarray, *, window: int, is_causal: bool, overlap: bool = False
) -> np.ndarray:
    """Returns which answers the window of the question holds.  Blocks of ``window`` places follow each other.

    evidence, asked: places in one sequence, of one shape.  Returns bool of that shape.
    overlap: blocks have half as many places, and a place sees the block before its own as well (and the one after it, unless
    causal).
    """
    block = window // 2 if overlap else window
    distance = np.abs(asked // block - evidence // block)
    seen = (distance <= int(overlap)) & (evidence >= 0)
    return seen & (evidence <= asked) if is_causal else seen


def window_ceiling(share_visible: float, num_answers: int) -> float:
    """Visible answers are right, and the others are guessed among all possible answers."""
    return 100 * (share_visible + (1 - share_visible) / num_answers)


def bag_ceiling(share_visible: float, pairs: int) -> float:
    """Visible answers are right, and the others are guessed among the ``pairs`` different answers of the text.

    A mean of places in which keys and values are summed knows no more.
    """
    return 100 * (share_visible + (1 - share_visible) / pairs)


def state_ceiling(bits: int, pairs: int, num_answers: int, *, repeated: bool = False) -> float:
    """The state takes one of 2^bits values, and all questions are answered from it.

    For one value of the state the answers are fixed.  There are N texts with these keys, and at most C(pairs, m) · N(m) of them
    agree with fixed answers at m or more places, where N(m) texts have m values fixed.  So at most
    2^bits · C(pairs, m) · N(m) / N of all texts get m or more answers right, and the mean over m = 1..pairs is the ceiling.

    repeated: whether a value may occur twice in a text; if not, values are drawn without repetition.
    """
    total = Fraction(0)
    for right in range(1, pairs + 1):
        if repeated:
            fixed = Fraction(1, num_answers**right)
        else:
            fixed = Fraction(math.perm(num_answers - right, pairs - right), math.perm(num_answers, pairs))
        share = math.comb(pairs, right) * fixed
        # A state with more bits than the share's inverse allows all of it; the power of two would have as many digits.
        total += Fraction(1) if bits >= (1 / share).__ceil__().bit_length() else min(Fraction(1), 2**bits * share)
    return float(100 * total / pairs)
