"""Loss at several context lengths and by position; streaming holds one chunk and the attentions' states, not whole blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmark.statistics import bootstrap_interval
from tasks.cross_entropy import PADDED, token_nats
from tasks.language_modeling.data import Blocks, Example
from tasks.language_modeling.gpt import GPT
from tasks.language_modeling.metrics import bits_per_byte


class LengthLoss(NamedTuple):
    """Sums over all blocks of one length."""

    edges: np.ndarray  # (bins + 1,): bin i has the positions [edges[i], edges[i + 1]) of a block; edges double
    nats: np.ndarray  # (documents, bins)
    num_tokens: np.ndarray  # (documents, bins)
    num_bytes: int
    state_bytes: int  # of one sequence, at the end of the longest block


def shift(examples: Sequence[Example], begin: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (b, n) each; the inputs are the targets one place to the right, after ``begin``.

    Shorter blocks are padded at their end.  Their targets are PADDED there; the inputs need no mask, because no token before
    the end can attend to them.
    """
    length = max(len(example.tokens) for example in examples)
    inputs = torch.full((len(examples), length), begin, dtype=torch.int64)
    targets = torch.full((len(examples), length), PADDED, dtype=torch.int64)
    for row, example in enumerate(examples):
        tokens = torch.from_numpy(example.tokens.astype(np.int64))
        targets[row, : len(tokens)] = tokens
        inputs[row, 1 : len(tokens)] = tokens[:-1]
    return inputs, targets


@torch.no_grad()
def streamed_loss(model: GPT, blocks: Blocks, *, length: int, begin: int, chunk_size: int, num_rows: int) -> LengthLoss:
    """Scores every token of the blocks once: ``num_rows`` blocks side by side, ``chunk_size`` tokens at a time."""
    device = next(model.parameters()).device
    edges = np.array([0, *(2**i for i in range(length.bit_length()) if 2**i < length), length])
    nats, num_tokens = (np.zeros((blocks.documents.max() + 1, len(edges) - 1)) for _ in range(2))
    num_bytes = largest_state = 0
    for indices in _groups(blocks, num_rows):
        examples, documents = [blocks[index] for index in indices], blocks.documents[indices]
        inputs, targets = (tensor.to(device) for tensor in shift(examples, begin))
        state = model.init_state(len(examples))
        for start in range(0, inputs.shape[1], chunk_size):
            chunk = slice(start, start + chunk_size)
            logits, state = model.extend(inputs[:, chunk], state)
            positions = np.arange(start, start + logits.shape[1])
            in_bin = np.eye(len(edges) - 1)[np.searchsorted(edges, positions, side="right") - 1]  # (c, bins)
            found = token_nats(logits, targets[:, chunk]).double().cpu().numpy() @ in_bin
            np.add.at(nats, documents, found)
            np.add.at(num_tokens, documents, (targets[:, chunk] != PADDED).double().cpu().numpy() @ in_bin)
        num_bytes += sum(example.num_bytes for example in examples)
        largest_state = max(largest_state, model.state_bytes(state) // len(examples))
    return LengthLoss(edges, nats, num_tokens, num_bytes, largest_state)


def _groups(blocks: Blocks, num_rows: int) -> Iterator[np.ndarray]:
    """Indices of the blocks, those of similar length together, so that there is little padding."""
    order = np.argsort(-blocks.lengths, kind="stable")
    for first in range(0, len(order), num_rows):
        yield order[first : first + num_rows]


def length_row(length: int, result: LengthLoss) -> dict[str, Any]:
    """One point of the curve by length."""
    nats, num_tokens = float(result.nats.sum()), int(result.num_tokens.sum())
    return {
        "length": length,
        "loss": nats / num_tokens,
        "bits_per_byte": bits_per_byte(nats, result.num_bytes),
        "n": num_tokens,
        "state_bytes": result.state_bytes,
    }


def position_curve(length: int, result: LengthLoss) -> dict[str, Any]:
    """Mean loss of the tokens at positions [edges[i], edges[i + 1]) of a block, with a 95 % interval over documents.

    The interval is a bootstrap: documents are drawn with replacement, and their sums of nats are divided by their numbers of
    tokens.  It is None if fewer than two documents are so long.
    """
    nats, num_tokens = result.nats.sum(0), result.num_tokens.sum(0).astype(int)
    loss = [float(total / count) if count else None for total, count in zip(nats, num_tokens, strict=True)]
    intervals = [_interval(*columns) for columns in zip(result.nats.T, result.num_tokens.T, strict=True)]
    low, high = ([interval[end] for interval in intervals] for end in (0, 1))
    curve = {"length": length, "edges": result.edges.tolist(), "loss": loss, "n": num_tokens.tolist()}
    documents = (result.num_tokens > 0).sum(0).tolist()
    return curve | {"low": low, "high": high, "documents": documents}


def _interval(nats: np.ndarray, num_tokens: np.ndarray) -> tuple[float | None, float | None]:
    """nats, num_tokens: (documents,) of one bin."""
    nats, num_tokens = nats[num_tokens > 0], num_tokens[num_tokens > 0]
    if len(nats) < 2:
        return None, None

    def ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        drawn = rows.astype(int)
        return nats[drawn].sum(axis) / num_tokens[drawn].sum(axis)

    return bootstrap_interval(range(len(nats)), ratio)
