"""Informer (Zhou et al., AAAI 2021, arXiv 2012.07436): encoder with distilling, decoder that gives all steps at once.

The published code differs from its description in two faults, which are options here and off by default: ``circular``
convolutions join the two ends of the series and look ahead in the decoder, and ``mix`` interleaves heads and time behind
the decoder's self-attention.  With both off, step t of the decoder depends only on its inputs up to t.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.interface import AttentionFactory

CALM = 1e-2  # added to a window's variance, in units of the training part's: a column at rest is not blown up


class Informer(nn.Module):
    """Forecasts pred_len steps of num_columns columns from seq_len steps.

    attention_for  makes the attention layers: noncausal_self in the encoder, causal_self and noncausal_cross in the
                   decoder
    label_len      the decoder sees so many last steps of the history before the steps to forecast
    distil         halves the sequence between encoder layers
    mix, circular  the faults of the published code, explained above
    window_norm    each column of a window is shifted and scaled by its history's mean and deviation, and the forecast is
                   shifted and scaled back (Kim et al., ICLR 2022, without their learned factors)
    """

    def __init__(
        self,
        num_columns: int,
        num_time_features: int,
        *,
        attention_for: AttentionFactory,
        seq_len: int,
        label_len: int,
        pred_len: int,
        embed_dim: int = 512,
        num_heads: int = 8,
        num_encoder_layers: int = 2,
        num_decoder_layers: int = 1,
        feed_forward_dim: int = 2048,
        dropout: float = 0.05,
        distil: bool = True,
        mix: bool = False,
        circular: bool = False,
        window_norm: bool = False,
    ) -> None:
        super().__init__()
        self.label_len, self.pred_len, self.window_norm = label_len, pred_len, window_norm
        decoder_len = label_len + pred_len
        embedding = (num_columns, num_time_features, embed_dim)
        self.encoder_embedding = SeriesEmbedding(*embedding, length=seq_len, dropout=dropout, circular=circular)
        self.decoder_embedding = SeriesEmbedding(
            *embedding, length=decoder_len, dropout=dropout, circular=circular, causal=True
        )
        sizes: dict[str, Any] = {"embed_dim": embed_dim, "num_heads": num_heads, "dropout": dropout}
        self.encoder = nn.ModuleList()
        source_len = seq_len
        for layer in range(num_encoder_layers):
            attention = attention_for("noncausal_self", max_length=source_len, **sizes)
            self.encoder.append(EncoderLayer(attention, embed_dim, feed_forward_dim, dropout))
            if distil and layer < num_encoder_layers - 1:
                self.encoder.append(Distilling(embed_dim, circular=circular))
                source_len = (source_len + 1) // 2
        self.encoder_norm = nn.LayerNorm(embed_dim)
        self.decoder = nn.ModuleList()
        for _ in range(num_decoder_layers):
            self_attention = attention_for("causal_self", max_length=decoder_len, **sizes)
            if mix:
                self_attention.get_submodule("attention").register_forward_hook(mix_heads)
            cross_attention = attention_for("noncausal_cross", max_length=max(decoder_len, source_len), **sizes)
            self.decoder.append(DecoderLayer(self_attention, cross_attention, embed_dim, feed_forward_dim, dropout))
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.projection = nn.Linear(embed_dim, num_columns)

    def forward(self, history: Tensor, history_times: Tensor, decoder_times: Tensor) -> Tensor:
        """The forecast, (batch, pred_len, columns).

        history: (batch, seq_len, columns).  history_times: (batch, seq_len, time features).
        decoder_times: (batch, label_len + pred_len, time features).
        """
        if self.window_norm:
            mean, scale = history.mean(1, keepdim=True), (history.var(1, correction=0, keepdim=True) + CALM).sqrt()
            return self._forecast((history - mean) / scale, history_times, decoder_times) * scale + mean
        return self._forecast(history, history_times, decoder_times)

    def _forecast(self, history: Tensor, history_times: Tensor, decoder_times: Tensor) -> Tensor:
        x = self.encoder_embedding(history, history_times)
        for layer in self.encoder:
            x = layer(x)
        source = self.encoder_norm(x)  # (b, m, e)
        known = history[:, history.shape[1] - self.label_len :]
        unknown = known.new_zeros(len(known), self.pred_len, known.shape[2])  # 0 is the mean
        x = self.decoder_embedding(torch.cat((known, unknown), dim=1), decoder_times)
        for layer in self.decoder:
            x = layer(x, source)
        return self.projection(self.decoder_norm(x))[:, -self.pred_len :]


class SeriesEmbedding(nn.Module):
    """A convolution of width 3 over the values, plus sinusoidal positions, plus a linear map of the time features.

    causal  the convolution sees t - 2, t - 1, t instead of t - 1, t, t + 1
    """

    positions: Tensor

    def __init__(
        self,
        num_columns: int,
        num_time_features: int,
        embed_dim: int,
        *,
        length: int,
        dropout: float,
        circular: bool,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.values = Convolution(num_columns, embed_dim, circular=circular, causal=causal)
        nn.init.kaiming_normal_(self.values.convolution.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.times = nn.Linear(num_time_features, embed_dim)
        self.register_buffer("positions", sinusoids(length, embed_dim), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, times: Tensor) -> Tensor:
        """values: (b, n, columns).  times: (b, n, time features).  Returns (b, n, e)."""
        return self.dropout(self.values(values) + self.positions[: values.shape[1]] + self.times(times))


class Convolution(nn.Module):
    """A convolution of width 3 along time that keeps the length.

    Both ends are padded with their own value or, if circular, with the value of the other end.  If causal and not
    circular, only the beginning is padded.
    """

    def __init__(self, in_dim: int, out_dim: int, *, circular: bool, causal: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(in_dim, out_dim, kernel_size=3)
        self.padding = (1, 1) if circular or not causal else (2, 0)
        self.mode = "circular" if circular else "replicate"

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, n, in_dim).  Returns (b, n, out_dim)."""
        padded = F.pad(x.transpose(1, 2), self.padding, mode=self.mode)
        return self.convolution(padded).transpose(1, 2)


