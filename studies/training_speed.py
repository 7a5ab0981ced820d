"""Measures the training speed of gpt, and the overhead of the trainer: ``python -m studies.training_speed``.

It prints a line for each length.  In every round each attention takes one training step, and the medians over rounds are
compared.  A bare loop (collate, loss, backward, clip, AdamW) with the first attention takes part too.  The difference to the
trainer's step with the same attention is what the trainer costs.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmark.interface import Pattern
from benchmark.measuring.memory import keep_freed_memory
from benchmark.measuring.timing import call_seconds, interleaved
from benchmark.multihead import AttentionSites
from benchmark.registry import load_task
from benchmark.running.trainer import Trainer, make_optimizer
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve

TASK, BACKBONE = "language_modeling", "gpt"
PATTERN: Pattern = "causal_self"


def make_trainer(attention: str, length: int, tokens: int, cache: Path) -> Trainer:
    """Returns a trainer of the quick preset's model at this context length, on the text that comes with the project.

    tokens: the number of tokens of one step; it determines the number of sequences in a batch.
    """
    values = {
        "data.context_length": length,
        "data.excerpt_bytes": 2 * length,
        "eval.lengths": [1],
        "train.batch_size": max(1, tokens // length),
    }
    overrides = [Override(key, value, key) for key, value in values.items()]
    resolved = resolve(TASK, BACKBONE, "quick", AttentionSpec(name=attention), overrides)
    task = load_task(TASK)(resolved.settings, backbone=BACKBONE)
    splits = task.load_data(None, cache)
    torch.manual_seed(0)
    model = task.build_model(AttentionSites(attention, PATTERN, resolved.options))
    return Trainer(task, model, splits, resolved.train, seed=0)


def trained_step(trainer: Trainer) -> Callable[[], None]:
    """Returns a function that takes the next training step as in a benchmark run."""
    batches = trainer.batches(0)

    def step() -> None:
        trainer.log(trainer.step(next(batches)))

    return step


def bare_step(trainer: Trainer) -> Callable[[], None]:
    """Returns a function that takes the same training step without the trainer."""
    task, model, examples = trainer.task, trainer.bare, trainer.splits.train
    optimizer = make_optimizer(model.parameters(), trainer.train)
    batches = trainer.batches(0)

    def step() -> None:
        model.train()
        loss = task.loss(model, task.collate([examples[index] for index in next(batches)]))
        (loss.total / loss.num_terms).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.train.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def medians(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each step.  The steps take turns in every round; two first rounds are not counted."""
    samples = interleaved({name: partial(call_seconds, step) for name, step in steps.items()}, range(rounds + 2))
    return {name: statistics.median(values[2:]) for name, values in samples.items()}


def main(
    attentions: Annotated[
        str, typer.Option(help="Names, separated by commas; speeds are also given as a multiple of the first one's.")
    ] = "flash,lavo",
    lengths: Annotated[str, typer.Option(help="Context lengths, separated by commas.")] = "512,1024,2048,4096",
    tokens: Annotated[int, typer.Option(help="Number of tokens of a step.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Number of rounds at each length.")] = 9,
) -> None:
    """Prints one line for each length."""
    keep_freed_memory()
    names = attentions.split(",")
    print(f"gpt, quick preset, embedded text, float32, {torch.get_num_threads()} threads, {tokens} tokens a step")
    with tempfile.TemporaryDirectory() as cache:
        for length in map(int, lengths.split(",")):
            trainers = {name: make_trainer(name, length, max(tokens, length), Path(cache)) for name in names}
            steps = {name: trained_step(trainer) for name, trainer in trainers.items()}
            steps["bare"] = bare_step(make_trainer(names[0], length, max(tokens, length), Path(cache)))
            seconds = medians(steps, rounds)
            first = seconds[names[0]]
            speeds = ", ".join(
                f"{name} {max(tokens, length) / seconds[name]:,.0f} tokens/s ({first / seconds[name]:.2f})"
                for name in names
            )
            print(
                f"length {length}: {speeds}; trainer against bare loop {100 * (first / seconds['bare'] - 1):+.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
