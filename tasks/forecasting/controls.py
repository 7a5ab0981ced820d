"""Controls without attention: the last value, the last season, and DLinear."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.files import replacing
from tasks.forecasting.data import Windows
from tasks.forecasting.metrics import mae, mse

Forecast = Callable[[Tensor], Tensor]
DLINEAR_VERSION = 1  # raised when DLinear's figures change; the cached file's name depends on it


def repeat(history: Tensor, pred_len: int) -> Tensor:
    """Repeats the last value.  (windows, seq_len, columns) -> (windows, pred_len, columns)"""
    return history[:, -1:].expand(-1, pred_len, -1)


def seasonal_naive(history: Tensor, pred_len: int, season: int) -> Tensor:
    """Repeats the last season, which is at most seq_len steps long.  Shapes as in ``repeat``."""
    return history[:, history.shape[1] - season + torch.arange(pred_len) % season]


class DLinear(nn.Module):
    """A linear map of the moving average plus a linear map of the rest (Zeng et al., AAAI 2023, arXiv 2205.13504).

    All columns share the maps.  Before training both give the mean of the history.
    """

    def __init__(self, seq_len: int, pred_len: int, kernel: int = 25) -> None:
        super().__init__()
        self.kernel = kernel
        # The usual initialisation would draw from the global generator and so change the cell's random numbers.
        self.trend, self.rest = (nn.utils.skip_init(nn.Linear, seq_len, pred_len) for _ in range(2))
        for linear in (self.trend, self.rest):
            nn.init.constant_(linear.weight, 1 / seq_len)
            nn.init.zeros_(linear.bias)

    def forward(self, history: Tensor) -> Tensor:
        """(windows, seq_len, columns) -> (windows, pred_len, columns)"""
        x = history.transpose(1, 2)  # (windows, columns, seq_len)
        padded = F.pad(x, ((self.kernel - 1) // 2, self.kernel // 2), mode="replicate")
        trend = F.avg_pool1d(padded, self.kernel, stride=1)
        return (self.trend(trend) + self.rest(x - trend)).transpose(1, 2)


def train_dlinear(
    train: Windows,
    validation: Windows,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 5e-3,
    patience: int = 3,
) -> DLinear:
    """DLinear, trained with Adam on the squared error; the epoch with the least validation error is kept.

    The learning rate is halved each epoch from the third on.  Training stops after ``patience`` epochs without a better
    validation error.  The same data give the same weights: only the order of windows is random, with its own generator.
    """
    generator = torch.Generator().manual_seed(0)
    model = DLinear(train.lengths.seq_len, train.lengths.pred_len)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    histories, futures = train.histories(), train.futures()
    best, best_error, worse = model, float("inf"), 0
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 ** max(0, epoch - 1)
        for rows in torch.randperm(len(train), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.mse_loss(model(histories[rows]), futures[rows]).backward()
            optimizer.step()
        error = float(window_errors(model, validation)["mse"].mean())
        if error < best_error:
            best, best_error, worse = copy.deepcopy(model), error, 0
        else:
            worse += 1
        if worse == patience:
            break
    return best


@torch.no_grad()
def window_errors(forecast: Forecast, windows: Windows) -> dict[str, np.ndarray]:
    """``mse`` and ``mae`` of each window, each (windows,)."""
    pairs = [(mse(p, t), mae(p, t)) for p, t in _in_chunks(forecast, windows)]
    return {
        name: torch.cat(values).numpy() for name, values in zip(("mse", "mae"), zip(*pairs, strict=True), strict=True)
    }


def _in_chunks(forecast: Forecast, windows: Windows, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    for history, future in zip(windows.histories().split(size), windows.futures().split(size), strict=True):
        yield forecast(history), future


def control_errors(
    parts: Sequence[Windows], *, season: int, fingerprint: str, cache: Path
) -> dict[str, dict[str, np.ndarray]]:
    """Control -> ``mse`` and ``mae`` of each test window.

    ``seasonal_naive`` is left out if the season is longer than the history.  DLinear's errors are kept in ``cache``,
    because every cell on the same data needs them.
    """
    train, validation, test = parts
    seq_len, _, pred_len = train.lengths
    controls = {"repeat": window_errors(lambda history: repeat(history, pred_len), test)}
    if season <= seq_len:
        controls["seasonal_naive"] = window_errors(lambda history: seasonal_naive(history, pred_len, season), test)
    spans = [(p.forecast_starts.start, p.forecast_starts.stop, p.forecast_starts.step) for p in parts]
    values = hashlib.sha256(train.values.numpy().tobytes()).hexdigest()
    key = json.dumps([DLINEAR_VERSION, fingerprint, values, list(train.lengths), spans])
    path = cache / f"dlinear-{fingerprint[:16]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not path.is_file():
        errors = window_errors(train_dlinear(train, validation), test)
        with replacing(path) as file:
            np.savez(file, mse=errors["mse"], mae=errors["mae"])
    with np.load(path) as stored:
        controls["dlinear"] = dict(stored)
    return controls