class Distilling(nn.Module):
    """Halves a sequence: convolution, batch norm, ELU, max-pooling of stride 2."""

    def __init__(self, embed_dim: int, *, circular: bool) -> None:
        super().__init__()
        self.convolution = Convolution(embed_dim, embed_dim, circular=circular)
        self.norm = nn.BatchNorm1d(embed_dim)
        self.pool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, e) -> (b, ceil(n / 2), e)"""
        x = self.convolution(x).transpose(1, 2)  # (b, e, n)
        return self.pool(F.elu(self.norm(x))).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with GELU between them; the published code writes them as 1 x 1 convolutions."""

    def __init__(self, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(embed_dim, feed_forward_dim), nn.Linear(feed_forward_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, e) -> (b, n, e)"""
        return self.dropout(self.down(self.dropout(F.gelu(self.up(x)))))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised; dropout of the attention is in its own layer."""

    def __init__(self, attention: nn.Module, embed_dim: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, m, e) -> (b, m, e)"""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder and feed-forward, each added and then normalised."""

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        embed_dim: int,
        feed_forward_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.feed_forward = FeedForward(embed_dim, feed_forward_dim, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(embed_dim) for _ in range(3))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x: (b, n, e).  source: (b, m, e), what the encoder gave.  Returns (b, n, e)."""
        x = self.norm1(x + self.self_attention(x))
        x = self.norm2(x + self.cross_attention(x, source))
        return self.norm3(x + self.feed_forward(x))


def mix_heads(_attention: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
    """The published ``mix``, as a forward hook on an attention: its output (b, h, n, d) is read as if it were (b, n, h d).

    Row t of the result then contains other times than t, so the self-attention is no longer causal.  With a hook, the
    attention and the output projection around it need no change.
    """
    b, h, n, d = out.shape
    return rearrange(out.reshape(b, n, h * d), "b n (h d) -> b h n d", h=h)


def sinusoids(length: int, embed_dim: int) -> Tensor:
    """Positions: sin and cos of t / 10,000^(2i / embed_dim) in turn.  float32 (length, embed_dim)"""
    frequencies = 10_000.0 ** (-torch.arange(0, embed_dim, 2, dtype=torch.float64) / embed_dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()
