"""Errors compared with values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from tasks.forecasting.metrics import mae, mse


def test_values_by_hand():
    predicted, target = np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([[1.0, 1.0], [2.0, 2.0]])
    assert mse(predicted, target) == (1 + 0 + 0 + 9) / 4
    assert mae(predicted, target) == (1 + 0 + 0 + 3) / 4
    assert mse([1.0, 3.0], [0.0, 0.0]) == 5.0
    assert mae([1.0, -3.0], [0.0, 0.0]) == 2.0


def test_a_batch_gives_one_value_a_window():
    predicted, target = torch.randn(5, 7, 3), torch.randn(5, 7, 3)
    for metric in (mse, mae):
        values = metric(predicted, target)
        assert values.shape == (5,)
        for index in range(5):
            assert float(values[index]) == pytest.approx(float(metric(predicted[index], target[index])), abs=1e-6)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7, 3), (7, 4)])
def test_unequal_shapes_are_refused_and_not_broadcast(shape):
    with pytest.raises(ValueError, match="one shape"):
        mse(np.zeros(shape), np.zeros((7, 3)))


def test_nan_is_not_hidden():
    assert math.isnan(mse(np.array([np.nan, 0.0]), np.zeros(2)))
