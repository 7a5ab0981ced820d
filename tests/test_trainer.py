"""The training loop against closed forms, and the exact resume."""

from __future__ import annotations

import math
import multiprocessing

import numpy as np
import pytest
import torch
from process_group import free_port, set_rank
from toy_task import Toy, ToyData, ToyModel, ToySettings

from benchmark.multihead import AttentionSites
from benchmark.running import checkpoint
from benchmark.running.schedule import learning_rate
from benchmark.running.trainer import Diverged, Progress, Trainer, evaluate, measured_metrics
from benchmark.settings.models import TrainSettings

TRAIN = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "clip_norm": 1.0, "eval_every": 4, "eval_batch_size": 4}


def make_trainer(tmp_path=None, *, dropout=0.1, seed=0, num_examples=50, report=lambda _: None, limit=None, **train):
    task = Toy(ToySettings(data=ToyData(num_examples=num_examples), model=ToyModel(dropout=dropout)), backbone="net")
    splits = task.load_data(None, tmp_path)
    torch.manual_seed(seed)
    model = task.build_model(AttentionSites("softmax", "causal_self", {}))
    settings = TrainSettings(**{**TRAIN, **train})
    return Trainer(task, model, splits, settings, seed=seed, folder=tmp_path, report=report, limit=limit)


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.bare.state_dict().items()}


def assert_same_weights(a, b, tolerance=0.0):
    for name, tensor in a.items():
        if tolerance and name.endswith("k_proj.bias"):
            continue  # exact attention doesn't depend on it: its gradient is rounding, which Adam blows up to full steps
        assert torch.allclose(tensor, b[name], rtol=tolerance, atol=tolerance), name


def test_training_lowers_the_loss_and_keeps_the_best_weights():
    trainer = make_trainer(dropout=0.0, steps=150, eval_every=10)
    before = trainer.task.metrics["mse"].value(trainer.evaluate(trainer.splits.validation))
    training = trainer.run()
    after = trainer.task.metrics["mse"].value(trainer.evaluate(trainer.splits.validation))
    assert after < 0.5 * before
    assert after == pytest.approx(min(training.validation["mse"]), abs=1e-7)
    assert training.best_step == training.validation["step"][int(np.argmin(training.validation["mse"]))]


def test_accumulation_changes_nothing():
    """Examples weigh 1 to 4 terms: a mean of means over micro-batches would differ."""
    whole, cut = make_trainer(dropout=0.0), make_trainer(dropout=0.0, micro_batch_size=2)
    whole.run()
    cut.run()
    assert_same_weights(weights(whole), weights(cut), 1e-5)


def test_the_loss_of_a_step_counts_terms_not_batches(monkeypatch):
    """Losses 4 (1 term) and 1 (3 terms) are 1.75, not 2.5."""
    from benchmark.interface import LossSum

    for micro in (None, 1):
        trainer = make_trainer(dropout=0.0, batch_size=2, micro_batch_size=micro, num_examples=2)

        def loss(model, batch):
            terms = batch.weight
            zero = model(batch.x).sum() * 0
            return LossSum((torch.where(terms == 1, 4.0, 1.0) * terms).sum() + zero, terms.sum())

        monkeypatch.setattr(trainer.task, "loss", loss)
        lines = trainer.splits.train
        part = [lines[0]._replace(weight=torch.tensor(1.0)), lines[1]._replace(weight=torch.tensor(3.0))]
        trainer.splits = trainer.splits._replace(train=part)
        assert trainer.step([0, 1]) == pytest.approx(1.75)


def test_each_epoch_takes_every_example_once_and_in_another_order():
    trainer = make_trainer(num_examples=19, batch_size=8)
    batches = trainer.batches(0)
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [8, 8, 3]
        assert sorted(index for batch in epoch for index in batch) == list(range(19))
    assert epochs[0] != epochs[1]
    resumed = trainer.batches(4)
    assert next(resumed) == epochs[1][1]


class Killed(Exception):
    """Stands for a kill: leaves whatever was written."""


@pytest.mark.parametrize("when", [1, 4, 5, 9, 11, 12])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path, when):
    undisturbed = make_trainer(tmp_path / "a", checkpoint_every=3)
    expected = undisturbed.run()

    def kill(progress: Progress) -> None:
        if progress.step == when:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(tmp_path / "b", checkpoint_every=3, report=kill).run()
    torch.manual_seed(123)  # what the new process starts with doesn't matter
    resumed = make_trainer(tmp_path / "b", checkpoint_every=3)
    steps = []
    resumed.report = lambda progress: steps.append(progress.step)
    training = resumed.run()
    assert steps[0] == 1 + (when - 1) // 3 * 3  # the step of the kill itself was not saved yet
    assert_same_weights(weights(undisturbed), weights(resumed))
    assert training.curve == expected.curve
    assert training.validation == expected.validation
    assert (training.examples, training.best_step) == (expected.examples, expected.best_step)


