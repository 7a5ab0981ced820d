"""FastSpeech 2 (Ren et al., 2021, arXiv 2006.04558) with fairseq's sizes: all frames at once, from predicted durations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import AttentionFactory
from tasks.text_to_speech.aligner import Aligner, best_durations, forward_sum
from tasks.text_to_speech.layers import Convolution, ScaledPositions, padding_mask, without_padding
from tasks.text_to_speech.text import PADDING_ID


class Truth(NamedTuple):
    """What training gives the model besides the text; frames are padded with zeros."""

    mel: Tensor  # (b, n, num_mels), standardised
    num_frames: Tensor  # (b,)
    pitch: Tensor  # (b, n) Hz
    energy: Tensor  # (b, n)
    durations: Tensor  # (b, m) frames; not read where the model has an aligner


class Scale(NamedTuple):
    """Of ln(pitch + 1) or ln(energy + 1) of the training part's frames."""

    mean: float
    deviation: float
    lowest: float  # standardised
    highest: float


class Spoken(NamedTuple):
    """Output of FastSpeech 2."""

    mel: Tensor  # (b, n, num_mels), standardised
    num_frames: Tensor  # (b,)
    log_durations: Tensor  # (b, m) predicted, ln(frames + 1)
    pitch: Tensor  # (b, m) predicted, standardised
    energy: Tensor  # (b, m) predicted, standardised
    stopped: Tensor  # (b,) bool: False where the predicted durations exceed max_frames


class Targets(NamedTuple):
    """What the variance predictors should say, symbol by symbol, and the aligner's loss by row (None without one)."""

    durations: Tensor  # (b, m) frames
    pitch: Tensor  # (b, m) standardised
    energy: Tensor  # (b, m) standardised
    alignment: Tensor | None  # (b,)


