"""What a record keeps of a few test utterances: small spectrograms, sounds as MP3, the cross-attention's alignment."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.text_to_speech.audio import HOP, SAMPLE_RATE, to_mp3
from tasks.text_to_speech.utterances import Utterance

MOST_COLUMNS, MOST_ROWS = 128, 64  # of a picture in a record
DARKEST, BRIGHTEST = -11.6, 2.5  # log-mel values; the first is just below the floor


def entry(utterance: Utterance, mel: Tensor, sounds: Mapping[str, Tensor], alignment: Tensor | None) -> dict[str, Any]:
    """JSON values.

    mel: (frames, NUM_MELS), natural logarithm.  sounds: name -> (samples,).  alignment: (steps, symbols).
    """
    return {
        "name": utterance.name,
        "text": utterance.text,
        "seconds": round(len(mel) * HOP / SAMPLE_RATE, 2),
        "truth_seconds": round(len(utterance.mel) * HOP / SAMPLE_RATE, 2),
        "truth_mel": picture(utterance.mel.T, DARKEST, BRIGHTEST),
        "mel": picture(mel.T, DARKEST, BRIGHTEST),
        "alignment": None if alignment is None else picture(alignment.T, 0.0, 1.0),
        "sounds": {name: base64.b64encode(to_mp3(samples)).decode() for name, samples in sounds.items()},
    }


def picture(values: Tensor, darkest: float, brightest: float) -> dict[str, Any]:
    """At most MOST_ROWS x MOST_COLUMNS values as bytes.  values: (rows, columns)"""
    size = (min(values.shape[0], MOST_ROWS), min(values.shape[1], MOST_COLUMNS))
    small = F.adaptive_avg_pool2d(values[None].float(), size)[0]
    levels = ((small - darkest) / (brightest - darkest) * 255).round().clamp(0, 255).to(torch.uint8)
    return {"rows": size[0], "columns": size[1], "bytes": base64.b64encode(levels.numpy().tobytes()).decode()}


def unpack(stored: dict[str, Any]) -> np.ndarray:
    """The picture as (rows, columns) in [0, 1]."""
    levels = np.frombuffer(base64.b64decode(stored["bytes"]), dtype=np.uint8)
    return levels.reshape(stored["rows"], stored["columns"]) / 255


def cross_alignment(model: nn.Module, run: Callable[[], Any]) -> Tensor | None:
    """The weights of the last layer's cross-attention in teacher forcing, mean over heads.  (steps, symbols)

    They are softmax(q k / sqrt(head_dim)), so the result is None for attentions that are not exact.
    model: a ``Backbone`` that has an alignment.  run: calls the model on one utterance.
    """
    layer = model.decoder[-1].cross_attention  # type: ignore[index,union-attr]
    if not getattr(layer.attention, "exact", False):
        return None
    caught: list[Tensor] = []

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        del named
        caught.extend(inputs[:2])

    handle = layer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    q, k = (
        rearrange(project(x.float()), "1 n (h d) -> h n d", h=layer.num_heads)
        for project, x in zip((layer.q_proj, layer.k_proj), caught, strict=True)
    )
    return (q @ k.mT / layer.head_dim**0.5).softmax(2).mean(0).cpu()
