"""Accuracy where a text asks for what it said before: the surname after a first name that stood earlier in the block."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.cross_entropy import PADDED
from tasks.language_modeling.ngram import NGram
from tasks.language_modeling.registers import FIRST_NAMES, SURNAMES
from tasks.language_modeling.tokens import AnyTokenizer


def name_tokens(tokenizer: AnyTokenizer) -> Tensor | None:
    """Whether each token is a first name, bool (vocabulary,); None if some names are not whole tokens, as in bytes."""
    pieces = {piece.strip() for piece in tokenizer.pieces}
    if not all(name.encode() in pieces for name in (*FIRST_NAMES, *SURNAMES)):
        return None
    names = {name.encode() for name in FIRST_NAMES}
    return torch.tensor([piece.strip() in names for piece in tokenizer.pieces])


def asked_places(inputs: Tensor, targets: Tensor, is_name: Tensor) -> Tensor:
    """Where the last token read is a first name that the block had before.  bool (b, n)

    inputs, targets: (b, n) int64, entry t of the targets follows on entry t of the inputs.  is_name: bool (vocabulary,).
    """
    length = inputs.shape[1]
    equal = inputs[:, :, None] == inputs[:, None, :]  # (b, n, n)
    earlier = torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril(-1)
    return is_name.to(inputs.device)[inputs] & (equal & earlier).any(-1) & (targets != PADDED)


def recall_columns(right: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """The number of asked places of each block, and of those at which the likeliest token is right.  right, asked: (b, n)"""
    return {"recalled": (right & asked).sum(1), "asked": asked.sum(1)}


def recall_of_ngrams(model: NGram, order: int, inputs: Tensor, targets: Tensor, asked: Tensor) -> dict[str, np.ndarray]:
    """The columns of ``recall_columns`` for n-gram estimates of this order, -1 for the uniform guess."""
    counts = asked.sum(1).double().numpy()
    if order < 0:
        return {"recalled": counts / (model.vocab_size - 1), "asked": counts}
    rows, places = (x.numpy() for x in torch.nonzero(asked, as_tuple=True))
    contexts = [
        inputs[row, max(0, place + 1 - order) : place + 1].numpy() for row, place in zip(rows, places, strict=True)
    ]
    right = model.likeliest(contexts, order) == targets[rows, places].numpy()
    return {"recalled": np.bincount(rows, weights=right, minlength=len(counts)), "asked": counts}
