"""Loss at several context lengths and by position, streamed: memory is that of one chunk and the attentions' states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.language_modeling.data import Blocks, Example
from tasks.language_modeling.gpt import GPT, PADDED, token_nats
from tasks.language_modeling.metrics import bits_per_byte


class LengthLoss(NamedTuple):
    """Sums over all blocks of one length."""

    nats: np.ndarray  # (length,), by position in the block
    num_tokens: np.ndarray  # (length,)
    num_bytes: int
    state_bytes: int  # of one sequence, at the end of the longest block


def shift(examples: Sequence[Example], begin: int) -> tuple[Tensor, Tensor]:
    """What the model reads and what it must say: (b, n) each, the inputs one to the right and after ``begin``.

    Shorter blocks are padded at their end: their targets are PADDED there, and no causal attention looks that way.
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
    """Scores every token of these blocks once, ``num_rows`` blocks side by side, ``chunk_size`` tokens at a time."""
    device = next(model.parameters()).device
    nats, num_tokens = np.zeros(length), np.zeros(length, dtype=np.int64)
    num_bytes = largest_state = 0
    for examples in _groups(blocks, num_rows):
        inputs, targets = (tensor.to(device) for tensor in shift(examples, begin))
        state = model.init_state(len(examples))
        for start in range(0, inputs.shape[1], chunk_size):
            chunk = slice(start, start + chunk_size)
            logits, state = model.extend(inputs[:, chunk], state)
            nats[chunk][: logits.shape[1]] += token_nats(logits, targets[:, chunk]).double().sum(0).cpu().numpy()
            num_tokens[chunk][: logits.shape[1]] += (targets[:, chunk] != PADDED).sum(0).cpu().numpy()
        num_bytes += sum(example.num_bytes for example in examples)
        largest_state = max(largest_state, model.state_bytes(state) // len(examples))
    return LengthLoss(nats, num_tokens, num_bytes, largest_state)


def _groups(blocks: Blocks, num_rows: int) -> Iterator[list[Example]]:
    """Blocks of like length together, so that little is padded."""
    order = np.argsort(-blocks.lengths, kind="stable")
    for first in range(0, len(order), num_rows):
        yield [blocks[index] for index in order[first : first + num_rows]]


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
    """Mean loss of the tokens at positions [edges[i], edges[i + 1]) of a block; edges double."""
    edges = [0, *(2**i for i in range(length.bit_length()) if 2**i < length), length]
    nats = np.add.reduceat(result.nats, edges[:-1])
    num_tokens = np.add.reduceat(result.num_tokens, edges[:-1])
    loss = [float(total / count) if count else None for total, count in zip(nats, num_tokens, strict=True)]
    return {"length": length, "edges": edges, "loss": loss, "n": num_tokens.tolist()}
