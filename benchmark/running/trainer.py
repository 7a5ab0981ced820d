"""The training loop of all tasks, and the evaluation, which counts each example once."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import CountsTokens, LossSum, Metric, Splits, Task
from benchmark.results import MetricValue
from benchmark.running import checkpoint
from benchmark.running.claims import LostClaim
from benchmark.running.logs import Curve
from benchmark.running.parallel import ByExamples, BySequence, Share, make_accelerator
from benchmark.running.schedule import learning_rate
from benchmark.settings.models import TrainSettings

LOGGED_POINTS = 200  # of a training curve: enough for a figure, and files stay small


class Diverged(RuntimeError):
    """Raised when the loss is not finite any more."""


@dataclass
class Progress:
    """How far training has come; passed to ``report`` after each step."""

    step: int
    num_steps: int
    loss: float | None
    phase: str = "training"


Report = Callable[[Progress], None]


@dataclass
class Training:
    """Counters and curves of a training.

    best_value: the best selection metric so far, negated if higher is better, so that it is always the lowest value.
    """

    num_steps: int
    step: int = 0
    best_step: int = 0
    best_value: float = math.inf
    evaluations_since_best: int = 0
    tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=lambda: {"step": [], "loss": [], "learning_rate": []})
    validation: dict[str, list[float]] = field(default_factory=lambda: {"step": []})


class Trainer:
    """Trains one model on one task.

    folder   for checkpoints; training resumes from one that lies there
    limit    number of examples used in an evaluation; None: all
    report   called after every step
    curve    receives the figures of every step, and of every validation; None: nobody wants them
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        splits: Splits,
        train: TrainSettings,
        *,
        seed: int,
        folder: Path | None = None,
        device: str = "cpu",
        limit: int | None = None,
        report: Report = lambda _: None,
        curve: Curve | None = None,
    ) -> None:
        self.task, self.splits, self.train = task, splits, train
        self.seed, self.folder, self.limit, self.report = seed, folder, limit, report
        self.curve = curve
        self.accelerator = make_accelerator(train.precision, device)
        if not len(splits.train):
            raise ValueError(f"{task.name}: the training part has no example")
        model = model.to(self.accelerator.device)
        self.bare = model
        self.way = self._way(_Loss(task, model))  # how several processes share the training
        self.model, self.parameters = self.way.loss, self.way.parameters
        self.optimizer = make_optimizer(self.parameters, train)
        # Accelerate's optimizer looks for an optional package on disk at each step, which takes longer than a small
        # model's update.  It is needed only where it does something: to scale losses of half precision.
        if self.accelerator.scaler is not None:
            self.optimizer = self.accelerator.prepare(self.optimizer)
        self.steps_per_epoch = math.ceil(len(splits.train) / train.batch_size)
        self.num_steps = train.steps if train.steps is not None else (train.epochs or 0) * self.steps_per_epoch
        self.state = Training(self.num_steps)
        self.best: dict[str, Tensor] | None = None  # weights of the best evaluation so far
        self.num_random_states = 1  # of how many processes the random generators continue from a checkpoint
        self.lost: LostClaim | None = None  # raised by ``report`` while other processes wait for this one

    def _way(self, loss: nn.Module) -> ByExamples:
        if self.accelerator.num_processes > 1 and self.train.parallel == "sequence":
            return BySequence(loss, self.bare, self.accelerator, self.task)
        if self.accelerator.num_processes > 1 and self.train.parallel == "fsdp":
            from benchmark.running.sharded import Sharded  # here, because a process alone needs nothing of it

            return Sharded(loss, self.bare, self.accelerator)
        return ByExamples(loss, self.bare, self.accelerator)

    def run(self) -> Training:
        """Trains to the end and puts the best weights into the model.  Raises Diverged, which names the step."""
        # The seed decides dropout, whatever was drawn before, so that all attentions of a comparison get the same masks.
        torch.manual_seed(self.seed)
        self._resume()
        if self.way.rank >= self.num_random_states:
            # Each process gets its own seed for dropout; with the same seed all of them would drop the same positions.
            mixed = np.random.SeedSequence([self.seed, self.state.step, self.way.rank])
            torch.manual_seed(int(mixed.generate_state(1)[0]))
        batches = self.batches(self.state.step)
        evaluate_every = self.train.eval_every or self.steps_per_epoch
        while self.state.step < self.num_steps and not self._out_of_patience():
            started, tokens = time.perf_counter(), self.state.tokens
            loss = self.step(next(batches))
            self.state.step += 1
            seconds = time.perf_counter() - started
            self.state.seconds += seconds
            self.log(loss)
            if self.curve is not None:
                self._add_to(self.curve, loss, (self.state.tokens - tokens) / max(seconds, 1e-9))
            if self.state.step % evaluate_every == 0 or self.state.step == self.num_steps:
                self._validate()
            if self.state.step % self.train.checkpoint_every == 0 and self.state.step < self.num_steps:
                self._save()
        if self.state.best_step:
            assert self.best is not None, "the record would name a step whose weights are lost"
            self.way.load_weights(self.best)
        self.way.finish()
        return self.state

    def batches(self, first_step: int) -> Iterator[list[int]]:
        """Yields the indices of the examples of each step.

        The order of an epoch depends on seed and epoch only.  The last batch of an epoch may be shorter.
        """
        size, step = self.train.batch_size, first_step
        while True:
            epoch, position = divmod(step, self.steps_per_epoch)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.splits.train), generator=generator)
            for chunk in order[position * size :].split(size):
                yield chunk.tolist()
                step += 1

    def step(self, indices: Sequence[int]) -> float:
        """Updates the weights once, and returns the loss.

        The gradient is that of the mean loss over all terms of the step, however the step is cut into micro-batches.
        """
        rate = learning_rate(
            self.train, self.state.step, num_steps=self.num_steps, steps_per_epoch=self.steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        shares = self.way.shares(indices, self.train.micro_batch_size)
        if not self.model.training:
            self.model.train()
        alone = len(shares) == 1 and self.way.world == 1
        total = self._backward_whole(indices) if alone else self._backward(shares)
        if self.train.clip_norm is not None:
            self.accelerator.unscale_gradients(self.optimizer)
            self.way.clip(self.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.examples += len(indices)
        return total

    def _backward_whole(self, indices: Sequence[int]) -> float:
        """Computes the gradients of a step that is a single batch in a single process.  Returns the loss."""
        loss = self._loss(self._batch(indices))
        mean = loss.total / loss.num_terms
        self.accelerator.backward(mean)
        return self._finite(float(mean.detach()))

    def _backward(self, shares: Sequence[Share]) -> float:
        """Computes the gradients of a step of several micro-batches or processes.  Returns the loss.

        The losses of the micro-batches are summed, and divided once by the number of terms in all of them.  Raises LostClaim in all
        processes if one of them has lost the claim on the cell.
        """
        totals = torch.zeros(4, dtype=torch.float64, device=self.accelerator.device)
        tokens = self.state.tokens
        scale = 1.0 / self.train.batch_size  # keeps half precision in range; undone below
        for number, share in enumerate(shares):
            before = self.state.tokens
            batch = self._batch(share.indices)
            totals[2] += share.weight * (self.state.tokens - before)
            with self.way.micro_batch(batch, share, is_last=number == len(shares) - 1) as own:
                loss = self._loss(own)
                self.accelerator.backward(loss.total * (scale * share.weight))
            totals[0] += share.weight * loss.total.detach()
            totals[1] += share.weight * loss.num_terms
        totals[3] = self.lost is not None
        total, count, seen, lost = self.accelerator.reduce(totals, reduction="sum").tolist()
        if lost:
            raise self.lost or LostClaim(self.task.name)
        if not self.way.counts_whole_batch:
            self.state.tokens = tokens + int(seen)
        factor = self.way.add_up_gradients() / (scale * count)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, factor)
        return self._finite(total / count)

    def _batch(self, indices: Sequence[int]) -> Any:
        batch = to_device(self.task.collate([self.splits.train[index] for index in indices]), self.accelerator.device)
        if isinstance(self.task, CountsTokens):
            self.state.tokens += self.task.tokens(batch)
        return batch

    def _loss(self, batch: Any) -> LossSum:
        with self.accelerator.autocast():
            return self.model(batch)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {self.state.step + 1} of {self.num_steps}: training diverged")
        return loss

    def log(self, loss: float) -> None:
        """Adds the loss of the last step to the training curve, and reports it."""
        every = max(1, self.num_steps // LOGGED_POINTS)
        if self.state.step % every == 0 or self.state.step in (1, self.num_steps):
            step = self.state.step - 1
            rate = learning_rate(self.train, step, num_steps=self.num_steps, steps_per_epoch=self.steps_per_epoch)
            for name, value in (("step", self.state.step), ("loss", loss), ("learning_rate", rate)):
                self.state.curve[name].append(value)
        self._report(loss, "training")

    def _report(self, loss: float | None, phase: str) -> None:
        try:
            self.report(Progress(self.state.step, self.num_steps, loss, phase))
        except LostClaim as lost:
            if self.way.world == 1:
                raise
            # Raised in the next step, in all processes, because they wait for each other.  After the last step nothing raises it:
            # all of them end the cell, and ``publish`` finds that the claim is lost.
            self.lost = lost

    def _add_to(self, curve: Curve, loss: float, tokens_per_second: float) -> None:
        """Adds the figures of the last step to the curve."""
        step = self.state.step
        rate = learning_rate(self.train, step - 1, num_steps=self.num_steps, steps_per_epoch=self.steps_per_epoch)
        figures = {"train/loss": loss, "train/learning_rate": rate}
        counted = {"train/tokens_per_second": tokens_per_second} if self.state.tokens else {}
        curve.add(step, figures | counted)

    def _validate(self) -> None:
        """Evaluates on validation data, and keeps the weights if they are the best so far."""
        if not len(self.splits.validation):
            return
        metric = self.task.metrics[self.task.selection]
        columns = self.evaluate(self.splits.validation)
        value = metric.value(columns)
        self.state.validation["step"].append(self.state.step)
        self.state.validation.setdefault(self.task.selection, []).append(value)
        if self.curve is not None:
            self.curve.add(self.state.step, {f"validation/{self.task.selection}": value})
        cost = -value if metric.higher_is_better else value
        if not math.isfinite(cost):
            raise Diverged(f"validation {self.task.selection} is {value} at step {self.state.step}: training diverged")
        if cost < self.state.best_value:
            self.state.best_value, self.state.best_step = cost, self.state.step
            self.state.evaluations_since_best = 0
            self.best = self.way.weights()
        else:
            self.state.evaluations_since_best += 1

    def evaluate(self, part: Sequence[Any]) -> dict[str, np.ndarray]:
        """Returns the task's values for each example of a part of the data."""
        with self.way.whole():
            return evaluate(
                self.task,
                self.bare,
                part,
                batch_size=self.train.eval_batch_size,
                limit=self.limit,
                accelerator=self.accelerator,
                on_batch=lambda: self._report(None, "evaluating"),
            )

    def _out_of_patience(self) -> bool:
        return self.train.patience is not None and self.state.evaluations_since_best >= self.train.patience

    def _save(self) -> None:
        """Writes the checkpoints.  The first process writes them, but all take part, because each may hold a share of the tensors."""
        if self.folder is None:
            return
        first, *others = self.way.from_all(checkpoint.random_states())
        content = {
            "model": self.way.weights(),
            "optimizer": self.way.optimizer_state(self.optimizer),
            "random": first,
            "random_of_others": others,
            "state": vars(self.state).copy(),
        }
        if not self.accelerator.is_main_process:
            return
        if self.curve is not None:
            self.curve.flush()
        # The best weights are written first: if the process is killed between the two files, they are there for the old state.
        if self.best is not None:
            checkpoint.save(self.folder / checkpoint.BEST, {"model": self.best, "step": self.state.best_step})
        checkpoint.save(self.folder / checkpoint.LAST, content)

    def _load(self, name: str) -> dict[str, Any] | None:
        """Returns the content of a checkpoint.  Only the first process reads it: others might see an older file."""
        if self.folder is None:
            return None
        return self.way.from_first(None if self.way.rank else checkpoint.load(self.folder / name))

    def _resume(self) -> None:
        """Continues from the checkpoints in the folder.  If they are damaged or do not fit, training starts anew."""
        saved, best = self._load(checkpoint.LAST), self._load(checkpoint.BEST)
        if saved is None or not checkpoint.fits(saved.get("model"), self.bare):
            return
        optimizer = copy.deepcopy(self.way.optimizer_state(self.optimizer))
        beginning = (self.way.weights(), optimizer, [checkpoint.random_states()] * self.way.world)
        try:
            state = Training(**saved["state"])
            if state.best_step and (best is None or not checkpoint.fits(best.get("model"), self.bare)):
                return
            random = [saved["random"], *saved.get("random_of_others", [])]
            self._restore(saved["model"], saved["optimizer"], random)
            self.state, self.num_random_states = state, len(random)
            self.best = best["model"] if state.best_step and best is not None else None
        # Checkpoints of an older version of this code may raise any of these.
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
            self._restore(*beginning)

    def _restore(self, model: Any, optimizer: Any, random: Sequence[Any]) -> None:
        self.way.load_weights(model)
        self.way.load_optimizer_state(self.optimizer, optimizer)
        if self.way.rank < len(random):
            checkpoint.restore_random_states(random[self.way.rank])


class _Loss(nn.Module):
    """The task's loss as the ``forward`` of a module.

    DistributedDataParallel works through ``forward``, but a task may call any method of its model.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any) -> LossSum:
        """Returns the loss of one batch."""
        return self.task.loss(self.model, batch)


def evaluate(
    task: Task,
    model: nn.Module,
    part: Sequence[Any],
    *,
    batch_size: int,
    limit: int | None = None,
    accelerator: Accelerator | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Returns one value for each example: column name -> array (examples,).

    No example is dropped, and the batch size doesn't change any value.  on_batch: called after each batch.
    Raises ValueError for a part without examples.
    """
    count = len(part) if limit is None else min(limit, len(part))
    if not count:
        raise ValueError(f"{task.name}: a part without examples can't be scored")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    collected: list[Mapping[str, Tensor]] = []
    with evaluating(model), accelerator.autocast() if accelerator is not None else nullcontext():
        for first in range(0, count, batch_size):
            examples = [part[index] for index in range(first, min(first + batch_size, count))]
            values = task.score(model, to_device(task.collate(examples), device))
            on_batch()
            collected.append({name: value.detach().cpu() for name, value in values.items()})
    columns = {name: torch.cat([values[name] for values in collected]).numpy() for name in collected[0]}
    for name, column in columns.items():
        assert len(column) == count, f"{task.name}: score gave {len(column)} values of {name} for {count} examples"
    return columns


def measured_metrics(metrics: Mapping[str, Metric], columns: Mapping[str, np.ndarray]) -> dict[str, MetricValue]:
    """Computes a record's metrics from columns with one value for each test example."""
    return {
        name: MetricValue(
            value=metric.value(columns),
            n=metric.n(columns),
            higher_is_better=metric.higher_is_better,
            unit=metric.unit,
        )
        for name, metric in metrics.items()
    }


def make_optimizer(parameters: Iterable[nn.Parameter], train: TrainSettings) -> torch.optim.Optimizer:
    """Returns Adam, or AdamW without weight decay on biases, norms and other vectors.

    ``foreach``: all tensors in one call, with the same bits; without it a small model's update is a loop in Python.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if train.optimizer == "adam":
        return torch.optim.Adam(
            parameters,
            weight_decay=train.weight_decay,
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.eps,
            foreach=True,
        )
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas, eps=train.eps, foreach=True)


def to_device(batch: Any, device: torch.device) -> Any:
    """Moves a batch to this device: its tensors may be nested in NamedTuples, tuples, lists and mappings."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(part, device) for part in batch)
    if isinstance(batch, Mapping):
        return {key: to_device(part, device) for key, part in batch.items()}
    return batch
