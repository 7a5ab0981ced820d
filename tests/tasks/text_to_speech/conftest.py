"""Small speech tasks, folders in LJSpeech's layout, and where the real data is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from benchmark.multihead import AttentionSites
from tasks.text_to_speech.task import TextToSpeech

MODELS: dict[str, dict[str, Any]] = {
    "fastspeech2": {
        "embed_dim": 16,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "feed_forward_dim": 16,
        "kernel_sizes": (3, 1),
        "predictor_dim": 16,
        "predictor_dropout": 0.0,
        "num_bins": 16,
        "dropout": 0.0,
    },
    "transformer_tts": {
        "embed_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "feed_forward_dim": 32,
        "encoder_prenet_layers": 1,
        "prenet_dim": 16,
        "postnet_dim": 16,
        "postnet_layers": 2,
        "convolution_dropout": 0.0,
        "dropout": 0.0,
    },
}
DATA = {"num_train": 12, "num_validation": 2, "num_test": 5, "voices": ("f",), "rates": ("fast",)}
QUICK_SOUND = {"griffin_lim_iterations": 2, "num_shown": 1}


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tensors are tiny here: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_task(tmp_path_factory) -> Callable[..., TextToSpeech]:
    """make_task("fastspeech2", data_root, data={…}): a tiny task with its data loaded; one cache for all."""
    cache = tmp_path_factory.mktemp("cache")

    def make(backbone: str, data_root: Path | None = None, **groups: dict[str, Any]) -> TextToSpeech:
        settings = {
            "data": DATA | groups.get("data", {}),
            "model": MODELS[backbone] | groups.get("model", {}),
            "eval": QUICK_SOUND | groups.get("eval", {}),
        }
        task = TextToSpeech(TextToSpeech.settings_of[backbone].model_validate(settings), backbone=backbone)
        task.load_data(data_root, cache)
        return task

    return make


@pytest.fixture
def build() -> Callable[..., Any]:
    """build(task, "lavo", "causal_self"): its model from a fixed seed."""

    def make(task: TextToSpeech, attention: str = "softmax", pattern: Any = "causal_self") -> Any:
        torch.manual_seed(0)
        return task.build_model(AttentionSites(attention, pattern, {}))

    return make


def tone(seconds: float = 0.5, rate: int = 22_050, hertz: float = 200.0) -> np.ndarray:
    """A vowel-like sound."""
    times = np.arange(int(seconds * rate)) / rate
    return sum(0.2 / k * np.sin(2 * np.pi * k * hertz * times) for k in (1, 2, 3))


@pytest.fixture
def write_folder(tmp_path) -> Callable[..., Path]:
    """A data root with tts/clips: a table of the lines given, and a wav for each of the names."""

    def write(lines: list[str] | bytes, names: list[str] | None = None) -> Path:
        folder = tmp_path / "root" / "tts" / "clips"
        (folder / "wavs").mkdir(parents=True, exist_ok=True)
        content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        (folder / "metadata.csv").write_bytes(content)
        for number, name in enumerate(names or [f"c{i}" for i in range(8)]):
            soundfile.write(folder / "wavs" / f"{name}.wav", tone(0.5, hertz=150 + 20 * number), 22_050)
        return tmp_path / "root"

    return write


GOOD = [f"c{i}|some words here|sˈʌm wˈɜːdz hˈɪɹ" for i in range(8)]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data root with ``tts/``; tests that need it are skipped without."""
    root = Path(os.environ.get("LAVO_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "tts").is_dir():
        pytest.skip(f"no real data in {root}: set LAVO_BENCH_DATA")
    return root
