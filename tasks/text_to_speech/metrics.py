"""Distortions between a reference and a synthesised utterance, each after dynamic time warping.

Two measures are called MCD.  ``mel_cepstral_distortion`` is the one of the predecessor benchmark (fairseq's), not in decibels
and with c0.  ``mcd_frames`` and ``mel_cepstral_distortion_db`` are the usual one, in decibels and without c0.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio import functional as audio
from torchaudio.transforms import MFCC

NUM_MELS = 80
NUM_COEFFICIENTS = 13
F_MIN = 20.0
FLOOR = 1e-6  # added to the mel power before the logarithm, as published
F_MAX_DB = 8000.0  # Hz, for the decibels
RELATIVE_FLOOR = 1e-8  # share of the largest mel power, for the decibels, so that loudness scales the floor too
DECIBELS = 10 * math.sqrt(2) / math.log(10)


class Warped(NamedTuple):
    """The cheapest alignment of two sequences."""

    cost: float  # sum of the distances along the path
    num_steps: int  # entries of the path
    num_reference: int  # frames
    num_synthesised: int  # frames


class Cepstra(NamedTuple):
    """The features of a waveform that the distortions compare."""

    mfcc: np.ndarray  # float64 (frames, 13), with c0, for mel_cepstral_distortion
    log_mel: np.ndarray  # float64 (frames, 80), for mel_spectral_distortion
    cepstrum: np.ndarray  # float64 (frames, 13), c1 to c13, for mcd_frames


def mel_cepstral_distortion(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``mcd`` of one utterance: root mean square over 13 MFCCs with c0, not dB.

    The MFCC is torchaudio's: natural logarithm of (mel power + 1e-6), 80 HTK mels from 20 Hz to half the rate, Hann window
    and FFT of 50 ms, hop 12.5 ms, orthonormal DCT-II.  The distances along the cheapest path (steps (0,1), (1,1), (1,0), each
    of weight 1) are summed and divided by the number of synthesised frames.  One coefficient off by 1 gives 1/sqrt(13).

    reference, synthesised: waveforms (samples,).
    """
    one, other = (cepstra(x, sample_rate).mfcc for x in (reference, synthesised))
    return per_synthesised_frame(warp(root_mean_square(one, other)))


