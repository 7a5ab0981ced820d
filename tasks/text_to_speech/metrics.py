"""Distortions between a reference and a synthesised utterance, each after dynamic time warping.

Two measures go by the name of MCD.  ``mel_cepstral_distortion`` is that of the predecessor benchmark (fairseq's): not in
decibels, with c0.  ``mcd_frames`` and ``mel_cepstral_distortion_db`` are the field's: decibels, without c0.
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
F_MAX_DB = 8000.0  # Hz, of the decibels
RELATIVE_FLOOR = 1e-8  # of the largest mel power, for the decibels: a change of loudness moves it along
DECIBELS = 10 * math.sqrt(2) / math.log(10)


class Warped(NamedTuple):
    """The cheapest alignment of two sequences."""

    cost: float  # sum of the distances along the path
    num_steps: int  # entries of the path
    num_reference: int  # frames
    num_synthesised: int  # frames


class Cepstra(NamedTuple):
    """What an utterance is compared by."""

    mfcc: np.ndarray  # float64 (frames, 13), c0 included: of mel_cepstral_distortion
    log_mel: np.ndarray  # float64 (frames, 80): of mel_spectral_distortion
    cepstrum: np.ndarray  # float64 (frames, 13), c1 to c13: of mcd_frames


def mel_cepstral_distortion(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``mcd`` of one utterance: root mean square over 13 MFCCs with c0, not dB.

    Torchaudio's MFCC: natural logarithm of (mel power + 1e-6), 80 HTK mels from 20 Hz to half the rate, Hann window and FFT
    of 50 ms, hop 12.5 ms, orthonormal DCT-II.  The distances along the cheapest path (steps (0,1), (1,1), (1,0), each of
    weight 1) are summed and divided by the number of synthesised frames.  One coefficient off by 1 gives 1/sqrt(13).

    reference, synthesised: waveforms (samples,).
    """
    one, other = (cepstra(x, sample_rate).mfcc for x in (reference, synthesised))
    return per_synthesised_frame(warp(root_mean_square(one, other)))


def mel_spectral_distortion(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``msd`` of one utterance: as mel_cepstral_distortion, with the 80 log-mel values in place of the coefficients."""
    one, other = (cepstra(x, sample_rate).log_mel for x in (reference, synthesised))
    return per_synthesised_frame(warp(root_mean_square(one, other)))


def mel_cepstral_distortion_db(reference: Any, synthesised: Any, sample_rate: int) -> float:
    """``mcd_db`` of one utterance: mcd_frames of c1 to c13 of the two waveforms (samples,)."""
    one, other = (cepstra(x, sample_rate).cepstrum for x in (reference, synthesised))
    return mcd_frames(one, other)


def mcd_frames(reference: Any, synthesised: Any) -> float:
    """Mel-cepstral distortion in decibels: 10 sqrt(2) / ln 10 times the Euclidean distance, mean over the aligned path.

    reference, synthesised: (frames, order) coefficients without c0, all of which count.  One coefficient off by 1 in every
    frame gives 6.1419 dB.
    """
    path = warp(DECIBELS * distances(_frames(reference), _frames(synthesised)))
    return path.cost / path.num_steps


def per_synthesised_frame(path: Warped) -> float:
    return path.cost / path.num_synthesised


def _frames(x: Any) -> np.ndarray:
    frames = np.asarray(x, dtype=np.float64)
    if frames.ndim != 2 or not frames.size:
        raise ValueError(f"coefficients must be (frames, order) with at least one frame, got {frames.shape}")
    return frames


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, float64.  (n, order), (m, order) -> (n, m)

    By differences, not by the expanded square: equal frames are 0 apart.
    """
    return torch.cdist(torch.from_numpy(a), torch.from_numpy(b), compute_mode="donot_use_mm_for_euclid_dist").numpy()


def root_mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, order), (m, order) -> (n, m)"""
    return distances(a, b) / math.sqrt(a.shape[1])


def warp(cost: np.ndarray) -> Warped:
    """Unconstrained dynamic time warping from (0, 0) to (n - 1, m - 1); steps (0,1), (1,1), (1,0), all of weight 1.

    cost: (n, m).  Among equally cheap paths the diagonal step is taken.  Vectorised over anti-diagonals: row s of the
    skewed table holds the cells with i + j = s, by i.
    """
    n, m = cost.shape
    skewed = np.full((n + m - 1, n), np.inf)
    rows, columns = np.arange(n)[:, None], np.arange(m)
    skewed[rows + columns, rows] = cost
    total = np.full((n + m, n + 1), np.inf)  # one more of each: what lies before the first
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
    """The orthonormal DCT-II up to c13.  (NUM_MELS, 14)"""
    return audio.create_dct(NUM_COEFFICIENTS + 1, NUM_MELS, "ortho").double()


@functools.cache
def _speech_filters(sample_rate: int) -> Tensor:
    """The decibels' mel bands.  (bins, NUM_MELS)"""
    highest = min(F_MAX_DB, sample_rate / 2)
    return audio.melscale_fbanks(
        int(0.05 * sample_rate) // 2 + 1, F_MIN, highest, NUM_MELS, sample_rate, norm=None, mel_scale="htk"
    )


def cepstra(waveform: Any, sample_rate: int) -> Cepstra:
    """waveform: (samples,), more than a half window of 50 ms, which is reflected at the ends.

    The decibels' coefficients are scaled as a mel cepstrum, ln |H| = c0 + sum c_k cos(k w): the orthonormal DCT of the
    logarithmic *power* divided by sqrt(2 * 80), without which their MCD would be no level in dB.  They end at 8,000 Hz, as
    the spectrograms do from which speech is made, and at 80 dB below the utterance's loudest band.
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
    floor = (RELATIVE_FLOOR * bands.max()).clamp_min(
        torch.finfo(torch.float32).tiny
    )  # all silence has no largest power
    cepstrum = bands.clamp_min(floor).log() @ _cosines()[:, 1:] / math.sqrt(2 * NUM_MELS)
    return Cepstra(mfcc.numpy(), log_mel.numpy(), cepstrum.numpy())
