"""Cross-entropy over large vocabularies, piece by piece, so that the float32 logits of all tokens are never held at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PADDED = -100  # a target that is not scored
LOGITS_AT_ONCE = 2**25  # float32 values held at a time: 128 MiB


def token_nats(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, at_once: int = LOGITS_AT_ONCE
) -> Tensor:
    """-ln p of every target in float32, 0 where the target is PADDED.

    logits: (b, n, vocab), of any float dtype.  targets: (b, n) int64.  Returns (b, n).
    label_smoothing: the share of the target's weight that is spread evenly over the vocabulary.
    at_once: logits in one piece.  If there are several pieces, the backward pass computes their softmax again.
    """
    return projected_nats(
        lambda rows: rows,
        logits,
        targets,
        vocab_size=logits.shape[-1],
        label_smoothing=label_smoothing,
        at_once=at_once,
    )


def projected_nats(
    project: Callable[[Tensor], Tensor],
    x: Tensor,
    targets: Tensor,
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """``token_nats`` of the logits ``project(x)``, which are made for one piece at a time.

    project: maps (rows, embed_dim) to logits (rows, vocab_size).  If there are several pieces, the backward pass computes
    it again.
    x: (b, n, embed_dim).  targets: (b, n) int64.  Returns (b, n) float32.
    """

    def nats(rows: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            project(rows).float(), labels, reduction="none", ignore_index=PADDED, label_smoothing=label_smoothing
        )

    rows, labels = x.flatten(0, 1), targets.flatten()
    num_rows = max(1, at_once // vocab_size)
    if len(rows) <= num_rows:
        return nats(rows, labels).view(targets.shape)
    pieces = zip(rows.split(num_rows), labels.split(num_rows), strict=True)
    return torch.cat([checkpoint(nats, *piece, use_reentrant=False) for piece in pieces]).view(targets.shape)
