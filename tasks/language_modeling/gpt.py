"""A decoder-only Transformer, pre-norm, with tied embeddings (Radford et al., 2019; sizes and positions as in fairseq's).

From top to bottom: the model, one block of it, and the sinusoidal positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark.interface import AttentionFactory
from tasks.cross_entropy import LOGITS_AT_ONCE, projected_nats


class GPTState(NamedTuple):
    """The number of tokens read, the state of each attention layer, and the last tokens, as many as ``token_shift``."""

    position: int
    layers: tuple[Any, ...]
    recent: Tensor  # (batch, up to token_shift) int64


class GPT(nn.Module):
    """Next-token logits.

    context_length  the training length; ``learned`` positions have as many entries
    max_length      the longest length that the model will meet, for attentions that must know it
    positions       "sinusoidal", "learned" or "rotary": the backbone adds them if the attention encodes none itself; "none"
    token_shift     the input of a token also has the embeddings of so many tokens before it, each times a learned vector
    embedding_std   standard deviation of the embeddings at the start, embed_dim**-0.5 if None; the inputs are the
                    embeddings times sqrt(embed_dim)
    checkpointing   in training, the backward pass computes each block again, so that the activations of one block are held
                    and not those of all

    The attribute ``positions`` is what the model uses: one of these, or "attention" if the attention encodes positions
    itself.  The attribute ``max_length`` is the longest input allowed, None if there is no limit.
    """

    def __init__(
        self,
        attention_for: AttentionFactory,
        *,
        vocab_size: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        context_length: int,
        max_length: int | None = None,
        feed_forward_dim: int | None = None,
        positions: str = "sinusoidal",
        token_shift: int = 0,
        dropout: float = 0.0,
        embedding_std: float | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        attentions: list[Any] = [
            attention_for(
                "causal_self",
                embed_dim=embed_dim,
                num_heads=num_heads,
                max_length=max_length or context_length,
                dropout=dropout,
                rotary=positions == "rotary",
            )
            for _ in range(num_layers)
        ]
        encoded = any(layer.encodes_positions for layer in attentions)
        self.positions = (
            positions if positions == "rotary" and attentions[0].rotary else "attention" if encoded else positions
        )
        self.max_length = context_length if self.positions == "learned" else None
        self.embed_dim, self.token_shift = embed_dim, token_shift
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Embedding(context_length, embed_dim) if self.positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(attention, embed_dim, feed_forward_dim or 4 * embed_dim, dropout) for attention in attentions
        )
        self.norm = nn.LayerNorm(embed_dim)
        # fairseq's default: times sqrt(embed_dim) at the input it has unit variance, nearly as the sinusoids do.
        std = embed_dim**-0.5 if embedding_std is None else embedding_std
        nn.init.normal_(self.embedding.weight, std=std)
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=std)
        self.shifts: Any = None
        if token_shift:
            # One row a distance.  Random signs keep the embedding of a token before apart from the token's own, at equal size.
            self.shifts = nn.Parameter(torch.randint(2, (token_shift, embed_dim)) * 2.0 - 1.0)

    def forward(self, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """tokens: (batch, length).  Returns logits (batch, length, vocab_size): entry t predicts token t + 1.

        before: the tokens before these, (batch, up to token_shift), where ``tokens`` are a later part of a sequence.
        """
        return self._logits(self._hidden(tokens, before))

    def nats(
        self, tokens: Tensor, targets: Tensor, before: Tensor | None = None, *, at_once: int = LOGITS_AT_ONCE
    ) -> Tensor:
        """-ln p of every target, 0 where it is PADDED: ``token_nats`` of the logits, which are never held all at once.

        tokens, targets: (batch, length) int64.  before: as in ``forward``.  Returns (batch, length) float32.
        at_once: logits in one piece.
        """
        hidden = self._hidden(tokens, before)
        vocab_size = self.embedding.num_embeddings
        return projected_nats(self._logits, hidden, targets, vocab_size=vocab_size, at_once=at_once)

    def _hidden(self, tokens: Tensor, before: Tensor | None) -> Tensor:
        x = self._embed(tokens, self.blocks[0].attention.first_position, before)
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def init_state(self, batch_size: int) -> GPTState:
        """The state before the first token."""
        recent = torch.empty(batch_size, 0, dtype=torch.int64, device=self.embedding.weight.device)
        return GPTState(0, tuple(block.attention.init_state(batch_size) for block in self.blocks), recent)

    def extend(self, tokens: Tensor, state: GPTState) -> tuple[Tensor, GPTState]:
        """Reads any number of new tokens after those that the state has read.

        tokens: (batch, new tokens).  Returns their logits, as ``forward`` does, and the state after them.
        """
        x = self._embed(tokens, state.position, state.recent)
        layers = []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, layer = block.extend(x, layer)
            layers.append(layer)
        read = torch.cat((state.recent, tokens), dim=1)
        recent = read[:, max(0, read.shape[1] - self.token_shift) :]
        return self._logits(x), GPTState(state.position + tokens.shape[1], tuple(layers), recent)

    def state_bytes(self, state: GPTState) -> int:
        """Bytes of the attentions' states."""
        return sum(block.attention.state_bytes(layer) for block, layer in zip(self.blocks, state.layers, strict=True))

    def _embed(self, tokens: Tensor, start: int, before: Tensor | None) -> Tensor:
        stop = start + tokens.shape[1]
        if self.max_length is not None and stop > self.max_length:
            raise ValueError(
                f"{stop} tokens: learned positions end at {self.max_length}; sinusoidal and rotary ones don't"
            )
        x = self.embedding(tokens) * math.sqrt(self.embed_dim)
        if self.shifts is not None:
            x = x + self._shifted(x, before)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start:stop] * math.sqrt(self.embed_dim)
        elif self.positions == "sinusoidal":
            x = x + sinusoids(start, stop, self.embed_dim, device=x.device).to(x.dtype)
        return self.dropout(x)

    def _shifted(self, x: Tensor, before: Tensor | None) -> Tensor:
        """The inputs of the tokens before each token, weighted and summed.  x: (b, n, e), without positions."""
        known = x
        if before is not None:
            known = torch.cat((self.embedding(before) * math.sqrt(self.embed_dim), x), dim=1)
        num_before = known.shape[1] - x.shape[1]
        total = torch.zeros_like(x)
        for distance, weight in enumerate(self.shifts, start=1):
            late = F.pad(known, (0, 0, distance, 0))  # zero where no token is so far before
            total = total + weight * late[:, num_before : num_before + x.shape[1]]
        return total

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, attention: nn.Module, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention: Any = attention
        self.feed_forward_norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, feed_forward_dim)
        self.contract = nn.Linear(feed_forward_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, embed_dim).  Returns the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self._feed_forward(x)

    def extend(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x: (batch, new tokens, embed_dim).  Returns the same shape, and the state after these tokens."""
        out, state = self.attention.extend(self.attention_norm(x), state)
        x = x + out
        return x + self._feed_forward(x), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.contract(F.gelu(self.expand(self.feed_forward_norm(x)))))


def sinusoids(start: int, stop: int, embed_dim: int, *, device: Any = None) -> Tensor:
    """Sines, then cosines, of the positions start..stop-1 at embed_dim / 2 frequencies from 1 to 1/10,000.

    Returns (stop - start, embed_dim) in float32, because half precision can't tell position 2,049 from 2,048.
    """
    half = embed_dim // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(10_000) / max(1, half - 1)))
    angles = torch.arange(start, stop, device=device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
