"""An encoder-decoder Transformer, post-norm, with learned positions (Vaswani et al., 2017; sizes of CAB's summarisation).

The file reads downwards: the model, an encoder layer, a decoder layer, and what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.interface import AttentionFactory


class DecoderState(NamedTuple):
    """How many target tokens were read, and by layer the states of the self- and of the cross-attention."""

    position: int
    layers: tuple[tuple[Any, Any], ...]


class Transformer(nn.Module):
    """Logits of the next token of a target, given a source and the target so far.

    max_source_length, max_target_length        the longest that the attentions will meet
    num_source_positions, num_target_positions  entries of the two tables of learned positions; as many where left out
    share_embeddings   one matrix for source, target and output; else three

    Positions are added whatever the attention: every layer reads them, and only one pattern is the cell's.
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
        """source: (batch, source length).  target: (batch, target length), beginning with the begin token.

        source_padding: bool (batch, source length), True where padded.  Returns logits (batch, target length,
        vocab_size): entry t predicts token t + 1.
        """
        return self.decode(target, self.encode(source, source_padding), source_padding)

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """source: (batch, source length).  Returns what the decoder reads, (batch, source length, embed_dim)."""
        x = self.source_embedding(source, 0)
        for layer in self.encoder:
            x = layer(x, source_padding)
        return x

    def decode(self, target: Tensor, memory: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """All logits of a whole target at once.  memory: what ``encode`` gave."""
        x = self.target_embedding(target, 0)
        for layer in self.decoder:
            x = layer(x, memory, source_padding)
        return self.output(x)

    def init_state(self, memory: Tensor, source_padding: Tensor | None = None) -> DecoderState:
        """Reads the encoded source once.  The state before the first target token."""
        return DecoderState(0, tuple(layer.init_state(memory, source_padding) for layer in self.decoder))

    def extend(self, target: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Any number of new target tokens.  Returns their logits, as ``forward`` does, and the state after them."""
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
        """Bytes that the attentions' states hold."""
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
        # As large as the tokens' they drown them for hundreds of steps: the loss stays at that of single tokens.
        nn.init.normal_(self.positions.weight, std=0.1 * embed_dim**-0.5)

    def forward(self, tokens: Tensor, start: int) -> Tensor:
        """tokens: (b, n), the first of them at position ``start``.  Returns (b, n, e)."""
        stop, allowed = start + tokens.shape[1], self.positions.num_embeddings
        if stop > allowed:
            raise ValueError(f"{stop} tokens: the learned positions end at {allowed}")
        return self.dropout(self.norm(self.tokens(tokens) + self.positions.weight[start:stop]))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised; the attention layer has its own dropout."""

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
        # The target's padding stands at its end, where nothing real can see it.
        x = self.self_attention_norm(x + self.self_attention(x))
        x = self.cross_attention_norm(x + self.cross_attention(x, memory, key_padding_mask=padding))
        return self.feed_forward_norm(x + self.feed_forward(x))

    def init_state(self, memory: Tensor, padding: Tensor | None) -> tuple[Any, Any]:
        return (
            self.self_attention.init_state(memory.shape[0]),
            self.cross_attention.init_cross(memory, key_padding_mask=padding),
        )

    def extend(self, x: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        own, cross = state
        out, own = self.self_attention.extend(x, own)
        x = self.self_attention_norm(x + out)
        out, cross = self.cross_attention.read(x, cross)
        x = self.cross_attention_norm(x + out)
        return self.feed_forward_norm(x + self.feed_forward(x)), (own, cross)

    def select(self, state: tuple[Any, Any], rows: Tensor) -> tuple[Any, Any]:
        own, cross = state
        return self.self_attention.select(own, rows), self.cross_attention.select(cross, rows)

    def state_bytes(self, state: tuple[Any, Any]) -> int:
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
        return self.dropout(self.contract(F.gelu(self.expand(x))))
