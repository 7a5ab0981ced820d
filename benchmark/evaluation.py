"""Evaluation mode for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards the model is in the mode that it was in before.

    This is ``no_grad`` and not ``inference_mode``: tensors that a module keeps (a cached basis, a mask) must stay usable in
    training.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