def test_a_resumed_training_keeps_its_best_weights_though_their_file_is_lost(tmp_path):
    """As when the folder of checkpoints is removed while training goes on from it, and no later weights are better."""
    worse = {"checkpoint_every": 3, "learning_rate": 3.0, "warmup_steps": 12, "schedule": "constant"}
    undisturbed = make_trainer(tmp_path / "a", **worse)
    assert undisturbed.run().best_step == 4

    def kill(progress: Progress) -> None:
        if progress.step == 8:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(tmp_path / "b", report=kill, **worse).run()
    resumed = make_trainer(
        tmp_path / "b", report=lambda _: (tmp_path / "b" / checkpoint.BEST).unlink(missing_ok=True), **worse
    )
    assert resumed.run().best_step == 4
    assert_same_weights(weights(undisturbed), weights(resumed))


def test_one_seed_gives_one_training():
    a, b, other = make_trainer(), make_trainer(), make_trainer(seed=1)
    for trainer in (a, b, other):
        trainer.run()
    assert_same_weights(weights(a), weights(b))
    assert not torch.equal(a.bare.out.weight, other.bare.out.weight)


def test_a_diverged_loss_names_its_step():
    trainer = make_trainer(learning_rate=1e30, clip_norm=None, schedule="constant")
    with pytest.raises(Diverged, match=r"step \d+ of 12"):
        trainer.run()


def test_patience_ends_training():
    training = make_trainer(learning_rate=1e-12, steps=1000, eval_every=1, patience=3).run()
    assert training.step < 100


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_metrics_do_not_depend_on_the_evaluation_batch(batch_size):
    trainer = make_trainer()
    expected = measured_metrics(trainer.task.metrics, trainer.evaluate(trainer.splits.test))
    columns = evaluate(trainer.task, trainer.bare, trainer.splits.test, batch_size=batch_size)
    found = measured_metrics(trainer.task.metrics, columns)
    assert found["mse"].value == pytest.approx(expected["mse"].value, abs=1e-6)
    assert found["mse"].n == 10


def test_limit_scores_the_first_examples():
    trainer = make_trainer(limit=3)
    assert len(trainer.evaluate(trainer.splits.test)["mse"]) == 3


def test_a_training_part_smaller_than_a_batch_trains():
    assert make_trainer(num_examples=3, batch_size=8).run().examples == 36


def test_an_empty_training_part_is_refused():
    with pytest.raises(ValueError, match="training part has no example"):
        make_trainer(num_examples=0)


def test_evaluation_leaves_training_mode_and_gradients_alone():
    trainer = make_trainer()
    trainer.bare.train()
    trainer.evaluate(trainer.splits.test)
    assert trainer.bare.training
    assert all(parameter.grad is None for parameter in trainer.bare.parameters())


def test_bfloat16_trains_and_scores_in_full_precision():
    trainer = make_trainer(precision="bfloat16", dropout=0.0, steps=60)
    training = trainer.run()
    assert training.curve["loss"][-1] < training.curve["loss"][0]
    assert trainer.evaluate(trainer.splits.test)["mse"].dtype == np.float32


SCHEDULE = {"batch_size": 1, "learning_rate": 2.0, "warmup_steps": 4}


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({"schedule": "constant"}, 0, 0.5),
        ({"schedule": "constant"}, 3, 2.0),
        ({"schedule": "constant"}, 50, 2.0),
        ({"schedule": "linear", "final_ratio": 0.1}, 4, 2.0),
        ({"schedule": "linear", "final_ratio": 0.1}, 99, 0.2),
        ({"schedule": "cosine"}, 99, 0.0),
        ({"schedule": "cosine", "final_ratio": 0.5}, 4 + 95 // 2, 1.5 + 0.5 * math.cos(math.pi * 47 / 95)),
        ({"schedule": "inverse_sqrt"}, 15, 1.0),
        ({"schedule": "exponential", "decay": 0.5, "decay_epochs": 1}, 9, 2.0),
        ({"schedule": "exponential", "decay": 0.5, "decay_epochs": 1}, 10, 1.0),
        ({"schedule": "exponential", "decay": 0.5, "decay_epochs": 1}, 39, 0.25),
        ({"schedule": "exponential", "decay": 0.5, "decay_epochs": 1, "final_ratio": 0.2}, 99, 0.4),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(settings, step, expected):
    train = TrainSettings(steps=100, **SCHEDULE, **settings)
    assert learning_rate(train, step, num_steps=100, steps_per_epoch=10) == pytest.approx(expected, abs=1e-12)


def train_in_process(rank: int, world: int, port: int, queue) -> None:
    """One of several processes of a data-parallel training."""
    set_rank(rank, world, port)
    torch.set_num_threads(1)
    trainer = make_trainer(dropout=0.0, steps=6, schedule="cosine", warmup_steps=2)
    training = trainer.run()
    if rank == 0:
        result = {name: tensor.tolist() for name, tensor in weights(trainer).items()}
        queue.put((result, training.curve["learning_rate"], training.curve["loss"]))


@pytest.mark.slow
def test_two_processes_train_as_one():
    alone = make_trainer(dropout=0.0, steps=6, schedule="cosine", warmup_steps=2)
    training = alone.run()
    port = free_port()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=train_in_process, args=(rank, 2, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    result, rates, losses = queue.get(timeout=120)
    for process in processes:
        process.join(timeout=60)
    assert rates == training.curve["learning_rate"]
    assert losses == pytest.approx(training.curve["loss"], abs=1e-5)
    assert_same_weights(weights(alone), {name: torch.tensor(value) for name, value in result.items()}, 1e-5)
