"""What each process of test_sequence.py does: trains small language models on its part of every sequence, results to a file.

python sequence_ranks.py RANK WORLD_SIZE PORT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from process_group import set_rank

from benchmark.multihead import AttentionSites
from benchmark.running.trainer import Trainer
from benchmark.settings.models import TrainSettings
from tasks.language_modeling.task import LanguageModeling, LanguageModelingSettings

NO_POSITIONS = {"window": 8, "position_bias": False}
CASES = {
    "positions by the attention": {},
    "sinusoids": {"options": NO_POSITIONS, "model": {"positions": "sinusoidal"}},
    "rotary positions": {"options": NO_POSITIONS, "model": {"positions": "rotary"}},
    "learned positions": {"options": NO_POSITIONS, "model": {"positions": "learned"}},
    "accumulated and clipped": {"train": {"micro_batch_size": 1, "clip_norm": 0.05}},
    "blocks computed again": {"model": {"checkpointing": True}},
    "parts of unequal length": {"options": {"window": 20}},
    "a part without a token": {"options": {"window": 32}},  # of three: 32, 16 and 0
}
DROPOUT = {"model": {"dropout": 0.2}}
WHOLE_EXAMPLES = {"parallel": "data"}  # the sixth step has two, so that of three processes one has none


def write_books(root: Path) -> None:
    """Texts whose last blocks are shorter than the others."""
    generator = np.random.default_rng(0)
    for part, num_books in {"train": 5, "validation": 1, "test": 1}.items():
        (root / "lm" / part).mkdir(parents=True)
        for book in range(num_books):
            letters = generator.choice(list("abcdefgh  \n"), 110 + 17 * book)
            (root / "lm" / part / f"{book}.txt").write_text("".join(letters), encoding="utf-8")


def make_trainer(folder: Path, *, parallel="sequence", options=None, model=None, train=None) -> Trainer:
    settings = LanguageModelingSettings(
        data={"context_length": 48},
        model={"embed_dim": 16, "num_layers": 2, "num_heads": 2, **(model or {})},
        eval={"lengths": [1]},
    )
    task = LanguageModeling(settings, backbone="gpt")
    splits = task.load_data(folder / "data", folder / "cache")
    torch.manual_seed(0)
    net = task.build_model(AttentionSites("lavo", "causal_self", options or {"window": 8}))
    # A larger eps than Adam's own: what is but rounding of a gradient must not become a step.
    chosen = {"steps": 7, "batch_size": 3, "learning_rate": 1e-2, "eps": 1e-3, "eval_every": 3, **(train or {})}
    return Trainer(task, net, splits, TrainSettings(parallel=parallel, **chosen), seed=0, device="cpu")


def trained(folder: Path, **case) -> dict:
    """What a training leaves behind."""
    trainer = make_trainer(folder, **case)
    training = trainer.run()
    return {
        "weights": {name: tensor.clone() for name, tensor in trainer.bare.state_dict().items()},
        "loss": training.curve["loss"],
        "validation": training.validation["loss"],
        "tokens": training.tokens,
        "bytes": trainer.way.attention_bytes_sent_per_step() or 0,
        "draw": float(torch.rand(())),
    }


def main(rank: int, world_size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    set_rank(rank, world_size, port)
    cases = {**CASES, "dropout": DROPOUT, "whole examples": WHOLE_EXAMPLES}
    found = {name: trained(folder, **case) for name, case in cases.items()}
    torch.save(found, folder / f"{rank}_of_{world_size}.pt")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
