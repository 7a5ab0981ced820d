"""The task forecasting: Informer on standardised series."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import AttentionFactory, Columns, LossSum, Splits, mean_of
from benchmark.settings import Settings
from tasks.forecasting.controls import control_errors
from tasks.forecasting.data import ForecastData, Window, Windows, load_forecast_data
from tasks.forecasting.informer import Informer
from tasks.forecasting.metrics import mae, mse
from tasks.forecasting.settings import DataSettings
from tasks.forecasting.sources import default_file


class ModelSettings(Settings):
    """Sizes of Informer, and the faults of the published code (PROTOCOL.md, "Faults")."""

    embed_dim: int = Field(default=512, ge=2, multiple_of=2)
    num_heads: int = Field(default=8, ge=1)
    num_encoder_layers: int = Field(default=2, ge=1)
    num_decoder_layers: int = Field(default=1, ge=1)
    feed_forward_dim: int = Field(default=2048, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    distil: bool = Field(default=True, description="halve the sequence between encoder layers")
    mix: bool = Field(default=False, description="fault: interleave heads and time behind the decoder's self-attention")
    circular: bool = Field(default=False, description="fault: convolutions join the ends of the series, and look ahead")
    window_norm: bool = Field(
        default=False, description="shift and scale each window by its history, and the forecast back"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self


class EvalSettings(Settings):
    """Which windows are scored, and how many are drawn."""

    stride: int = Field(default=1, ge=1, description="score every n-th validation and test window; 1: all of them")
    drop_last: int = Field(
        default=0, ge=0, description="fault: score only a multiple of this many test windows; 0: all of them"
    )
    num_drawn: int = Field(
        default=3, ge=0, description="number of test windows, evenly spaced, whose forecasts the record keeps"
    )


class ForecastingSettings(Settings):
    """All settings of ``informer``."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    eval: EvalSettings = EvalSettings()


class ForecastBatch(NamedTuple):
    """A batch of windows; the future follows directly on the history."""

    history: Tensor  # float32 (batch, seq_len, columns)
    history_times: Tensor  # float32 (batch, seq_len, time features)
    decoder_times: Tensor  # float32 (batch, label_len + pred_len, time features)
    future: Tensor  # float32 (batch, pred_len, columns)


