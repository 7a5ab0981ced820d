"""The backbone ``probe``: the smallest decoder, or encoder and decoder, around an attention.

From top to bottom: the model, the input of one sequence, and one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.interface import AttentionFactory, Pattern, missing_methods


class Probe(nn.Module):
    """Names the words that are asked for.

    pattern         of all attention layers; with a cross pattern, the layers attend to the source, else to the text itself
    num_words       size of the vocabulary, for input and output; both share one table of embeddings
    max_length      the longest text or source that the model will meet
    shift           the number of words before its own that a place sees at the input (0: none)
    positions       True: each place is told its position, unless the attention encodes positions itself
    num_slots       0, or the number of answers that one place gives; the last block is then told which of them is wanted
    encoder_dim     width of a feed-forward layer between input and attention, None for none.  It can bind the words of one place,
                    so that even a mean of places keeps which words belong together
    """

    def __init__(
        self,
        attention_for: AttentionFactory,
        *,
        pattern: Pattern,
        num_words: int,
        max_length: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        feed_forward_dim: int | None,
        shift: int = 0,
        positions: bool = False,
        num_slots: int = 0,
        encoder_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.pattern = pattern
        layers: list[Any] = [
            attention_for(pattern, embed_dim=embed_dim, num_heads=num_heads, max_length=max_length)
            for _ in range(num_layers)
        ]
        encoded = layers[0].encodes_positions
        places = max_length if positions and not encoded else 0
        self.input = Input(num_words, embed_dim, shift=shift, num_places=places, encoder_dim=encoder_dim)
        self.source_norm = nn.LayerNorm(embed_dim) if pattern.endswith("cross") else None
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(layer, embed_dim, feed_forward_dim) for layer in layers
        )
        self.slots = nn.Embedding(num_slots, embed_dim) if num_slots else None
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor, source: Tensor | None, asked: Tensor) -> Tensor:
        """Returns the logits of the answers, (batch, questions, words).

        tokens: (batch, target length, channels).  source: (batch, source length, channels), None in self-attention.
        asked: (batch, questions), places of ``tokens``.
        """
        x = self.input(tokens)
        memory = None if source is None or self.source_norm is None else self.source_norm(self.input(source))
        for index, block in enumerate(self.blocks):
            x = block.attend(x, memory)
            if index == len(self.blocks) - 1:  # what comes next works place by place, so only the asked ones are needed
                x = x.gather(1, asked[..., None].expand(-1, -1, x.shape[-1]))
                if self.slots is not None:
                    x = x + self.slots.weight[: x.shape[1]]
            x = block.feed_forward(x)
        return F.linear(self.norm(x), self.input.words.weight)

    def state_bytes(self, tokens: Tensor, source: Tensor | None) -> int | None:
        """Returns the bytes of the attentions' states after reading one text; None if they have none.

        tokens and source: as in ``forward``, of one text.
        """
        attentions = [block.attention for block in self.blocks]
        if any(missing_methods(type(layer.attention), self.pattern) for layer in attentions):
            return None
        if self.pattern == "causal_cross":
            assert source is not None
            assert self.source_norm is not None
            memory = self.source_norm(self.input(source))
            return sum(layer.state_bytes(layer.init_cross(memory)) for layer in attentions)
        if self.pattern != "causal_self":
            return None
        x = self.input(tokens)
        return sum(layer.state_bytes(layer.extend(x, layer.init_state(1))[1]) for layer in attentions)


class Input(nn.Module):
    """The embeddings of the words at a place, summed, and of the words before it; positions; and a feed-forward layer.

    A word before a place goes through a matrix of its own, so that "k was here" and "k was one place ago" differ, and the
    model learns how they correspond for all words at once.
    """

    def __init__(self, num_words: int, embed_dim: int, *, shift: int, num_places: int, encoder_dim: int | None) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, embed_dim)
        self.before = nn.ModuleList(nn.Linear(embed_dim, embed_dim, bias=False) for _ in range(shift))
        self.positions = nn.Embedding(num_places, embed_dim) if num_places else None
        self.encoder = FeedForward(embed_dim, encoder_dim) if encoder_dim else None
        for table in (self.words, self.positions):
            if table is not None:
                nn.init.normal_(table.weight, std=embed_dim**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, length, channels).  Returns (batch, length, embed_dim)."""
        words = self.words(tokens).sum(2)
        x = words
        for distance, project in enumerate(self.before, start=1):
            x = x + F.pad(project(words), (0, 0, distance, 0))[:, : x.shape[1]]
        if self.positions is not None:
            x = x + self.positions.weight[: x.shape[1]]
        return x if self.encoder is None else self.encoder(x)


class Block(nn.Module):
    """x + attention(norm(x)), then ``feed_forward``; the caller may drop places between the two.

    feed_forward_dim: None for a block without a feed-forward part.
    """

    def __init__(self, attention: nn.Module, embed_dim: int, feed_forward_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.attention: Any = attention
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim) if feed_forward_dim else nn.Identity()

    def attend(self, x: Tensor, source: Tensor | None) -> Tensor:
        """x: (batch, length, embed_dim).  source: None in self-attention.  Returns the shape of x."""
        return x + self.attention(self.norm(x), source)


class FeedForward(nn.Module):
    """x + contract(gelu(expand(norm(x))))."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, embed_dim)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, embed_dim).  Returns the same shape."""
        return x + self.contract(F.gelu(self.expand(self.norm(x))))
