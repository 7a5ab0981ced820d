"""Durations without an external aligner, learned with the model (Badlani et al., 2021, arXiv 2108.10447).

A convolutional network scores every pair of a frame and a symbol.  Training raises the total probability of all monotonic
alignments: the forward sum, which is CTC without blanks.  The single best alignment gives the durations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.text_to_speech.layers import Convolution, padding_mask

TEMPERATURE = 0.0005
BLANK = -1.0  # score of CTC's blank, which no frame should choose
NEVER = -1e4  # score of padding; finite, because the gradient of a log-softmax over infinities is NaN


class Aligner(nn.Module):
    """Scores every frame against every symbol.

    symbol_dim  width of the symbols' embeddings
    hidden_dim  width in which frames and symbols are compared
    """

    def __init__(self, symbol_dim: int, num_mels: int, *, hidden_dim: int = 80) -> None:
        super().__init__()
        self.symbols = nn.ModuleList(
            [Convolution(symbol_dim, 2 * symbol_dim, 3), Convolution(2 * symbol_dim, hidden_dim, 1)]
        )
        self.frames = nn.ModuleList(
            [
                Convolution(num_mels, 2 * num_mels, 3),
                Convolution(2 * num_mels, num_mels, 1),
                Convolution(num_mels, hidden_dim, 1),
            ]
        )

    def forward(self, symbols: Tensor, mel: Tensor, num_symbols: Tensor, num_frames: Tensor) -> Tensor:
        """Log-probability of each symbol at each frame, with a prior along the diagonal added.

        symbols: (batch, m, symbol_dim).  mel: (batch, n, num_mels).  num_symbols, num_frames: (batch,).
        Returns (batch, n, m), NEVER where a symbol is padded.
        """
        no_symbol, no_frame = padding_mask(num_symbols, symbols.shape[1]), padding_mask(num_frames, mel.shape[1])
        keys, queries = _stack(self.symbols, symbols, no_symbol), _stack(self.frames, mel, no_frame)
        distance = queries.square().sum(2)[:, :, None] + keys.square().sum(2)[:, None] - 2 * queries @ keys.mT
        scores = (-TEMPERATURE * distance).masked_fill(no_symbol[:, None], NEVER).log_softmax(2)
        prior = log_prior(num_symbols, num_frames, symbols.shape[1], mel.shape[1])
        return (scores + prior).masked_fill(no_symbol[:, None], NEVER)


def _stack(layers: nn.ModuleList, x: Tensor, padded: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = F.relu(layer(x, padded))
    return layers[-1](x, padded)


def log_prior(num_symbols: Tensor, num_frames: Tensor, m: int, n: int) -> Tensor:
    """Log-probability of symbols by a beta-binomial prior, which prefers the diagonal.

    Frame t, counted from 1, has BetaBinomial(num_symbols - 1, t, num_frames + 1 - t).
    num_symbols, num_frames: (batch,).  Returns (batch, n, m); padded places hold some finite number.
    """
    device = num_symbols.device
    log_gamma = torch.lgamma(
        torch.arange(m + n + 3, device=device, dtype=torch.float64).clamp_min(1)
    )  # [k] = ln (k-1)!
    last = (num_symbols - 1)[:, None, None]
    total = num_frames[:, None, None]
    k = torch.minimum(torch.arange(m, device=device)[None, None], last)
    t = torch.minimum(torch.arange(1, n + 1, device=device)[None, :, None], total)
    choose = log_gamma[last + 1] - log_gamma[k + 1] - log_gamma[last - k + 1]
    upper = log_gamma[k + t] + log_gamma[last - k + total + 1 - t] - log_gamma[last + total + 1]
    lower = log_gamma[t] + log_gamma[total + 1 - t] - log_gamma[total + 1]
    return (choose + upper - lower).float()


def forward_sum(scores: Tensor, num_symbols: Tensor, num_frames: Tensor) -> Tensor:
    """-ln of the total probability of all monotonic alignments, divided by the number of symbols.

    scores: (batch, n, m), of ``Aligner.forward``.  num_symbols, num_frames: (batch,).  Returns (batch,).
    """
    with_blank = F.pad(scores.float(), (1, 0), value=BLANK).log_softmax(2)
    targets = torch.arange(1, scores.shape[2] + 1, device=scores.device).expand(len(scores), -1)
    nats = F.ctc_loss(
        with_blank.transpose(0, 1), targets, num_frames, num_symbols, blank=0, reduction="none", zero_infinity=True
    )
    return nats / num_symbols


@torch.no_grad()
def best_durations(scores: Tensor, num_symbols: Tensor, num_frames: Tensor) -> Tensor:
    """Durations of the best monotonic alignment, in which each symbol has at least one frame.

    scores: (batch, n, m), with num_frames >= num_symbols in every row.  Returns int64 (batch, m).

    The recursion takes one frame after the other, for all rows and symbols at once.  It is written in NumPy, because a call of
    NumPy costs a fifth of a call of torch at this size.
    """
    score = scores.detach().double().cpu().numpy()
    symbols, frames = num_symbols.cpu().numpy(), num_frames.cpu().numpy()
    b, n, m = score.shape
    best = np.full((b, m + 1), -np.inf)  # column 0 stands before the first symbol
    best[:, 1] = score[:, 0, 0]
    moved = np.zeros((n, b, m), dtype=bool)  # whether the best way into (frame, symbol) comes from the symbol before
    for frame in range(1, n):
        stay, move = best[:, 1:], best[:, :-1]
        moved[frame] = move > stay
        best[:, 1:] = np.maximum(stay, move) + score[:, frame]
    durations = np.zeros((b, m), dtype=np.int64)
    rows, symbol = np.arange(b), symbols - 1
    for frame in range(n - 1, -1, -1):
        inside = frame < frames
        durations[rows[inside], symbol[inside]] += 1
        symbol = symbol - (moved[frame, rows, symbol] & inside)
    return torch.from_numpy(durations).to(scores.device)
