"""What a record keeps of a few test utterances: small spectrograms, sounds as MP3, the cross-attention's alignment."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import Attachment
from tasks.text_to_speech.audio import HOP, SAMPLE_RATE, to_mp3
from tasks.text_to_speech.utterances import Utterance

MOST_COLUMNS, MOST_ROWS = 128, 64  # of a picture in a record
DARKEST, BRIGHTEST = -11.6, 2.5  # log-mel values; the first is just below the floor


def entry(utterance: Utterance, mel: Tensor, sounds: Mapping[str, Tensor], alignment: Tensor | None) -> dict[str, Any]:
    """The JSON values and attachments of one utterance; cells of the same data share the files of the truth.

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
        "sounds": {name: Attachment(to_mp3(samples), "mp3") for name, samples in sounds.items()},
    }


def picture(values: Tensor, darkest: float, brightest: float) -> Attachment:
    """The values as a grey PNG, averaged to at most MOST_ROWS x MOST_COLUMNS pixels.  values: (rows, columns)."""
    size = (min(values.shape[0], MOST_ROWS), min(values.shape[1], MOST_COLUMNS))
    small = F.adaptive_avg_pool2d(values[None].float(), size)[0]
    levels = ((small - darkest) / (brightest - darkest) * 255).round().clamp(0, 255).to(torch.uint8)
    content = io.BytesIO()
    Image.fromarray(levels.numpy()).save(content, format="PNG", optimize=True)
    return Attachment(content.getvalue(), "png")


def unpack(content: bytes) -> np.ndarray:
    """The values of a ``picture``, in [0, 1].  Returns (rows, columns)."""
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.uint8) / 255


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