def mel_spectral_distortion(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``msd`` of one utterance: as ``mel_cepstral_distortion``, with 80 log-mel values in place of the coefficients.

    reference, synthesised: waveforms (samples,).
    """
    one, other = (cepstra(x, sample_rate).log_mel for x in (reference, synthesised))
    return per_synthesised_frame(warp(root_mean_square(one, other)))


def mel_cepstral_distortion_db(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``mcd_db`` of one utterance: ``mcd_frames`` of c1 to c13.  reference, synthesised: waveforms (samples,)."""
    one, other = (cepstra(x, sample_rate).cepstrum for x in (reference, synthesised))
    return mcd_frames(one, other)


def mcd_frames(reference: Any, synthesised: Any) -> float:
    """Mel-cepstral distortion in decibels: 10 sqrt(2) / ln 10 times the Euclidean distance, mean over the aligned path.

    reference, synthesised: (frames, order) coefficients without c0.  One coefficient off by 1 in every frame gives 6.1419 dB.
    Raises ValueError for other shapes, or without frames.
    """
    path = warp(DECIBELS * distances(_frames(reference), _frames(synthesised)))
    return path.cost / path.num_steps


def per_synthesised_frame(path: Warped) -> float:
    """The cost of a path divided by the number of synthesised frames, as published."""
    return path.cost / path.num_synthesised


def _frames(x: Any) -> np.ndarray:
    frames = np.asarray(x, dtype=np.float64)
    if frames.ndim != 2 or not frames.size:
        raise ValueError(f"coefficients must be (frames, order) with at least one frame, got {frames.shape}")
    return frames


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances in float64.  (n, order), (m, order) -> (n, m)

    They are computed from differences and not from the expanded square, so that equal frames have distance 0.
    """
    return torch.cdist(torch.from_numpy(a), torch.from_numpy(b), compute_mode="donot_use_mm_for_euclid_dist").numpy()


def root_mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square of the differences, over the order.  (n, order), (m, order) -> (n, m)"""
    return distances(a, b) / math.sqrt(a.shape[1])


def warp(cost: np.ndarray) -> Warped:
    """Unconstrained dynamic time warping from (0, 0) to (n - 1, m - 1); steps (0,1), (1,1), (1,0), all of weight 1.

    cost: (n, m).  Of equally cheap steps the diagonal one is taken.  The cells of an anti-diagonal are computed together: row
    s of the skewed table holds the cells with i + j = s, by i.
    """
    n, m = cost.shape
    skewed = np.full((n + m - 1, n), np.inf)
    rows, columns = np.arange(n)[:, None], np.arange(m)
    skewed[rows + columns, rows] = cost
    total = np.full((n + m, n + 1), np.inf)  # with a row and a column before the first
    length = np.zeros((n + m, n + 1), dtype=np.int64)
    total[1, 1], length[1, 1] = skewed[0, 0], 1
    for s in range(1, n + m - 1):
        diagonal, left, up = total[s - 1, :-1], total[s, 1:], total[s, :-1]
        best = np.minimum(np.minimum(left, up), diagonal)
        total[s + 1, 1:] = best + skewed[s]
        before = np.where(left <= up, length[s, 1:], length[s, :-1])
        length[s + 1, 1:] = np.where(diagonal <= best, length[s - 1, :-1], before) + 1
    return Warped(float(total[n + m - 1, n]), int(length[n + m - 1, n]), n, m)


@functools.cache
def _mfcc(sample_rate: int) -> MFCC:
    size = int(0.05 * sample_rate)
    return MFCC(
        sample_rate,
        n_mfcc=NUM_COEFFICIENTS,
        dct_type=2,
        norm="ortho",
        log_mels=True,
        melkwargs={
            "n_fft": size,
            "win_length": size,
            "hop_length": int(0.0125 * sample_rate),
            "f_min": F_MIN,
            "n_mels": NUM_MELS,
            "mel_scale": "htk",
            "norm": None,
        },
    )


@functools.cache
def _cosines() -> Tensor:
    """The orthonormal DCT-II, c0 to c13.  (NUM_MELS, 14)"""
    return audio.create_dct(NUM_COEFFICIENTS + 1, NUM_MELS, "ortho").double()


@functools.cache
def _speech_filters(sample_rate: int) -> Tensor:
    """The mel bands for the decibels.  (bins, NUM_MELS)"""
    highest = min(F_MAX_DB, sample_rate / 2)
    return audio.melscale_fbanks(
        int(0.05 * sample_rate) // 2 + 1, F_MIN, highest, NUM_MELS, sample_rate, norm=None, mel_scale="htk"
    )


def cepstra(waveform: Any, sample_rate: int) -> Cepstra:
    """The features of a waveform that the distortions compare.

    waveform: (samples,), longer than half a window of 50 ms, which is reflected at the ends.  Raises ValueError otherwise.

    The coefficients for the decibels have the scale of a mel cepstrum, ln |H| = c0 + sum c_k cos(k w): the orthonormal DCT of
    the logarithmic *power* is divided by sqrt(2 * 80), because otherwise their MCD would not be in dB.  Their bands end at
    8,000 Hz, like the spectrograms that speech is made from, and are floored 80 dB below the utterance's loudest band.
    """
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    module = _mfcc(sample_rate)
    if samples.ndim != 1 or len(samples) <= module.MelSpectrogram.n_fft // 2:
        raise ValueError(
            f"a waveform of more than {module.MelSpectrogram.n_fft // 2} samples is needed, got {tuple(samples.shape)}"
        )
    power = module.MelSpectrogram.spectrogram(samples)  # (bins, frames)
    log_mel = (module.MelSpectrogram.mel_scale(power).double() + FLOOR).log().mT  # (frames, 80)
    mfcc = log_mel @ _cosines()[:, :NUM_COEFFICIENTS]
    bands = (power.mT @ _speech_filters(sample_rate)).double()
    # The largest power of silence is 0, whose logarithm is not finite.
    floor = (RELATIVE_FLOOR * bands.max()).clamp_min(torch.finfo(torch.float32).tiny)
    cepstrum = bands.clamp_min(floor).log() @ _cosines()[:, 1:] / math.sqrt(2 * NUM_MELS)
    return Cepstra(mfcc.numpy(), log_mel.numpy(), cepstrum.numpy())
