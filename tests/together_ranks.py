"""What each process of test_shared_training.py does: trains small models of all tasks together with the others, results to a file.

python together_ranks.py RANK WORLD_SIZE PORT FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from process_group import set_rank
from torch import nn

from benchmark.multihead import AttentionSites
from benchmark.registry import load_task
from benchmark.running.trainer import Trainer
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve
from tasks.text_to_speech import transformer_tts


class Case(NamedTuple):
    """One training: a model of the smoke preset, and settings of training other than the preset's."""

    task: str
    backbone: str
    pattern: str
    train: dict[str, Any] = {}
    attention: str = "lavo"


STEPS = 4
# A larger eps than Adam's own: what is but rounding of a gradient must not become a step.
TRAIN = {
    "steps": STEPS,
    "eps": 1e-3,
    "eval_every": 2,
    "batch_size": 4,
    "patience": None,
    "clip_norm": 0.5,
    "warmup_steps": 0,
}
CASES = {
    "gpt": Case("language_modeling", "gpt", "causal_self"),
    "fastspeech2": Case("text_to_speech", "fastspeech2", "noncausal_self"),
    "transformer_tts": Case("text_to_speech", "transformer_tts", "causal_self"),
    "transformer": Case("summarization", "transformer", "causal_cross"),
    "pointr": Case("point_cloud_completion", "pointr", "noncausal_self"),
    "informer": Case("forecasting", "informer", "noncausal_self"),
    "probe": Case("recall", "probe", "causal_self"),
    "performer": Case("language_modeling", "gpt", "causal_self", attention="performer"),  # has buffers
    "accumulated, one process without an example": Case(
        "language_modeling", "gpt", "causal_self", {"batch_size": 5, "micro_batch_size": 1}
    ),
    # Three micro-batches, of which batch norms take the statistics; in the last one a process has no example.
    "accumulated, with batch norms": Case(
        "text_to_speech", "transformer_tts", "causal_self", {"batch_size": 5, "micro_batch_size": 2}
    ),
    "adam": Case("language_modeling", "gpt", "causal_self", {"optimizer": "adam", "clip_norm": None}),
}
WITH_THREE = ("gpt", "informer", "accumulated, one process without an example")  # cases that three processes train
WAYS = ("data", "fsdp")
HALF = STEPS // 2


class Stopped(Exception):
    """Ends a training as a kill would."""


def make_trainer(
    folder: Path, case: Case, way: str, checkpoints: Path | None = None, dropout: float = 0.0, **more
) -> Trainer:
    """A trainer of the case, without dropout unless it is given, because each process draws its own.  That of a prenet is left to the caller."""
    values = {**TRAIN, "checkpoint_every": HALF, "parallel": way, **case.train, **more}
    overrides = [Override(f"train.{key}", value, key) for key, value in values.items()]
    resolved = resolve(case.task, case.backbone, "smoke", AttentionSpec(name=case.attention), overrides, case.pattern)
    task = load_task(case.task)(resolved.settings, backbone=case.backbone)
    splits = task.load_data(None, folder / "cache")
    torch.manual_seed(0)
    model = task.build_model(AttentionSites(case.attention, case.pattern, resolved.options))
    for module in model.modules():
        for name in ("dropout", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return Trainer(task, model, splits, resolved.train, seed=0, folder=checkpoints, limit=4)


def trained(trainer: Trainer) -> dict[str, Any]:
    """What a training leaves behind, and its errors on the validation examples."""
    training = trainer.run()
    columns = trainer.evaluate(trainer.splits.validation)
    return {
        "loss": training.curve["loss"],
        "validation": training.validation,
        "columns": {name: torch.from_numpy(column) for name, column in columns.items()},
        "weights": {name: tensor.clone() for name, tensor in trainer.way.weights().items()},
        "tokens": training.tokens,
    }


def stop_after_checkpoint(trainer: Trainer) -> None:
    """Trains until the checkpoint is written, and one step more, which is lost."""

    def stop(progress) -> None:
        if progress.step > HALF and progress.phase == "training":
            raise Stopped

    trainer.report = stop
    try:
        trainer.run()
    except Stopped:
        return
    raise AssertionError("was not stopped")


def main(rank: int, world_size: int, port: int, folder: Path) -> None:
    """All trainings in which this process takes part."""
    torch.set_num_threads(1)
    transformer_tts.PRENET_DROPOUT = 0.0  # it is no setting
    set_rank(rank, world_size, port)
    found: dict[str, Any] = {}
    for way in WAYS:
        for name, case in CASES.items() if world_size == 2 else [(name, CASES[name]) for name in WITH_THREE]:
            found[f"{name}, {way}"] = trained(make_trainer(folder, case, way))
        # Continues what others have saved, and saves for others.
        for saved in sorted(folder.glob(f"for {world_size} *")):
            own = folder / "continued" / f"{saved.name}, {way}"
            if rank == 0:
                shutil.copytree(saved, own)
            found[own.name] = trained(make_trainer(folder, CASES["gpt"], way, own))
        stop_after_checkpoint(make_trainer(folder, CASES["gpt"], way, folder / f"saved by {world_size} with {way}"))
        # With dropout: an interrupted training must end at the bits of one that was not.
        place = folder / f"dropout {world_size} {way}"
        dropped = {"dropout": 0.3}
        found[f"undisturbed, {way}"] = trained(make_trainer(folder, CASES["gpt"], way, **dropped))
        stop_after_checkpoint(make_trainer(folder, CASES["gpt"], way, place, **dropped))
        found[f"resumed, {way}"] = trained(make_trainer(folder, CASES["gpt"], way, place, **dropped))
    torch.save(found, folder / f"{rank}_of_{world_size}.pt")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
