"""Sequence parallel training: each process holds a part of every sequence of a batch, and all of the weights.

Only attention exchanges data between parts (``PartedAttention``), because everything else works token by token.  Losses and
gradients are sums over tokens, so adding those of all parts gives those of the whole sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmark.interface import PartsSequences, Task
from benchmark.multihead import MultiHeadAttention


class SequenceParallel:
    """What one process does in this training: cuts out its part of each batch, and sums gradients.

    Raises ValueError if the task or an attention of the model can't work on parts of sequences.
    """

    def __init__(self, task: Task, model: nn.Module, *, num_parts: int, rank: int) -> None:
        if not isinstance(task, PartsSequences):
            raise ValueError(f"parallel = 'sequence': {task.name} can't cut its batches into parts of sequences")
        self.task: PartsSequences = task
        self.num_parts, self.rank = num_parts, rank
        self.layers = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
        lacking = {type(layer.attention).__name__ for layer in self.layers if not hasattr(layer.attention, "make_part")}
        if lacking or not self.layers:
            who = ", ".join(sorted(lacking)) or "a model without attention"
            raise ValueError(f"parallel = 'sequence': {who} can't attend over a sequence in parts")
        self.steps = self.bytes_sent = 0
        # Names of the kernels that ran on parts.  Evaluation has whole sequences and may use others.
        self.kernels: set[str] = set()

    @contextmanager
    def own_part(self, batch: Any) -> Iterator[Any]:
        """Gives this process's part of the batch.  Inside the block the model's attentions expect parts.

        The backward pass must run inside the block as well, because it computes checkpointed blocks again.
        """
        length = self.task.sequence_length(batch)
        part = self.layers[0].attention.make_part(length, num_parts=self.num_parts, rank=self.rank)
        try:
            for layer in self.layers:
                layer.attention.sequence_part = part
            yield self.task.part_of(batch, part)
        finally:
            for layer in self.layers:
                layer.attention.sequence_part = None
        self.bytes_sent += part.bytes_sent
        self.kernels |= {layer.kernel for layer in self.layers}

    def sum_gradients(self, model: nn.Module) -> None:
        """Sums each gradient over the processes, in place.

        All processes run the same model, so the same parameters have gradients in all of them.
        """
        for parameter in model.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
        self.steps += 1

    def attention_bytes_sent_per_step(self) -> float:
        """Returns the bytes that this process sent to others for attention in a step, without gradients."""
        return round(self.bytes_sent / max(1, self.steps), 1)
