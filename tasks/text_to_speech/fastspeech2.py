"""FastSpeech 2 (Ren et al., 2021, arXiv 2006.04558) with fairseq's sizes.

It predicts how many frames each symbol has, and then makes all frames at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import AttentionFactory
from tasks.text_to_speech.aligner import Aligner, best_durations, forward_sum
from tasks.text_to_speech.backbone import SpeechBatch, Synthesis, TeachingLoss
from tasks.text_to_speech.layers import Convolution, ScaledPositions, mean_by_row, padding_mask, without_padding
from tasks.text_to_speech.text import PADDING_ID


class Scale(NamedTuple):
    """The distribution of ln(pitch + 1), or of ln(energy + 1), over the frames of the training part."""

    mean: float
    deviation: float
    lowest: float  # standardised
    highest: float


class Spoken(NamedTuple):
    """The output of FastSpeech 2; frames are zeros where padded."""

    mel: Tensor  # (b, n, num_mels), standardised
    num_frames: Tensor  # (b,)
    log_durations: Tensor  # (b, m) predicted, ln(frames + 1)
    pitch: Tensor  # (b, m) predicted, standardised
    energy: Tensor  # (b, m) predicted, standardised
    stopped: Tensor  # (b,) bool: False if the predicted durations exceed max_frames


class Targets(NamedTuple):
    """The targets of the variance predictors, symbol by symbol, and the aligner's loss."""

    durations: Tensor  # (b, m) frames
    pitch: Tensor  # (b, m) standardised
    energy: Tensor  # (b, m) standardised
    alignment: Tensor | None  # (b,) the aligner's loss; None without an aligner


class FastSpeech2(nn.Module):
    """Text to log-mel frames; a ``Backbone``.

    attention_for  makes the attention layers: noncausal_self in encoder and decoder
    max_symbols    the longest text
    max_frames     the longest utterance; synthesis ends there
    pitch, energy  their scales on the training part
    with_aligner   True: an aligner, learned with the model, finds the durations
    """

    has_alignment = False

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
        """Speaks texts, from the predicted durations, pitch and energy.  symbols: (b, m) int64.  num_symbols: (b,)."""
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

    def synthesise(self, batch: SpeechBatch) -> list[Synthesis]:
        """The speech of each text of the batch, standardised.

        The texts are spoken one by one: within a batch the last bits of a frame depend on the other rows, and Griffin-Lim makes
        these bits audible where a spectrogram is silent.
        """
        lengths = zip(batch.symbols, batch.num_symbols, strict=True)
        spoken = [self(row[None, : int(length)], length[None]) for row, length in lengths]
        return [Synthesis(one.mel[0], bool(one.stopped[0])) for one in spoken]

    def teaching_loss(self, batch: SpeechBatch, seeds: Tensor | None = None) -> TeachingLoss:
        """L1 of the frames, squared errors of ln(duration + 1), pitch and energy, and the aligner's loss, each a mean."""
        del seeds  # no dropout of this model stays on in evaluation
        spoken, targets = self.teach(batch)
        no_symbol = padding_mask(batch.num_symbols, batch.symbols.shape[1])
        no_frame = padding_mask(batch.num_frames, batch.mel.shape[1])
        error = mean_by_row((spoken.mel.float() - batch.mel).abs(), no_frame)
        loss = error
        for found, wanted in (
            (spoken.log_durations, targets.durations.float().log1p()),
            (spoken.pitch, targets.pitch),
            (spoken.energy, targets.energy),
        ):
            loss = loss + mean_by_row((found.float() - wanted).square(), no_symbol)
        return TeachingLoss(loss if targets.alignment is None else loss + targets.alignment, error)

    def teach(self, batch: SpeechBatch) -> tuple[Spoken, Targets]:
        """Speaks with the true durations, pitch and energy, and predicts them besides, as in training."""
        symbols, num_symbols = batch.symbols, batch.num_symbols
        x, padded = self._encode(symbols, num_symbols)
        durations, alignment = batch.durations, None
        if self.aligner is not None:
            # The aligner reads embeddings and frames alone, so the attention under test has no part in the durations.
            scores = self.aligner(self.embedding(symbols), batch.mel, num_symbols, batch.num_frames)
            durations = best_durations(scores, num_symbols, batch.num_frames)
            alignment = forward_sum(scores, num_symbols, batch.num_frames)
        # A symbol without frames has no pitch; it gets the mean, which is 0.
        pitch, energy = (
            embedding.standardise(mean_by_symbol(values, durations)).masked_fill(durations == 0, 0.0)
            for embedding, values in ((self.pitch_embedding, batch.pitch), (self.energy_embedding, batch.energy))
        )
        log_durations = self.duration_predictor(x, padded)
        predicted_pitch = self.pitch_predictor(x, padded)
        x = x + self.pitch_embedding(pitch)
        predicted_energy = self.energy_predictor(x, padded)
        x = x + self.energy_embedding(energy)
        mel, num_frames = self._decode(x, durations, batch.mel.shape[1])
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

        length: n; by default that of the longest row.
        """
        x, num_frames = regulate_length(x, durations, length)
        padded = padding_mask(num_frames, x.shape[1])
        x = self.dropout(x + self.decoder_positions(0, x.shape[1]))
        for block in self.decoder:
            x = block(x, padded)
        return without_padding(self.projection(x), padded), num_frames


def regulate_length(x: Tensor, durations: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Repeats each symbol as often as it has frames.

    x: (b, m, e).  durations: (b, m).  length: n; by default that of the longest row.
    Returns (b, n, e), zeros where padded, and the number of frames (b,).
    """
    ends = durations.cumsum(1)
    num_frames = ends[:, -1]
    frames = torch.arange(length or int(num_frames.max()), device=x.device).expand(len(x), -1).contiguous()
    symbol = torch.searchsorted(ends, frames, right=True).clamp_max(x.shape[1] - 1)
    repeated = x.gather(1, symbol[:, :, None].expand(-1, -1, x.shape[2]))
    return without_padding(repeated, padding_mask(num_frames, frames.shape[1])), num_frames


