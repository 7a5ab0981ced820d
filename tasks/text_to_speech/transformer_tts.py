"""Transformer-TTS (Li et al., 2019, arXiv 1809.08895) with fairseq's sizes.

It makes the frames in groups, one group after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import AttentionFactory
from tasks.text_to_speech.backbone import SpeechBatch, Synthesis, TeachingLoss
from tasks.text_to_speech.layers import ConvolutionStack, ScaledPositions, mean_by_row, padding_mask, without_padding
from tasks.text_to_speech.text import PADDING_ID

PRENET_DROPOUT = 0.5  # as published, also in evaluation
STOP_WEIGHT = 5.0  # of the one step that stops, as published


class Taught(NamedTuple):
    """The output of teacher forcing."""

    before: Tensor  # (b, n, num_mels), standardised, before the postnet
    after: Tensor  # (b, n, num_mels)
    stop: Tensor  # (b, steps) logits of "this step is the last"


class Generated(NamedTuple):
    """The output of free running."""

    mel: Tensor  # (b, n, num_mels), standardised, zeros behind the end of each row
    num_frames: Tensor  # (b,)
    stopped: Tensor  # (b,) bool: False if a bound on the length ended the row


class TransformerTTS(nn.Module):
    """Text to log-mel frames, step by step; a ``Backbone``.

    attention_for          makes the attention layers: noncausal_self in the encoder, causal_self and causal_cross in the
                           decoder
    max_symbols            the longest text
    max_frames             the longest utterance; generation ends there
    max_frames_per_symbol  ``synthesise`` ends a text after so many frames for each of its symbols; None: at max_frames
    num_frames_per_step    frames of a group
    source_rate            decoder steps that a symbol counts in the encoder's positions; 1 as published
    diagonal_start         True: queries and keys of the cross-attention start with the same projection, so that equal
                           positions of text and speech match from the start (Deep Voice 3, arXiv 1710.07654); the periods
                           of the sinusoids go no further than the longest utterance, and their scale starts at 2.
                           False as published
    """

    has_alignment = True

    def __init__(
        self,
        num_symbols: int,
        num_mels: int,
        *,
        attention_for: AttentionFactory,
        max_symbols: int,
        max_frames: int,
        max_frames_per_symbol: float | None = None,
        num_frames_per_step: int = 4,
        source_rate: float = 1.0,
        diagonal_start: bool = False,
        embed_dim: int = 512,
        num_heads: int = 4,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        feed_forward_dim: int = 2048,
        encoder_prenet_layers: int = 3,
        prenet_dim: int = 256,
        postnet_dim: int = 512,
        postnet_layers: int = 5,
        kernel_size: int = 5,
        convolution_dropout: float = 0.5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_mels, self.num_frames_per_step = num_mels, num_frames_per_step
        self.max_steps = -(-max_frames // num_frames_per_step)
        self.max_frames_per_symbol = max_frames_per_symbol
        # Most of the published sinusoids hardly change over a few hundred steps.
        positions = {"longest": float(self.max_steps), "scale": 2.0} if diagonal_start else {}
        self.embedding = nn.Embedding(num_symbols, embed_dim, padding_idx=PADDING_ID)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        nn.init.zeros_(self.embedding.weight[PADDING_ID])
        self.encoder_prenet = ConvolutionStack(
            [embed_dim] * (encoder_prenet_layers + 1), kernel_size, convolution_dropout, activation="relu", last=True
        )
        self.encoder_projection = nn.Linear(embed_dim, embed_dim)
        self.encoder_positions = ScaledPositions(embed_dim, max_symbols, rate=source_rate, **positions)
        sizes: dict[str, Any] = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": dropout}
        self.encoder = nn.ModuleList(
            EncoderLayer(
                attention_for("noncausal_self", max_length=max_symbols, **sizes), embed_dim, feed_forward_dim, dropout
            )
            for _ in range(num_encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(embed_dim)
        group_dim = num_mels * num_frames_per_step
        self.prenet = Prenet(group_dim, prenet_dim)
        self.decoder_projection = nn.Linear(prenet_dim, embed_dim)
        self.decoder_positions = ScaledPositions(embed_dim, self.max_steps, **positions)
        longest = max(max_symbols, self.max_steps)
        self.decoder: Sequence[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(
                attention_for("causal_self", max_length=self.max_steps, **sizes),
                attention_for("causal_cross", max_length=longest, **sizes),
                embed_dim,
                feed_forward_dim,
                dropout,
            )
            for _ in range(num_decoder_layers)
        )
        if diagonal_start:
            for layer in self.decoder:
                layer.start_on_the_diagonal()
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.mel_projection = nn.Linear(embed_dim, group_dim)
        self.stop_projection = nn.Linear(embed_dim, 1)
        self.postnet = ConvolutionStack(
            [group_dim, *[postnet_dim] * (postnet_layers - 1), group_dim],
            kernel_size,
            convolution_dropout,
            activation="tanh",
            last=False,
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, symbols: Tensor, num_symbols: Tensor, mel: Tensor, num_frames: Tensor, seeds: Tensor | None = None
    ) -> Taught:
        """Teacher forcing: each step reads the true frames before it.

        symbols: (b, m) int64.  mel: (b, n, num_mels), standardised.  num_symbols, num_frames: (b,).
        seeds: (b,) int64, of each row's prenet dropout; None draws from torch's global generator, as in training.
        """
        source, no_symbol = self.encode(symbols, num_symbols)
        groups = self.group(mel, num_frames)
        steps = groups.shape[1]
        before_first = F.pad(groups, (0, 0, 1, 0))[:, :-1]
        keep = None if seeds is None else self.prenet.draws(seeds, self.max_steps)[:, :steps]
        x = self._embed(before_first, 0, keep)
        for layer in self.decoder:
            x = layer(x, source, no_symbol)
        x = self.decoder_norm(x)
        padded = padding_mask(num_frames, mel.shape[1])
        before = without_padding(self._ungroup(self.mel_projection(x))[:, : mel.shape[1]], padded)
        return Taught(before, self.polish(before, num_frames), self.stop_projection(x)[:, :, 0])

    def teaching_loss(self, batch: SpeechBatch, seeds: Tensor | None = None) -> TeachingLoss:
        """L1 and squared error before and after the postnet, and cross-entropy of the stop flag, each a mean."""
        taught = self(batch.symbols, batch.num_symbols, batch.mel, batch.num_frames, seeds)
        no_frame = padding_mask(batch.num_frames, batch.mel.shape[1])
        loss = torch.zeros(len(batch.mel), device=batch.mel.device)
        for found in (taught.before, taught.after):
            difference = found.float() - batch.mel
            loss = loss + mean_by_row(difference.abs() + difference.square(), no_frame)
        error = mean_by_row((taught.after.float() - batch.mel).abs(), no_frame)
        num_steps = -(-batch.num_frames // self.num_frames_per_step)
        steps = torch.arange(taught.stop.shape[1], device=batch.mel.device)
        stops = (steps == num_steps[:, None] - 1).float()
        weight = torch.tensor(STOP_WEIGHT, device=batch.mel.device)
        nats = F.binary_cross_entropy_with_logits(taught.stop.float(), stops, pos_weight=weight, reduction="none")
        return TeachingLoss(loss + mean_by_row(nats, steps >= num_steps[:, None]), error)

    def synthesise(self, batch: SpeechBatch) -> list[Synthesis]:
        """The speech of each text of the batch, standardised; all texts together, because each step needs a pass."""
        most_frames = None
        if self.max_frames_per_symbol is not None:
            most_frames = (batch.num_symbols * self.max_frames_per_symbol).ceil().long()
        made = self.generate(batch.symbols, batch.num_symbols, batch.numbers, most_frames)
        ends = zip(made.mel, made.num_frames.tolist(), made.stopped.tolist(), strict=True)
        return [Synthesis(mel[:count], stopped) for mel, count, stopped in ends]

    @torch.no_grad()
    def generate(
        self, symbols: Tensor, num_symbols: Tensor, seeds: Tensor, most_frames: Tensor | None = None
    ) -> Generated:
        """Free running through the attentions' states: each row ends when it stops, or at its most frames.

        most_frames: (b,), never more than max_frames; None: max_frames.
        seeds: (b,) int64, of each row's prenet dropout, so that its draws don't depend on the batch around it.
        """
        source, no_symbol = self.encode(symbols, num_symbols)
        layers: list[Any] = list(self.decoder)  # nn.ModuleList's own type knows no methods
        states = [layer.init_states(source, no_symbol) for layer in layers]
        keep = self.prenet.draws(seeds, self.max_steps)
        group = source.new_zeros(len(source), 1, self.num_mels * self.num_frames_per_step)
        num_steps = torch.full((len(source),), self.max_steps, device=source.device)
        if most_frames is not None:
            num_steps = torch.minimum(num_steps, -(-most_frames // self.num_frames_per_step)).clamp_min(1)
        stopped = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        groups = []
        for step in range(self.max_steps):
            x = self._embed(group, step, keep[:, step : step + 1])
            for number, layer in enumerate(layers):
                x, states[number] = layer.step(x, states[number])
            x = self.decoder_norm(x)
            group = self.mel_projection(x)
            groups.append(group)
            # A logit above 0 is a probability above one half.  A row that its bound has ended can't stop any more.
            ends = (self.stop_projection(x)[:, 0, 0] > 0) & ~stopped & (step < num_steps)
            num_steps[ends] = step + 1
            stopped |= ends
            if bool((num_steps <= step + 1).all()):
                break
        num_frames = num_steps * self.num_frames_per_step
        mel = self._ungroup(torch.cat(groups, 1))
        mel = without_padding(mel, padding_mask(num_frames, mel.shape[1]))
        return Generated(self.polish(mel, num_frames), num_frames, stopped)

    def encode(self, symbols: Tensor, num_symbols: Tensor) -> tuple[Tensor, Tensor]:
        """The encoded text (b, m, e), and its padding mask (b, m).  symbols: (b, m) int64.  num_symbols: (b,)."""
        padded = padding_mask(num_symbols, symbols.shape[1])
        x = self.encoder_projection(self.encoder_prenet(self.embedding(symbols), padded))
        x = self.dropout(x + self.encoder_positions(0, symbols.shape[1]))
        for layer in self.encoder:
            x = layer(x, padded)
        return self.encoder_norm(x), padded

    def polish(self, before: Tensor, num_frames: Tensor) -> Tensor:
        """Adds the postnet, which reads the groups of the whole utterance.  before: (b, n, num_mels), as the result."""
        groups = self.group(before, num_frames)
        num_steps = -(-num_frames // self.num_frames_per_step)
        residual = self._ungroup(self.postnet(groups, padding_mask(num_steps, groups.shape[1])))[:, : before.shape[1]]
        return without_padding(before + residual, padding_mask(num_frames, before.shape[1]))

    def group(self, mel: Tensor, num_frames: Tensor) -> Tensor:
        """Frames to groups: (b, n, num_mels) -> (b, steps, num_frames_per_step * num_mels), zeros behind the end."""
        mel = without_padding(mel, padding_mask(num_frames, mel.shape[1]))
        missing = -mel.shape[1] % self.num_frames_per_step
        return F.pad(mel, (0, 0, 0, missing)).unflatten(1, (-1, self.num_frames_per_step)).flatten(2)

    def _ungroup(self, groups: Tensor) -> Tensor:
        return groups.unflatten(2, (self.num_frames_per_step, self.num_mels)).flatten(1, 2)

    def _embed(self, groups: Tensor, first: int, keep: Tensor | None) -> Tensor:
        """The decoder's input of groups from step ``first`` on.  keep: as in ``Prenet.forward``."""
        x = self.decoder_projection(self.prenet(groups, keep))
        return self.dropout(x + self.decoder_positions(first, groups.shape[1]))


