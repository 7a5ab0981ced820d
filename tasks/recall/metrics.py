"""Accuracy of recall: one value for each example."""

from __future__ import annotations

from torch import Tensor


def accuracy(predicted: Tensor, answers: Tensor) -> Tensor:
    """Returns the share of the asked tokens that are right, in per cent.

    predicted, answers: (examples, questions).  Returns (examples,) float64.
    """
    return 100 * (predicted == answers).double().mean(-1)
