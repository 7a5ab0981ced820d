"""Controls compared with closed forms."""

import numpy as np
import pytest
import torch

from tasks.forecasting.controls import DLinear, control_errors, repeat, seasonal_naive, train_dlinear, window_errors
from tasks.forecasting.data import Lengths, Windows

LENGTHS = Lengths(48, 24, 30)


def parts_of(values: torch.Tensor, lengths: Lengths = LENGTHS) -> tuple[Windows, Windows, Windows]:
    """Half of the rows for training, a quarter each for validation and test."""
    n = len(values)
    bounds = [(lengths.seq_len, n // 2), (n // 2, 3 * n // 4), (3 * n // 4, n)]
    return tuple(Windows(values, values, first=first, stop=stop, lengths=lengths) for first, stop in bounds)


def test_repeat_on_a_line_is_the_mean_of_squares():
    windows = parts_of(torch.arange(400.0)[:, None])[2]
    errors = window_errors(lambda history: repeat(history, 30), windows)
    steps = np.arange(1, 31)
    np.testing.assert_allclose(errors["mse"], np.full(len(windows), (steps**2).mean()), rtol=1e-6)
    np.testing.assert_allclose(errors["mae"], np.full(len(windows), steps.mean()), rtol=1e-6)


def test_seasonal_naive_is_exact_on_a_periodic_series_and_longer_than_the_season():
    season = torch.randn(24, 2)
    windows = parts_of(season.repeat(20, 1))[2]
    errors = window_errors(lambda history: seasonal_naive(history, 30, 24), windows)
    assert errors["mse"].max() == 0.0
    assert window_errors(lambda history: seasonal_naive(history, 30, 23), windows)["mse"].min() > 0


def test_dlinear_comes_near_the_least_squares_bound():
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(1500.0)
    values = torch.sin(2 * torch.pi * steps / 24) + 0.3 * torch.randn(1500, generator=generator)
    lengths = Lengths(48, 24, 6)
    train, validation, test = parts_of(values[:, None], lengths)
    model = train_dlinear(train, validation)
    error = window_errors(model, train)["mse"].mean()
    # DLinear is one linear map of the history, so no weights can give it less error than ordinary least squares.
    x = np.hstack([train.histories()[:, :, 0].numpy(), np.ones((len(train), 1))]).astype(np.float64)
    y = train.futures()[:, :, 0].numpy().astype(np.float64)
    bound = np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2)
    assert bound < error < 1.25 * bound
    assert window_errors(model, test)["mse"].mean() < 0.5 * window_errors(lambda h: repeat(h, 6), test)["mse"].mean()


@pytest.mark.parametrize("seq_len", [1, 10, 96])
def test_dlinear_takes_any_length(seq_len):
    assert DLinear(seq_len, 5)(torch.randn(2, seq_len, 3)).shape == (2, 5, 3)


def test_control_errors_are_cached_by_data_and_lengths(tmp_path):
    parts = parts_of(torch.randn(400, 2, generator=torch.Generator().manual_seed(1)))
    first = control_errors(parts, season=24, fingerprint="a" * 64, cache=tmp_path)
    assert set(first) == {"repeat", "seasonal_naive", "dlinear"}
    assert all(len(columns[name]) == len(parts[2]) for columns in first.values() for name in ("mse", "mae"))
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    changed = files[0].stat().st_mtime_ns
    state = torch.random.get_rng_state()
    second = control_errors(parts, season=24, fingerprint="a" * 64, cache=tmp_path)
    np.testing.assert_array_equal(first["dlinear"]["mse"], second["dlinear"]["mse"])
    assert files[0].stat().st_mtime_ns == changed
    control_errors(parts_of(parts[0].values * 2), season=24, fingerprint="a" * 64, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(state, torch.random.get_rng_state())  # a control must not change the cell's random numbers


def test_dlinear_is_the_same_twice():
    parts = parts_of(torch.randn(300, 1, generator=torch.Generator().manual_seed(2)))
    first, second = (train_dlinear(parts[0], parts[1]).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_season_longer_than_the_history_has_no_seasonal_control(tmp_path):
    parts = parts_of(torch.randn(400, 1))
    assert set(control_errors(parts, season=49, fingerprint="b" * 64, cache=tmp_path)) == {"repeat", "dlinear"}
