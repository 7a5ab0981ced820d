"""A task that trains in a second: it fits noisy lines.

It has dropout, so that random numbers matter, and examples with unequal weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.interface import AttentionFactory, LossSum, Splits, mean_of
from benchmark.settings import Settings

WIDTH = 8


def register(monkeypatch: pytest.MonkeyPatch, folder: Path, presets: str, cls: str = "Toy") -> None:
    """Puts a class of this file into the registry as the task ``toy`` for one test, with these presets in this folder."""
    folder.mkdir()
    (folder / "presets.yaml").write_text(presets, encoding="utf-8")
    monkeypatch.setitem(registry.TASKS, "toy", f"toy_task:{cls}")
    monkeypatch.setattr("benchmark.settings.resolve.task_folder", lambda _: folder)


class ToyData(Settings):
    """Sizes of the parts."""

    num_examples: int = 50
    num_test: int = 10


class ToyModel(Settings):
    """Options of ``ToyNet``."""

    dropout: float = 0.1
    num_layers: int = 1


class ToyEval(Settings):
    """Nothing to choose."""


class ToySettings(Settings):
    """All settings of ``net``."""

    data: ToyData = ToyData()
    model: ToyModel = ToyModel()
    eval: ToyEval = ToyEval()


class Line(NamedTuple):
    """One example, or a batch of them with a batch axis in front."""

    x: Tensor  # (5, WIDTH)
    y: Tensor  # (5,)
    weight: Tensor  # (): the number of terms that this example counts for


class ToyNet(nn.Module):
    """Layers of attention, and a linear map."""

    def __init__(self, attention_for: AttentionFactory, dropout: float, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            attention_for("causal_self", embed_dim=WIDTH, num_heads=2, max_length=5, dropout=dropout)
            for _ in range(num_layers)
        )
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 5, WIDTH) -> (batch, 5)"""
        for layer in self.layers:
            x = x + layer(x)
        return self.out(x).squeeze(-1)


class Toy:
    """The task, with the smallest content that the protocol allows."""

    name = "toy"
    version = 1
    backbones = {"net": ("causal_self",)}
    settings_of = {"net": ToySettings}
    metrics = {"mse": mean_of("mse", unit="", card="squared error, mean over points, then over examples")}
    selection = "mse"

    def __init__(self, settings: ToySettings, *, backbone: str) -> None:
        self.settings = settings

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """Three parts that are made on the spot."""
        sizes = (self.settings.data.num_examples, 9, self.settings.data.num_test)
        self.parts = [make_part(size, seed) for seed, size in enumerate(sizes)]
        return Splits(*self.parts, name="embedded", fingerprint="0" * 64, embedded=True, details={})

    def collate(self, examples: Sequence[Line]) -> Line:
        """A batch of these lines."""
        return Line(*map(torch.stack, zip(*examples, strict=True)))

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """``ToyNet`` in the sizes of the settings."""
        return ToyNet(attention_for, **self.settings.model.model_dump())

    def loss(self, model: nn.Module, batch: Line) -> LossSum:
        """Weighted squared errors, and the sum of the weights."""
        error = (model(batch.x).float() - batch.y).square().mean(-1) * batch.weight
        return LossSum(error.sum(), batch.weight.sum())

    def score(self, model: nn.Module, batch: Line) -> Mapping[str, Tensor]:
        """The squared error of each line."""
        return {"mse": (model(batch.x).float() - batch.y).square().mean(-1)}

    def controls(self) -> Mapping[str, Any]:
        """``zero``: the error of predicting 0."""
        return {"zero": {"mse": torch.stack([line.y.square().mean() for line in self.parts[2]]).numpy()}}


class TwoSites(Toy):
    """The task with a backbone of two patterns in one model."""

    backbones = {"net": ("noncausal_self", "causal_self")}

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """Two ``ToyNet``, one after the other, of which the first is not causal."""

        def first(_pattern: Any, **sizes: Any) -> Any:
            return attention_for("noncausal_self", **sizes)

        options = self.settings.model.model_dump()
        return Sum(ToyNet(first, **options), ToyNet(attention_for, **options))  # type: ignore[arg-type]


class TwoModels(Toy):
    """The task with a backbone that is another model for each pattern."""

    backbones = {"net": ("noncausal_self", "causal_self")}
    separate_models = True

    def __init__(self, settings: ToySettings, *, backbone: str, pattern: str) -> None:
        super().__init__(settings, backbone=backbone)
        self.pattern = pattern

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """``ToyNet`` with attentions of its own pattern."""

        def own(_pattern: Any, **sizes: Any) -> Any:
            return attention_for(self.pattern, **sizes)  # type: ignore[arg-type]

        return ToyNet(own, **self.settings.model.model_dump())  # type: ignore[arg-type]


class Sum(nn.Module):
    """The sum of two networks."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 5, WIDTH) -> (batch, 5)"""
        return self.first(x) + self.second(x)


def make_part(size: int, seed: int) -> list[Line]:
    """Random lines: y is the running sum of one column of x, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, WIDTH, generator=generator)
    y = x.cumsum(1)[..., 0] + 0.1 * torch.randn(size, 5, generator=generator)
    weight = torch.randint(1, 5, (size,), generator=generator).float()
    return [Line(*parts) for parts in zip(x, y, weight, strict=True)]


class CountingToy(Toy):
    """The toy task with a number of tokens in each batch.

    It is a class of its own: once ``isinstance`` has seen a method in a class, it does so for ever, even if a test takes it away.
    """

    name = "toy"
    version = 1
    backbones = {"net": ("causal_self",)}

    def tokens(self, batch) -> int:
        return 5 * len(batch.x)
