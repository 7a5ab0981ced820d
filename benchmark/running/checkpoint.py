"""Checkpoints, from which training resumes bit for bit.  Each file is written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.files import write_bytes

LAST, BEST = "last.pt", "best.pt"
_DIGEST_BYTES = 32  # length of the SHA-256 digest at the end of each file
# The exceptions that torch.load raises for content that ``save`` did not write.
_UNREADABLE: tuple[type[Exception], ...] = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError),
    *(ArithmeticError, AssertionError, ImportError, MemoryError),
)


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint (tensors, numbers, text, plain containers) and its digest."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    saved = buffer.getvalue()
    write_bytes(path, saved + hashlib.sha256(saved).digest())


def load(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint onto the CPU.  Returns None if the file is missing or damaged.

    ``weights_only`` makes torch read tensors and plain containers only, so that a file can't run code.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    saved, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(saved).digest() != digest:
        return None
    try:
        content = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except _UNREADABLE:
        return None
    return content if isinstance(content, dict) else None


def fits(saved: Any, model: nn.Module) -> bool:
    """Returns whether the saved weights have the names and shapes of this model's."""
    own = model.state_dict()
    if not isinstance(saved, Mapping) or saved.keys() != own.keys():
        return False
    return all(isinstance(saved[name], Tensor) and saved[name].shape == own[name].shape for name in own)


def random_states() -> dict[str, Any]:
    """Returns the states of the global random generators, from which dropout draws."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets the global random generators to states that ``random_states`` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        # A machine with fewer or more GPUs continues with those that both have.
        for number, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, number)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the weights and buffers, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def remove(folder: Path) -> None:
    """Removes the checkpoints of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)
