"""Fundamental frequency by frame: WORLD's DIO and StoneMask if ``pyworld`` is installed, else YIN in torch."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.text_to_speech.audio import HOP, SAMPLE_RATE, num_frames

LOWEST, HIGHEST = 71.0, 800.0  # Hz, the default bounds of DIO
WINDOW = 1024  # samples that are compared with the samples a lag later
THRESHOLD = 0.15  # a frame whose normalised difference has no dip below it is unvoiced


def pitch_method() -> str:
    """``dio`` or ``yin``, for ``pitch`` and for the record."""
    return "dio" if importlib.util.find_spec("pyworld") else "yin"


def pitch(samples: Tensor, method: str) -> Tensor:
    """Hz by frame, with ``fill_gaps`` for unvoiced frames; all 0 if no frame is voiced.

    samples: (n,).  method: of ``pitch_method``.  Returns float32 (frames,).
    """
    hertz = dio(samples) if method == "dio" else yin(samples)
    return torch.from_numpy(fill_gaps(hertz.numpy()).astype(np.float32))


def fill_gaps(hertz: np.ndarray) -> np.ndarray:
    """Interpolates linearly over zeros, and repeats the first and the last value outwards.  hertz: (frames,)."""
    voiced = np.flatnonzero(hertz)
    return np.interp(np.arange(len(hertz)), voiced, hertz[voiced]) if len(voiced) else hertz


def dio(samples: Tensor) -> Tensor:
    """DIO and StoneMask, as published; 0 where unvoiced.  samples: (n,).  Returns (frames,)."""
    import pyworld

    x = samples.double().numpy()
    hertz, times = pyworld.dio(x, SAMPLE_RATE, frame_period=1000 * HOP / SAMPLE_RATE)
    hertz = pyworld.stonemask(x, hertz, times, SAMPLE_RATE)[: num_frames(len(x))]
    return torch.from_numpy(np.pad(hertz, (0, num_frames(len(x)) - len(hertz))))


def yin(samples: Tensor) -> Tensor:
    """YIN (de Cheveigné and Kawahara, 2002): 0 where unvoiced.  samples: (n,).  Returns (frames,).

    The difference d(lag) = sum (x_i - x_{i + lag})^2 is computed from energies and one correlation by FFT, and divided by its
    mean up to the lag.  The first dip below THRESHOLD gives the period, which a parabola refines; without one the frame is
    unvoiced.
    """
    longest, shortest = int(SAMPLE_RATE / LOWEST) + 1, int(SAMPLE_RATE / HIGHEST)
    span = WINDOW + longest
    padded = F.pad(samples.double(), (span // 2, span))
    x = padded.unfold(0, span, HOP)[: num_frames(len(samples))]  # (frames, span), centred on the frame
    size = 1 << (span + WINDOW - 1).bit_length()
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(x[:, :WINDOW], size).conj()
    correlation = torch.fft.irfft(spectrum, size)[:, : longest + 1]
    energy = F.pad(x.square().cumsum(1), (1, 0))
    lags = torch.arange(longest + 1)
    shifted = energy[:, lags + WINDOW] - energy[:, lags]
    difference = (shifted[:, :1] + shifted - 2 * correlation).clamp_min(0)
    mean = difference[:, 1:].cumsum(1) / lags[1:]
    # In silence the difference and its mean are 0; the value 1 means "no period".
    normalised = torch.where(mean > 1e-9, difference[:, 1:] / mean.clamp_min(1e-9), 1.0)
    normalised = F.pad(normalised, (1, 0), value=1.0)  # (frames, longest + 1), by lag
    inside = normalised[:, 1:-1]
    dip = (inside < normalised[:, :-2]) & (inside <= normalised[:, 2:]) & (inside < THRESHOLD)
    dip[:, : shortest - 1] = False
    voiced = dip.any(1)
    period = dip.int().argmax(1) + 1
    left, middle, right = (normalised.gather(1, (period + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = torch.where(bend > 0, 0.5 * (left - right) / bend.clamp_min(1e-12), 0.0)
    return torch.where(voiced, SAMPLE_RATE / (period + offset), 0.0)