class FastSpeech2(nn.Module):
    """Text to log-mel frames.

    attention_for  makes the attention layers: noncausal_self in encoder and decoder
    max_symbols    longest text; max_frames: longest utterance, where synthesis is stopped
    pitch, energy  scales of the training part
    with_aligner   durations are found by an aligner that is learned with the model
    """

    def __init__(
        self,
        num_symbols: int,
        num_mels: int,
        *,
        attention_for: AttentionFactory,
        max_symbols: int,
        max_frames: int,
        pitch: Scale,
        energy: Scale,
        with_aligner: bool,
        embed_dim: int = 256,
        num_heads: int = 2,
        num_encoder_layers: int = 4,
        num_decoder_layers: int = 4,
        feed_forward_dim: int = 1024,
        kernel_sizes: tuple[int, int] = (9, 9),
        predictor_dim: int = 256,
        predictor_kernel_size: int = 3,
        predictor_dropout: float = 0.5,
        num_bins: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.max_frames = max_frames
        self.embedding = nn.Embedding(num_symbols, embed_dim, padding_idx=PADDING_ID)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        nn.init.zeros_(self.embedding.weight[PADDING_ID])
        self.encoder_positions = ScaledPositions(embed_dim, max_symbols)
        self.decoder_positions = ScaledPositions(embed_dim, max_frames)

        def blocks(count: int, max_length: int) -> nn.ModuleList:
            return nn.ModuleList(
                TransformerBlock(
                    attention_for(
                        "noncausal_self",
                        embed_dim=embed_dim,
                        num_heads=num_heads,
                        max_length=max_length,
                        dropout=dropout,
                    ),
                    embed_dim,
                    feed_forward_dim,
                    kernel_sizes,
                    dropout,
                )
                for _ in range(count)
            )

        self.encoder = blocks(num_encoder_layers, max_symbols)
        self.decoder = blocks(num_decoder_layers, max_frames)
        sizes = (embed_dim, predictor_dim, predictor_kernel_size, predictor_dropout)
        self.duration_predictor = VariancePredictor(*sizes)
        self.pitch_predictor, self.energy_predictor = VariancePredictor(*sizes), VariancePredictor(*sizes)
        self.pitch_embedding = QuantisedEmbedding(pitch, num_bins, embed_dim)
        self.energy_embedding = QuantisedEmbedding(energy, num_bins, embed_dim)
        self.aligner = Aligner(embed_dim, num_mels) if with_aligner else None
        self.projection = nn.Linear(embed_dim, num_mels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, symbols: Tensor, num_symbols: Tensor) -> Spoken:
        """Synthesis from the predicted durations, pitch and energy.  symbols: (b, m) int64.  num_symbols: (b,)."""
        x, padded = self._encode(symbols, num_symbols)
        log_durations = self.duration_predictor(x, padded)
        durations = (log_durations.exp() - 1).round().clamp(0, self.max_frames).long().masked_fill(padded, 0)
        # An utterance has at least one frame, and at most max_frames.
        durations[:, 0] += durations.sum(1) == 0
        ends = durations.cumsum(1)
        durations = ends.clamp_max(self.max_frames).diff(dim=1, prepend=ends.new_zeros(len(ends), 1))
        pitch = self.pitch_predictor(x, padded)
        x = x + self.pitch_embedding(pitch)
        energy = self.energy_predictor(x, padded)
        x = x + self.energy_embedding(energy)
        mel, num_frames = self._decode(x, durations)
        return Spoken(mel, num_frames, log_durations, pitch, energy, ends[:, -1] <= self.max_frames)

    def teach(self, symbols: Tensor, num_symbols: Tensor, truth: Truth) -> tuple[Spoken, Targets]:
        """As in training: durations, pitch and energy of the truth are given, and predicted beside it."""
        x, padded = self._encode(symbols, num_symbols)
        durations, alignment = truth.durations, None
        if self.aligner is not None:
            # The aligner reads embeddings and frames alone, so that it can't be served by what attends.
            scores = self.aligner(self.embedding(symbols), truth.mel, num_symbols, truth.num_frames)
            durations = best_durations(scores, num_symbols, truth.num_frames)
            alignment = forward_sum(scores, num_symbols, truth.num_frames)
        # A symbol without frames has no pitch: the mean, 0, stands for it.
        pitch, energy = (
            embedding.standardise(mean_by_symbol(values, durations)).masked_fill(durations == 0, 0.0)
            for embedding, values in ((self.pitch_embedding, truth.pitch), (self.energy_embedding, truth.energy))
        )
        log_durations = self.duration_predictor(x, padded)
        predicted_pitch = self.pitch_predictor(x, padded)
        x = x + self.pitch_embedding(pitch)
        predicted_energy = self.energy_predictor(x, padded)
        x = x + self.energy_embedding(energy)
        mel, num_frames = self._decode(x, durations, truth.mel.shape[1])
        stopped = torch.ones_like(num_frames, dtype=torch.bool)
        spoken = Spoken(mel, num_frames, log_durations, predicted_pitch, predicted_energy, stopped)
        return spoken, Targets(durations, pitch, energy, alignment)

    def _encode(self, symbols: Tensor, num_symbols: Tensor) -> tuple[Tensor, Tensor]:
        padded = padding_mask(num_symbols, symbols.shape[1])
        scale = self.embedding.embedding_dim**0.5
        x = self.dropout(scale * self.embedding(symbols) + self.encoder_positions(0, symbols.shape[1]))
        for block in self.encoder:
            x = block(x, padded)
        return x, padded

    def _decode(self, x: Tensor, durations: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """x: (b, m, e).  Returns (b, n, num_mels), zeros where padded, and the number of frames (b,).

        length: n, that of the longest row where left out.
        """
        x, num_frames = regulate_length(x, durations, length)
        padded = padding_mask(num_frames, x.shape[1])
        x = self.dropout(x + self.decoder_positions(0, x.shape[1]))
        for block in self.decoder:
            x = block(x, padded)
        return without_padding(self.projection(x), padded), num_frames


def regulate_length(x: Tensor, durations: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Each symbol as often as it has frames.  x: (b, m, e); durations: (b, m).  Returns (b, n, e), zeros behind, and (b,)."""
    ends = durations.cumsum(1)
    num_frames = ends[:, -1]
    frames = torch.arange(length or int(num_frames.max()), device=x.device).expand(len(x), -1).contiguous()
    symbol = torch.searchsorted(ends, frames, right=True).clamp_max(x.shape[1] - 1)
    repeated = x.gather(1, symbol[:, :, None].expand(-1, -1, x.shape[2]))
    return without_padding(repeated, padding_mask(num_frames, frames.shape[1])), num_frames


def mean_by_symbol(values: Tensor, durations: Tensor) -> Tensor:
    """Mean over each symbol's frames, 0 for a symbol without any.  values: (b, n); durations: (b, m).  Returns (b, m)."""
    sums = F.pad(values.double().cumsum(1), (1, 0))  # double: a difference of long sums
    ends = durations.cumsum(1)
    total = sums.gather(1, ends) - sums.gather(1, ends - durations)
    return (total / durations.clamp_min(1)).to(values.dtype)


class TransformerBlock(nn.Module):
    """Attention, then two convolutions, each added and then normalised."""

    def __init__(
        self,
        attention: nn.Module,
        embed_dim: int,
        feed_forward_dim: int,
        kernel_sizes: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.up = Convolution(embed_dim, feed_forward_dim, kernel_sizes[0])
        self.down = Convolution(feed_forward_dim, embed_dim, kernel_sizes[1])
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (b, n, e).  padded: (b, n)"""
        x = self.norm1(x + self.attention(x, key_padding_mask=padded))
        return self.norm2(x + self.dropout(self.down(self.dropout(F.relu(self.up(x, padded))), padded)))


class VariancePredictor(nn.Module):
    """One number a symbol: two convolutions, each with ReLU, layer norm and dropout."""

    def __init__(self, embed_dim: int, hidden_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = (
            Convolution(embed_dim, hidden_dim, kernel_size),
            Convolution(hidden_dim, hidden_dim, kernel_size),
        )
        self.norm1, self.norm2 = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.projection = nn.Linear(hidden_dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (b, m, e).  Returns (b, m)."""
        x = self.dropout(self.norm1(F.relu(self.first(x, padded))))
        x = self.dropout(self.norm2(F.relu(self.second(x, padded))))
        return self.projection(x)[:, :, 0]


class QuantisedEmbedding(nn.Module):
    """A standardised value by linear bins between the training part's extremes."""

    edges: Tensor

    def __init__(self, scale: Scale, num_bins: int, embed_dim: int) -> None:
        super().__init__()
        self.scale = scale
        edges = torch.linspace(scale.lowest, scale.highest, num_bins + 1)[1:-1]
        self.register_buffer("edges", edges, persistent=False)
        self.embedding = nn.Embedding(num_bins, embed_dim)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)

    def standardise(self, values: Tensor) -> Tensor:
        """Of Hz or energies."""
        return (values.log1p() - self.scale.mean) / self.scale.deviation

    def forward(self, values: Tensor) -> Tensor:
        """values: (b, m), standardised.  Returns (b, m, e)."""
        return self.embedding(torch.bucketize(values.float(), self.edges))
