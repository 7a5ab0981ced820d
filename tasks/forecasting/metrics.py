"""Errors of forecasts on standardised series, one value a window."""

from __future__ import annotations

from typing import Any

import numpy as np


def mse(predicted: Any, target: Any) -> Any:
    """Mean squared error of a window: the mean over its steps and columns, on the standardised series.

    predicted, target: arrays or tensors of one shape: (steps,), (steps, columns) or (windows, steps, columns).  The last
    gives one value a window.  Raises ValueError for unequal shapes, because broadcasting would give a wrong figure.
    """
    error = _difference(predicted, target)
    return (error * error).mean(_window_axes(error))


def mae(predicted: Any, target: Any) -> Any:
    """Mean absolute error of a window: the mean over its steps and columns, on the standardised series.

    Shapes and errors as in ``mse``.
    """
    error = _difference(predicted, target)
    return abs(error).mean(_window_axes(error))


def _difference(predicted: Any, target: Any) -> Any:
    predicted, target = (x if hasattr(x, "mean") else np.asarray(x) for x in (predicted, target))
    if tuple(predicted.shape) != tuple(target.shape) or not 1 <= predicted.ndim <= 3:
        raise ValueError(
            f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} must be of one shape: "
            "(steps,), (steps, columns) or (windows, steps, columns)"
        )
    return predicted - target


def _window_axes(error: Any) -> tuple[int, ...]:
    return (0,) if error.ndim == 1 else (-2, -1)
