"""An encoder-decoder Transformer, post-norm, with learned positions (Vaswani et al., 2017; sizes of CAB's summarisation).

From top to bottom: the model, its embedding, an encoder layer, a decoder layer, and the feed-forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.interface import AttentionFactory


class DecoderState(NamedTuple):
    """The number of target tokens read so far, and each layer's states of self-attention and cross-attention."""

    position: int
    layers: tuple[tuple[Any, Any], ...]


class Transformer(nn.Module):
    """Logits of the next token of a target, given a source and the target so far.

    max_source_length, max_target_length        the longest source and target that the attentions will meet
    num_source_positions, num_target_positions  entries of the two tables of learned positions; by default these lengths
    share_embeddings   True: one matrix for source, target and output; False: three

    Positions are added even where the cell's attention encodes positions itself: the attentions of the other patterns
    stay softmax and need them.
    """

    def __init__(
        self,
        attention_for: AttentionFactory,
        *,
        vocab_size: int,
        embed_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_heads: int,
        feed_forward_dim: int,
        max_source_length: int,
        max_target_length: int,
        num_source_positions: int | None = None,
        num_target_positions: int | None = None,
        dropout: float = 0.1,
        share_embeddings: bool = False,
    ) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": dropout}
        self.source_embedding = Embedding(vocab_size, num_source_positions or max_source_length, embed_dim, dropout)
        self.target_embedding = Embedding(vocab_size, num_target_positions or max_target_length, embed_dim, dropout)
        encoder, decoder = [], []
        for _ in range(num_encoder_layers):
            attention = attention_for("noncausal_self", max_length=max_source_length, **sizes)
            encoder.append(EncoderLayer(attention, embed_dim, feed_forward_dim, dropout))
        for _ in range(num_decoder_layers):
            own = attention_for("causal_self", max_length=max_target_length, **sizes)
            cross = attention_for("causal_cross", max_length=max(max_source_length, max_target_length), **sizes)
            decoder.append(DecoderLayer(own, cross, embed_dim, feed_forward_dim, dropout))
        self.encoder: Sequence[EncoderLayer] = nn.ModuleList(encoder)  # type: ignore[assignment]
        self.decoder: Sequence[DecoderLayer] = nn.ModuleList(decoder)  # type: ignore[assignment]
        self.output = nn.Linear(embed_dim, vocab_size, bias=False)
        nn.init.normal_(self.output.weight, std=embed_dim**-0.5)
        if share_embeddings:
            self.source_embedding.tokens.weight = self.target_embedding.tokens.weight = self.output.weight

    def forward(self, source: Tensor, target: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Logits of every next token.

        source: int64 (batch, source length).  target: int64 (batch, target length), which begins with the begin mark.
        source_padding: bool (batch, source length), True where padded.
        Returns (batch, target length, vocab_size): entry t predicts token t + 1.
        """
        return self.decode(target, self.encode(source, source_padding), source_padding)

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """The encoded source, which the decoder reads.

        source: int64 (batch, source length).  Returns (batch, source length, embed_dim).
        """
        x = self.source_embedding(source, 0)
        for layer in self.encoder:
            x = layer(x, source_padding)
        return x

    def decode(self, target: Tensor, memory: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """All logits of a whole target at once.

        target: int64 (batch, target length).  memory: what ``encode`` gave.  Returns (batch, target length, vocab_size).
        """
        x = self.target_embedding(target, 0)
        for layer in self.decoder:
            x = layer(x, memory, source_padding)
        return self.output(x)

    def init_state(self, memory: Tensor, source_padding: Tensor | None = None) -> DecoderState:
        """The state before the first target token; this reads the encoded source, which is not needed again."""
        return DecoderState(0, tuple(layer.init_state(memory, source_padding) for layer in self.decoder))

    def extend(self, target: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Reads any number of new target tokens.

        target: int64 (batch, new tokens).  Returns their logits (batch, new tokens, vocab_size), and the state after them.
        """
        x = self.target_embedding(target, state.position)
        layers = []
        for layer, layer_state in zip(self.decoder, state.layers, strict=True):
            x, layer_state = layer.extend(x, layer_state)
            layers.append(layer_state)
        return self.output(x), DecoderState(state.position + target.shape[1], tuple(layers))

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """The state of these rows of the batch, repeated or left out.  rows: (new batch,) int64."""
        pairs = zip(self.decoder, state.layers, strict=True)
        return DecoderState(state.position, tuple(layer.select(layer_state, rows) for layer, layer_state in pairs))

    def state_bytes(self, state: DecoderState) -> int:
        """The bytes that the attentions' states hold."""
        pairs = zip(self.decoder, state.layers, strict=True)
        return sum(layer.state_bytes(layer_state) for layer, layer_state in pairs)


class Embedding(nn.Module):
    """Tokens plus learned positions, normalised."""

    def __init__(self, vocab_size: int, num_positions: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.positions = nn.Embedding(num_positions, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.tokens.weight, std=embed_dim**-0.5)
        # Positions as large as the tokens hide them: for hundreds of steps the loss stays at that of single tokens.
        nn.init.normal_(self.positions.weight, std=0.1 * embed_dim**-0.5)

    def forward(self, tokens: Tensor, start: int) -> Tensor:
        """tokens: int64 (b, n), the first of them at position ``start``.  Returns (b, n, e).

        Raises ValueError where the tokens reach beyond the learned positions.
        """
        stop, allowed = start + tokens.shape[1], self.positions.num_embeddings
        if stop > allowed:
            raise ValueError(f"{stop} tokens: the learned positions end at {allowed}")
        return self.dropout(self.norm(self.tokens(tokens) + self.positions.weight[start:stop]))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised; dropout of the attention is in its own layer."""

    def __init__(self, attention: nn.Module, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention: Any = attention
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.feed_forward_norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x: (b, m, e).  padding: bool (b, m).  Returns (b, m, e)."""
        x = self.attention_norm(x + self.attention(x, key_padding_mask=padding))
        return self.feed_forward_norm(x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward, each added and then normalised."""

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        embed_dim: int,
        feed_forward_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention: Any = self_attention
        self.self_attention_norm = nn.LayerNorm(embed_dim)
        self.cross_attention: Any = cross_attention
        self.cross_attention_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.feed_forward_norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """x: (b, n, e).  memory: (b, m, e).  padding: bool (b, m).  Returns (b, n, e)."""
        # Self-attention needs no mask: padding stands at the end of a target, and real tokens don't see their future.
        x = self.self_attention_norm(x + self.self_attention(x))
        x = self.cross_attention_norm(x + self.cross_attention(x, memory, key_padding_mask=padding))
        return self.feed_forward_norm(x + self.feed_forward(x))

    def init_state(self, memory: Tensor, padding: Tensor | None) -> tuple[Any, Any]:
        """The states of self-attention and cross-attention before the first target token.  memory: (b, m, e)."""
        return (
            self.self_attention.init_state(memory.shape[0]),
            self.cross_attention.init_cross(memory, key_padding_mask=padding),
        )

    def extend(self, x: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        """``forward`` for the tokens behind those that the state has read.  x: (b, n, e).  Returns (b, n, e) and a state."""
        own, cross = state
        out, own = self.self_attention.extend(x, own)
        x = self.self_attention_norm(x + out)
        out, cross = self.cross_attention.read(x, cross)
        x = self.cross_attention_norm(x + out)
        return self.feed_forward_norm(x + self.feed_forward(x)), (own, cross)

    def select(self, state: tuple[Any, Any], rows: Tensor) -> tuple[Any, Any]:
        """The states of these rows of the batch, repeated or left out.  rows: int64 (new batch,)."""
        own, cross = state
        return self.self_attention.select(own, rows), self.cross_attention.select(cross, rows)

    def state_bytes(self, state: tuple[Any, Any]) -> int:
        """The bytes that both states hold."""
        own, cross = state
        return self.self_attention.state_bytes(own) + self.cross_attention.state_bytes(cross)


class FeedForward(nn.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(embed_dim, feed_forward_dim), nn.Linear(feed_forward_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, e) -> (b, n, e)"""
        return self.dropout(self.contract(F.gelu(self.expand(x))))