class Prenet(nn.Module):
    """Two layers with ReLU, and dropout in training and in evaluation."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim)])
        self.hidden_dim = hidden_dim

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """x: (b, n, in_dim).  Returns (b, n, hidden_dim).

        keep: bool (b, n, 2, hidden_dim), the units of both layers that stay; None draws them from torch's global generator.
        """
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            if keep is None:
                x = F.dropout(x, PRENET_DROPOUT, training=True)
            else:
                x = x * keep[:, :, number] / (1 - PRENET_DROPOUT)
        return x

    def draws(self, seeds: Tensor, num_steps: int) -> Tensor:
        """The units that stay; each row has a generator of its own.  seeds: (b,).

        Returns bool (b, num_steps, 2, hidden_dim).
        """
        rows = [
            torch.rand(num_steps, 2, self.hidden_dim, generator=torch.Generator().manual_seed(seed)) >= PRENET_DROPOUT
            for seed in seeds.tolist()
        ]
        return torch.stack(rows).to(seeds.device)


class FeedForward(nn.Module):
    """Two linear maps with ReLU between them, each followed by dropout."""

    def __init__(self, embed_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(embed_dim, hidden_dim), nn.Linear(hidden_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, embed_dim) -> (b, n, embed_dim)"""
        return self.dropout(self.down(self.dropout(F.relu(self.up(x)))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward; each reads its normalised input and is added to it."""

    def __init__(self, attention: nn.Module, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (b, m, e).  padded: bool (b, m).  Returns (b, m, e)."""
        x = x + self.attention(self.norm1(x), key_padding_mask=padded)
        return x + self.feed_forward(self.norm2(x))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward; each reads its normalised input and is added to it."""

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
        self.cross_attention: Any = cross_attention
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(embed_dim) for _ in range(3))

    def forward(self, x: Tensor, source: Tensor, no_symbol: Tensor) -> Tensor:
        """x: (b, steps, e).  source: (b, m, e).  no_symbol: bool (b, m).  Returns (b, steps, e).

        Padded steps need no mask: they lie behind the real ones, which can't see them.
        """
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), source, key_padding_mask=no_symbol)
        return x + self.feed_forward(self.norm3(x))

    @torch.no_grad()
    def start_on_the_diagonal(self) -> None:
        """Gives the keys the projection of the queries, so that equal positions match from the start."""
        self.cross_attention.k_proj.weight.copy_(self.cross_attention.q_proj.weight)

    def init_states(self, source: Tensor, no_symbol: Tensor) -> tuple[Any, Any]:
        """The states of self- and cross-attention after the source, before the first step.

        source: (b, m, e).  no_symbol: bool (b, m).
        """
        own = self.self_attention.init_state(len(source), device=source.device, dtype=source.dtype)
        return own, self.cross_attention.init_cross(source, key_padding_mask=no_symbol)

    def step(self, x: Tensor, states: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        """One more step.  x: (b, 1, e).  Returns (b, 1, e), and the states after it."""
        out, own = self.self_attention.extend(self.norm1(x), states[0])
        x = x + out
        out, cross = self.cross_attention.read(self.norm2(x), states[1])
        x = x + out
        return x + self.feed_forward(self.norm3(x)), (own, cross)
