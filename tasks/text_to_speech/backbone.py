"""What the task asks of its backbones, whatever their kind, and what travels between them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class SpeechBatch(NamedTuple):
    """Utterances, padded with zeros."""

    symbols: Tensor  # (b, m) int64
    num_symbols: Tensor  # (b,) int64
    mel: Tensor  # (b, n, NUM_MELS) float32, standardised
    num_frames: Tensor  # (b,) int64
    pitch: Tensor  # (b, n) float32, Hz
    energy: Tensor  # (b, n) float32
    durations: Tensor  # (b, m) int64 frames; zeros if the model's aligner finds them
    numbers: Tensor  # (b,) int64: number of the utterance in all of the data; also the seed of its prenet dropout
    is_test: bool  # whether its utterances are to be synthesised

    def to(self, device: torch.device) -> SpeechBatch:
        """The batch with its tensors on this device."""
        moved: dict[str, Any] = {name: x.to(device) for name, x in self._asdict().items() if isinstance(x, Tensor)}
        return self._replace(**moved)


class TeachingLoss(NamedTuple):
    """Losses with the truth given, one value for each utterance."""

    loss: Tensor  # (b,) what training minimises
    mel_error: Tensor  # (b,) absolute error of the standardised frames, mean over frames and bands


class Synthesis(NamedTuple):
    """The speech that a model makes of one text."""

    mel: Tensor  # (frames, NUM_MELS)
    stopped: bool  # False if a bound on the length ended it


class Backbone(Protocol):
    """A model that speaks: an ``nn.Module`` with these attributes and methods.

    has_alignment  True: the last layer of ``decoder`` has a ``cross_attention`` to the text, whose weights can be shown
    """

    has_alignment: bool

    def teaching_loss(self, batch: SpeechBatch, seeds: Tensor | None = None) -> TeachingLoss:
        """The losses of a batch with the truth given.

        seeds: (b,) int64, of the dropout that stays on in evaluation, if the model has any; None draws from torch's global
        generator, as in training.
        """
        ...

    def synthesise(self, batch: SpeechBatch) -> list[Synthesis]:
        """The speech of each text of the batch, standardised; reads ``symbols``, ``num_symbols`` and ``numbers`` alone."""
        ...