def mean_by_symbol(values: Tensor, durations: Tensor) -> Tensor:
    """Mean over each symbol's frames, 0 for a symbol without any.  values: (b, n); durations: (b, m).  Returns (b, m)."""
    sums = F.pad(values.double().cumsum(1), (1, 0))  # double, because differences of long sums lose digits
    ends = durations.cumsum(1)
    total = sums.gather(1, ends) - sums.gather(1, ends - durations)
    return (total / durations.clamp_min(1)).to(values.dtype)


class TransformerBlock(nn.Module):
    """Attention, then two convolutions; each is added to its input and then normalised."""

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
        """x: (b, n, e).  padded: bool (b, n).  Returns (b, n, e)."""
        x = self.norm1(x + self.attention(x, key_padding_mask=padded))
        return self.norm2(x + self.dropout(self.down(self.dropout(F.relu(self.up(x, padded))), padded)))


class VariancePredictor(nn.Module):
    """One number for each symbol, by two convolutions, each with ReLU, layer norm and dropout."""

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
        """x: (b, m, e).  padded: bool (b, m).  Returns (b, m)."""
        x = self.dropout(self.norm1(F.relu(self.first(x, padded))))
        x = self.dropout(self.norm2(F.relu(self.second(x, padded))))
        return self.projection(x)[:, :, 0]


class QuantisedEmbedding(nn.Module):
    """Embeds a standardised value by its bin; the bins divide the range of the training part evenly."""

    edges: Tensor

    def __init__(self, scale: Scale, num_bins: int, embed_dim: int) -> None:
        super().__init__()
        self.scale = scale
        edges = torch.linspace(scale.lowest, scale.highest, num_bins + 1)[1:-1]
        self.register_buffer("edges", edges, persistent=False)
        self.embedding = nn.Embedding(num_bins, embed_dim)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)

    def standardise(self, values: Tensor) -> Tensor:
        """Standardises ln(values + 1).  values: Hz or energies."""
        return (values.log1p() - self.scale.mean) / self.scale.deviation

    def forward(self, values: Tensor) -> Tensor:
        """values: (b, m), standardised.  Returns (b, m, e)."""
        return self.embedding(torch.bucketize(values.float(), self.edges))
