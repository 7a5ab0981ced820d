"""Evaluation mode for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turns dropout and gradients off inside the block, and restores the model's mode after it.

    It uses ``no_grad`` rather than ``inference_mode``, because tensors that a module caches inside (a basis, a mask) must
    stay usable in training.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
