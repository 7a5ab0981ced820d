"""How several processes share a training: each class is one value of ``train.parallel``.

``ByExamples`` is also the way of a process that trains alone.  Whatever the way, the gradient of a step is that of the mean loss over
all terms of the batch, so the number of processes changes a result only by rounding, and by which positions dropout drops.  Checkpoints hold
whole tensors, so any number of processes may continue, in any way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from benchmark.interface import Task
from benchmark.running import checkpoint, norms
from benchmark.running.sequence import SequenceParallel


class Share(NamedTuple):
    """A micro-batch of one process.

    weight: 1, or 0 if the process has no example left.  It then computes another process's example, because the others wait for it.
    """

    indices: list[int]
    weight: int


class ByExamples:
    """``data``: each process computes some examples of every batch, and holds all weights.

    loss: the module whose ``forward`` is the loss of a batch.  model: the model inside it.
    """

    counts_whole_batch = False  # whether every process counts the tokens of all examples

    def __init__(self, loss: nn.Module, model: nn.Module, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.norms = norms.shared_norms(model) if self.world > 1 else []
        self.parameters = list(model.parameters())
        self.loss = self._prepared(loss)

    def _prepared(self, loss: nn.Module) -> nn.Module:
        return self.accelerator.prepare(loss)

    def shares(self, indices: Sequence[int], size: int | None) -> list[Share]:
        """Returns this process's micro-batches of a batch.  All processes have the same number of them.

        size: the most examples in one; None for all of the process's examples.  In a model with batch norms it is the most examples of
        all processes together.
        """
        size = size or len(indices)
        # Batch norms take the statistics of a micro-batch, which must therefore be the same examples for any number of processes.
        # Without them each process computes micro-batches of its own, so that more processes need fewer.
        shared = size if self.norms else size * self.world
        groups = [indices[first : first + shared] for first in range(0, len(indices), shared)]
        chunks = [list(group[self.rank :: self.world]) for group in groups]
        return [Share(chunk, 1) if chunk else Share([indices[0]], 0) for chunk in chunks]

    @contextmanager
    def micro_batch(self, batch: Any, share: Share, *, is_last: bool) -> Iterator[Any]:
        """Gives what this process computes of a micro-batch.  The backward pass must run inside the block."""
        for norm in self.norms:
            norm.weight_of_batch = share.weight
        with nullcontext() if is_last else self._without_messages():
            yield batch

    def _without_messages(self) -> AbstractContextManager[Any]:
        """Returns a context in which gradients stay in their process."""
        return self.accelerator.no_sync(self.loss)

    def add_up_gradients(self) -> float:
        """Completes the gradients of a step.  Returns the factor that makes them the sum over all processes."""
        return self.world  # DistributedDataParallel has averaged them

    def clip(self, max_norm: float) -> None:
        """Scales the gradients such that the norm of all of them is at most ``max_norm``."""
        nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)

    def weights(self) -> dict[str, Tensor]:
        """Returns a copy of all weights and buffers, on the CPU.  All processes must call it."""
        return checkpoint.weights(self.model)

    def load_weights(self, weights: Any) -> None:
        """Puts whole weights and buffers into the model."""
        self.model.load_state_dict(weights)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Returns the optimizer's state with whole tensors.  All processes must call it."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Any) -> None:
        """Puts a state with whole tensors into the optimizer."""
        optimizer.load_state_dict(state)

    def whole(self) -> AbstractContextManager[Any]:
        """Returns a context in which every process can use the model with all its weights, without a backward pass."""
        return nullcontext()

    def finish(self) -> None:
        """Ends the training: from now on every process can use the model with all its weights."""

    def from_first(self, content: Any) -> Any:
        """Returns the content that the first process gave, in all processes."""
        if self.world > 1:
            box = [content]
            torch.distributed.broadcast_object_list(box, src=0)
            return box[0]
        return content

    def from_all(self, content: Any) -> list[Any]:
        """Returns the contents that all processes gave, in the order of the processes."""
        if self.world == 1:
            return [content]
        contents: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(contents, content)
        return contents

    @property
    def kernels(self) -> set[str]:
        """The names of kernels that ran in training only."""
        return set()

    def attention_bytes_sent_per_step(self) -> float | None:
        """Returns the bytes that this process sent for attention in a step; None if attention sends nothing."""
        return None


class BySequence(ByExamples):
    """``sequence``: each process computes a part of every sequence of a batch, and holds all weights."""

    counts_whole_batch = True

    def __init__(self, loss: nn.Module, model: nn.Module, accelerator: Accelerator, task: Task) -> None:
        super().__init__(loss, model, accelerator)
        self.parts = SequenceParallel(task, model, num_parts=self.world, rank=self.rank)

    def shares(self, indices: Sequence[int], size: int | None) -> list[Share]:
        """Returns the micro-batches of a batch, the same in all processes."""
        size = size or len(indices)
        return [Share(list(indices[first : first + size]), 1) for first in range(0, len(indices), size)]

    @contextmanager
    def micro_batch(self, batch: Any, share: Share, *, is_last: bool) -> Iterator[Any]:  # noqa: ARG002
        """Gives this process's part of every sequence.

        Attention communicates during the backward pass.  Messages of DistributedDataParallel must not come in between, so
        gradients are summed after it.
        """
        with self._without_messages(), self.parts.own_part(batch) as part:
            yield part

    def add_up_gradients(self) -> float:
        """Sums the gradients over the processes."""
        self.parts.sum_gradients(self.model)
        return 1

    @property
    def kernels(self) -> set[str]:
        """The names of kernels that ran on parts."""
        return self.parts.kernels

    def attention_bytes_sent_per_step(self) -> float:
        """Returns the bytes that this process sent to others for attention in a step, without gradients."""
        return self.parts.attention_bytes_sent_per_step()


def make_accelerator(precision: str, device: str) -> Accelerator:
    """Returns an Accelerator for this precision and device.

    Accelerate's process-wide state is reset, because the last cell of the worker may have used another precision or device.
    """
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    mixed = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision]
    # The control `none` leaves projections unused, for which DistributedDataParallel would otherwise raise an error.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=mixed, cpu=torch.device(device).type == "cpu", kwargs_handlers=[unused])