class Forecasting:
    """The task; ``load_data`` comes before all other methods."""

    name = "forecasting"
    version = 2
    backbones = {"informer": ("noncausal_self", "causal_self", "noncausal_cross")}
    settings_of = {"informer": ForecastingSettings}
    metrics = {
        "mse": mean_of(
            "mse",
            unit="",
            card="squared error on the standardised series, mean over steps and columns, then over windows",
        ),
        "mae": mean_of(
            "mae",
            unit="",
            card="absolute error on the standardised series, mean over steps and columns, then over windows",
        ),
    }
    selection = "mse"
    data: ForecastData

    def __init__(self, settings: ForecastingSettings, *, backbone: str) -> None:
        if backbone not in self.backbones:
            raise ValueError(f"backbone {backbone!r}: forecasting has {', '.join(self.backbones)}")
        self.settings = settings

    def sources(self, data_root: Path) -> Collection[str]:
        """The file that these settings read, if it is one of ``sources.yaml``."""
        return {f"lstf/{self.settings.data.file or default_file(data_root)}"}

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The windows of the three parts; real data from ``lstf/`` of the root, or from the file that the settings name.

        Raises ValueError, in one line, for data that can't be used.
        """
        self.cache = cache
        evaluation = self.settings.eval
        self.data = load_forecast_data(
            self.settings.data, data_root, stride=evaluation.stride, drop_last=evaluation.drop_last
        )
        return self.data.splits

    def collate(self, examples: Sequence[Window]) -> ForecastBatch:
        """A batch of these windows."""
        return ForecastBatch(*map(torch.stack, zip(*examples, strict=True)))

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """Informer for the columns and time features of the data."""
        return Informer(
            len(self.data.mean),
            self.data.num_time_features,
            attention_for=attention_for,
            **self.data.lengths._asdict(),
            **self.settings.model.model_dump(),
        )

    def loss(self, model: nn.Module, batch: ForecastBatch) -> LossSum:
        """The squared errors, summed in float32, and their number."""
        error = forecast(model, batch) - batch.future
        return LossSum(error.square().sum(), error.numel())

    def score(self, model: nn.Module, batch: ForecastBatch) -> Mapping[str, Tensor]:
        """``mse`` and ``mae`` of each window."""
        predicted = forecast(model, batch)
        return {"mse": mse(predicted, batch.future), "mae": mae(predicted, batch.future)}

    def controls(self) -> Mapping[str, Columns]:
        """``repeat``, ``seasonal_naive`` and ``dlinear`` on the test windows."""
        return self.controls_after(len(self.data.parts[0]))

    def controls_after(self, num_examples: int) -> Mapping[str, Columns]:
        """The controls; DLinear learns from as many training windows as a model that has drawn ``num_examples`` has seen."""
        data = self.data
        train, validation, test = data.parts
        parts = (train.thinned(num_examples), validation, test)
        return control_errors(parts, season=data.season, fingerprint=data.splits.fingerprint, cache=self.cache)

    def tokens(self, batch: ForecastBatch) -> int:
        """The number of steps that encoder and decoder read."""
        return batch.history.shape[0] * (batch.history.shape[1] + batch.decoder_times.shape[1])

    def curves(self, model: nn.Module) -> dict[str, Any]:
        """For the figures: the target's history, truth and forecast in some test windows, and errors by step of the horizon.

        The errors are means over all test windows and columns.
        """
        data, test = self.data, self.data.parts[2]
        device = next(model.parameters()).device
        squared, absolute = torch.zeros(2, data.lengths.pred_len, dtype=torch.float64)
        with evaluating(model):
            for first in range(0, len(test), 64):
                batch = self.collate(test[first : first + 64])
                error = forecast(model, ForecastBatch(*(x.to(device) for x in batch))).cpu() - batch.future
                squared += error.double().square().mean(2).sum(0)
                absolute += error.double().abs().mean(2).sum(0)
            windows = [self._drawn(model, test, index, device) for index in self._drawn_indices(len(test))]
        return {
            "target": data.splits.details["target"],
            "step": data.splits.details["step"],
            "windows": windows,
            "mse_by_step": _rounded(squared / len(test)),
            "mae_by_step": _rounded(absolute / len(test)),
        }

    def _drawn_indices(self, num_windows: int) -> list[int]:
        """Indices evenly spaced over the test part, the first and the last window among them."""
        count = min(self.settings.eval.num_drawn, num_windows)
        return sorted(set(np.linspace(0, num_windows - 1, count).round().astype(int).tolist()))

    def _drawn(self, model: nn.Module, test: Windows, index: int, device: torch.device) -> dict[str, Any]:
        """The target's history, truth and forecast in one window, in its own unit and standardised."""
        batch = self.collate([test[index]])
        predicted = forecast(model, ForecastBatch(*(x.to(device) for x in batch))).cpu()
        shown = batch.history[:, -max(48, 2 * self.data.lengths.pred_len) :]
        target = self.data.target_index
        mean, deviation = self.data.mean[target], self.data.deviation[target]
        window: dict[str, Any] = {"index": index, "start": str(self.data.dates[test.forecast_starts[index]])}
        for name, values in (("history", shown), ("truth", batch.future), ("forecast", predicted)):
            standardised = values[0, :, target].double()
            window[name] = _rounded(standardised * deviation + mean)
            window[f"{name}_standardised"] = _rounded(standardised)
        return window


def forecast(model: nn.Module, batch: ForecastBatch) -> Tensor:
    """The model's forecast, float32 (batch, pred_len, columns), in whatever precision the model ran."""
    return model(batch.history, batch.history_times, batch.decoder_times).float()


def _rounded(values: Tensor) -> list[float]:
    """The values with six significant digits, enough for a plot."""
    return [float(f"{value:.6g}") for value in values.tolist()]
