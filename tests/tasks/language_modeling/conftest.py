"""Small books, small tasks, and where the real data is."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.language_modeling.task import LanguageModeling, LanguageModelingSettings

WORDS = [
    *("the", "a", "naïve", "whale", "—", "sea", "ship", "said", "and", "of", "“quoted”", "old", "man", "🐋", "was"),
    *("Ahab\t", "", "deep", "white\r\n", "there\n"),
]


def prose(num_words: int, seed: int) -> str:
    """Text with several bytes a character, double spaces, tabs and CRLF."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much where other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_root(tmp_path):
    """Nine small books, 4 + 2 + 3, of some two kilobytes each."""
    root = tmp_path / "data"
    for number, (part, count) in enumerate({"train": 4, "validation": 2, "test": 3}.items()):
        (root / "lm" / part).mkdir(parents=True)
        for book in range(count):
            text = prose(300 + 40 * book, seed=10 * number + book)
            (root / "lm" / part / f"{book}-book.txt").write_bytes(text.encode())
    return root


@pytest.fixture
def make_task(tmp_path):
    """make_task(data_root, data={…}, model={…}, eval={…}): a tiny task with its data loaded."""

    def make(root, *, data=None, model=None, eval=None):  # the contract's word
        settings = LanguageModelingSettings(
            data={"context_length": 32, **(data or {})},
            model={"embed_dim": 16, "num_layers": 2, "num_heads": 2, **(model or {})},
            eval={"lengths": [1, 2, 4], **(eval or {})},
        )
        task = LanguageModeling(settings, backbone="gpt")
        task.load_data(root, tmp_path / "cache")
        return task

    return make


@pytest.fixture
def sites():
    """sites("lavo", window=8): the factory that a backbone asks for its layers, from a fixed seed."""

    def make(name="softmax", **options):
        torch.manual_seed(0)
        return AttentionSites(name, "causal_self", options)

    return make


@pytest.fixture
def real_data():
    """The data root of LAVO_BENCH_DATA, else ../shared/data."""
    default = Path(__file__).parents[3].parent / "shared" / "data"
    root = Path(os.environ.get("LAVO_BENCH_DATA", default))
    if not (root / "lm").is_dir():
        pytest.skip("no real data: set LAVO_BENCH_DATA")
    return root
