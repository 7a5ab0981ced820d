"""Shared by the forecasting tests: a tiny softmax, small settings, files to read, the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark.multihead import MultiHeadAttention
from tasks.forecasting.task import Forecasting, ForecastingSettings


class TinySoftmax(nn.Module):
    """Exact attention without options, which is enough for the tests of a task."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q, k, v, key_padding_mask=None):
        """(batch, heads, length, head_dim), as every attention."""
        assert key_padding_mask is None
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


def softmax_for(
    pattern: str, *, embed_dim: int, num_heads: int, max_length: int, dropout: float = 0.0
) -> MultiHeadAttention:
    """An attention factory that always gives the tiny softmax."""
    assert max_length >= 1
    return MultiHeadAttention(embed_dim, num_heads, TinySoftmax(pattern == "causal_self"), dropout=dropout)


def small_task(cache: Path, data_root: Path | None = None, **groups: dict[str, Any]) -> Forecasting:
    """The task with small windows of the embedded data loaded."""
    settings: dict[str, dict[str, Any]] = {
        "data": {"seq_len": 48, "label_len": 24, "pred_len": 12, "num_rows": 600, "num_columns": 3},
        "model": {"embed_dim": 16, "num_heads": 2, "feed_forward_dim": 32, "dropout": 0.0},
        "eval": {},
    }
    for group, values in groups.items():
        settings[group] |= values
    task = Forecasting(ForecastingSettings.model_validate(settings), backbone="informer")
    task.load_data(data_root, cache)
    return task


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tensors are so small here that more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Forecasting]:
    """make_task(data_root, data={…}) gives ``small_task``."""
    return lambda data_root=None, **groups: small_task(tmp_path / "cache", data_root, **groups)


def csv_lines(num_rows: int = 300, step: timedelta = timedelta(hours=1)) -> list[str]:
    """The lines of a good file: a header, and rows of two columns that don't repeat."""
    start = datetime(2017, 3, 1)
    rows = [f"{start + i * step},{(i * 37 % 101) / 7:.3f},{(i * 53 % 97) / 3:.3f}" for i in range(num_rows)]
    return ["date,a,b", *rows]


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """write_csv(lines, name) gives the path of a new file."""

    def write(lines: list[str], name: str = "series.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data root with ``lstf/``; where there is none, the tests that need it are skipped."""
    root = Path(os.environ.get("LAVO_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "lstf" / "ETTh1.csv").is_file():
        pytest.skip(f"no real data in {root}: set LAVO_BENCH_DATA")
    return root
