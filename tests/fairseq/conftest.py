"""A small corpus, binarised by fairseq, and the plug-in, loaded as ``--user-dir`` loads it."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Not "fairseq", because that would find this folder.
pytest.importorskip("fairseq.models", reason="fairseq is not installed: pip install lavo-bench[fairseq]")


@pytest.fixture(scope="session", autouse=True)
def _plug_in():
    from fairseq.utils import import_user_module

    import_user_module(Namespace(user_dir=str(ROOT / "lavo_fairseq")))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder with {train,valid,test}.{src,tgt}: words that count upwards, and the same lines backwards."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for part, size in (("train", 160), ("valid", 30), ("test", 20)):
        lines = []
        for _ in range(size):
            start, length = draw.randrange(30), draw.randint(3, 9)
            lines.append([f"w{(start + i) % 30}" for i in range(length)])
        (folder / f"{part}.src").write_text("".join(" ".join(line) + "\n" for line in lines))
        (folder / f"{part}.tgt").write_text("".join(" ".join(line[::-1]) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def lm_bin(corpus) -> Path:
    """The sources, binarised for language modelling."""
    from fairseq_commands import preprocess

    prefixes = [f"--{part}pref={corpus / part}.src" for part in ("train", "valid", "test")]
    return preprocess(corpus / "lm-bin", "--only-source", *prefixes)


@pytest.fixture(scope="session")
def pair_bin(corpus) -> Path:
    """Sources and targets, binarised with one dictionary."""
    from fairseq_commands import preprocess

    prefixes = [f"--{part}pref={corpus / part}" for part in ("train", "valid", "test")]
    languages = ["--source-lang=src", "--target-lang=tgt", "--joined-dictionary"]
    return preprocess(corpus / "pair-bin", *languages, *prefixes)
