"""Shared by the point-cloud tests: one thread, small tasks, the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.point_cloud_completion.task import CompletionSettings, PointCloudCompletion

SMALL_MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_centres": 24,
    "num_proxies": 12,
    "num_neighbours": 4,
    "group_dims": [4, 8, 8, 8, 16],
    "num_queries": 16,
    "fold_size": 2,
    "global_dim": 32,
    "fold_dim": 16,
}


def softmax_sites() -> AttentionSites:
    """Exact softmax everywhere."""
    return AttentionSites("softmax", "noncausal_self", {})


def settings_of(**groups: dict[str, Any]) -> CompletionSettings:
    """Small settings; a group's own values replace them."""
    content: dict[str, dict[str, Any]] = {
        "data": {"num_shapes": 14, "num_eval_shapes": 7, "num_input": 48, "num_target": 64, "resolution": 32},
        "model": SMALL_MODEL,
        "eval": {},
    }
    return CompletionSettings.model_validate({name: content[name] | groups.get(name, {}) for name in content})


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tensors are so small here that more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., PointCloudCompletion]:
    """make_task(data_root, data={…}) gives the task with its data loaded."""

    def make(data_root: Path | None = None, **groups: dict[str, Any]) -> PointCloudCompletion:
        task = PointCloudCompletion(settings_of(**groups), backbone="pointr")
        task.load_data(data_root, tmp_path / "cache")
        return task

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data root with ``pcc/``; where there is none, the tests that need it are skipped."""
    root = Path(os.environ.get("LAVO_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "pcc" / "sweethome3d").is_dir():
        pytest.skip(f"no real data in {root}: set LAVO_BENCH_DATA")
    return root
