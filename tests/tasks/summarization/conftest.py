"""Shared by the summarisation tests: a tiny backbone, small settings, files to read, the real data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.summarization.task import Summarization, SummarizationSettings
from tasks.summarization.transformer import Transformer

ATTENTIONS = ("lavo", "softmax", "flash", "performer", "cosformer")
PATTERNS = ("noncausal_self", "causal_self", "causal_cross")
BEGIN, END, VOCAB = 20, 21, 22


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tensors are so small here that more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(attention: str = "softmax", pattern: str = "causal_self", **sizes: Any) -> Transformer:
    """A backbone in float64 and evaluation mode, so that two ways of computing agree to rounding."""
    torch.manual_seed(3)
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "embed_dim": 16,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "feed_forward_dim": 32,
        "max_source_length": 160,
        "max_target_length": 160,
    }
    return Transformer(AttentionSites(attention, pattern, {}), **(settings | sizes)).double().eval()  # type: ignore[arg-type]


def sources(lengths: tuple[int, ...] = (150, 90, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sources of these lengths, and their padding."""
    tokens = torch.randint(0, BEGIN, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]


def settings(**groups: dict[str, Any]) -> SummarizationSettings:
    """Small settings; a group's own values replace them."""
    small: dict[str, dict[str, Any]] = {
        "data": {"vocab_size": 300, "max_source_tokens": 64, "max_target_tokens": 16},
        "model": {
            "embed_dim": 16,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_heads": 2,
            "feed_forward_dim": 32,
            "dropout": 0.0,
        },
        "eval": {"forced_min_tokens": 8, "num_shown": 2},
    }
    return SummarizationSettings.model_validate({key: small[key] | groups.get(key, {}) for key in small})


@pytest.fixture
def own_task(tmp_path: Path) -> Callable[..., Summarization]:
    """Makes a loaded task on a user's own files.  Each part is a list of (source, target)."""

    def make(
        train: list[Any], test: list[Any] | None = None, validation: list[Any] | None = None, **groups: dict[str, Any]
    ) -> Summarization:
        for part, rows in (("train", train), ("validation", validation or train), ("test", test or train)):
            write_lines(tmp_path / "own" / f"{part}.jsonl", [{"source": s, "target": t} for s, t in rows])
        groups["data"] = {"name": "own", "folder": str(tmp_path / "own")} | groups.get("data", {})
        task = Summarization(settings(**groups))
        task.load_data(None, tmp_path / "cache")
        return task

    return make


def write_lines(path: Path, rows: list[Any]) -> None:
    """Writes JSON lines."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data root with ``sum/``; where there is none, the tests that need it are skipped."""
    root = Path(os.environ.get("LAVO_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "sum" / "scitldr" / "train.jsonl").is_file():
        pytest.skip(f"no real data in {root}: set LAVO_BENCH_DATA")
    return root
