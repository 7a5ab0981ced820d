"""Shared by the tests of recall: small settings, and a short training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.multihead import AttentionSites
from benchmark.running.trainer import Trainer, measured_metrics
from benchmark.settings.models import TrainSettings
from tasks.recall.settings import RecallSettings
from tasks.recall.task import Recall


def settings(families, *, data=None, model=None, solvable=()) -> RecallSettings:
    """Settings of a small model with these families."""
    sizes = {"num_train": 256, "num_validation": 8, "num_test": 16, "num_curve": 5, "vocab_size": 40} | (data or {})
    return RecallSettings.model_validate(
        {
            "data": {"families": families, **sizes},
            "model": {"embed_dim": 16, "num_heads": 2, "feed_forward_dim": 32} | (model or {}),
            "eval": {"solvable": solvable},
        }
    )


def loaded(families, pattern="causal_self", **changes: Any) -> Recall:
    """A task with its data."""
    task = Recall(settings(families, **changes), pattern=pattern)
    task.load_data(None, None)
    return task


def built(task, attention="softmax", seed=0, **options):
    """The task's model with this attention."""
    torch.manual_seed(seed)
    return task.build_model(AttentionSites(attention, task.pattern, options))


def trained(task, attention="softmax", *, steps, batch_size=16, learning_rate=1e-2, seed=0, **options):
    """A trained model, and its figures on the test part."""
    train = TrainSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_steps=20,
        final_ratio=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        eval_batch_size=512,
    )
    trainer = Trainer(task, built(task, attention, seed, **options), task.splits, train, seed=seed)
    trainer.run()
    figures = measured_metrics(task.metrics, trainer.evaluate(task.splits.test))
    return trainer.bare, {name: figure.value for name, figure in figures.items()}


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Short trainings are fastest on one thread, and the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
