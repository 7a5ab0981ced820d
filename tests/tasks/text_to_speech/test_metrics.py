"""Distortions against a loop by the definition, torchaudio's MFCC and closed forms."""

import math

import numpy as np
import pytest
import torch
from torchaudio.transforms import MFCC

from tasks.text_to_speech import metrics
from tasks.text_to_speech.metrics import (
    mcd_frames,
    mel_cepstral_distortion,
    mel_cepstral_distortion_db,
    mel_spectral_distortion,
    root_mean_square,
    warp,
)

RATE = 22_050


def noise(seconds, seed):
    return 0.1 * torch.randn(int(RATE * seconds), generator=torch.Generator().manual_seed(seed))


def loop_warp(cost):
    """Dynamic time warping cell by cell: (cost, fewest steps among the cheapest paths)."""
    n, m = cost.shape
    table = {(0, 0): (cost[0, 0], 1)}
    for i in range(n):
        for j in range(m):
            before = [table[cell] for cell in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if cell in table]
            if before:
                best = min(before)
                table[i, j] = (best[0] + cost[i, j], best[1] + 1)
    return table[n - 1, m - 1]


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1), (5, 5), (13, 8), (8, 21)])
def test_warping_is_the_loop_over_cells(n, m):
    cost = np.random.default_rng(n * m).random((n, m))
    found, wanted = warp(cost), loop_warp(cost)
    assert found.cost == pytest.approx(wanted[0], rel=1e-12)
    assert found.num_steps == wanted[1]
    assert (found.num_reference, found.num_synthesised) == (n, m)


def test_one_coefficient_off_by_one():
    frames = np.random.default_rng(0).normal(size=(40, 13))
    other = frames.copy()
    other[:, 4] += 1
    assert mcd_frames(frames, other) == pytest.approx(10 * math.sqrt(2) / math.log(10), rel=1e-9)
    assert mcd_frames(frames, other) == pytest.approx(6.1419, abs=1e-4)
    assert mcd_frames(frames, frames) == 0
    path = warp(root_mean_square(frames, other))
    assert path.cost / path.num_synthesised == pytest.approx(0.2774, abs=1e-4)


def test_an_utterance_against_itself_and_louder():
    one = noise(0.4, 0)
    for function in (mel_cepstral_distortion, mel_spectral_distortion, mel_cepstral_distortion_db):
        assert function(one, one, RATE) == 0
    assert mel_cepstral_distortion_db(one, 3 * one, RATE) < 1e-4  # loudness alone is no distortion in dB
    assert mel_cepstral_distortion(one, 3 * one, RATE) > 0.5  # but is one with c0


def test_the_published_distortion_is_torchaudio_s_mfcc_and_a_loop():
    one, other = noise(0.3, 0), noise(0.25, 1)
    size = int(0.05 * RATE)
    sizes = {"n_fft": size, "win_length": size, "hop_length": int(0.0125 * RATE), "f_min": 20.0, "n_mels": 80}
    mfcc = MFCC(RATE, n_mfcc=13, log_mels=True, melkwargs=sizes)
    a, b = (mfcc(x).mT.double().numpy() for x in (one, other))
    cost = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    assert mel_cepstral_distortion(one, other, RATE) == pytest.approx(loop_warp(cost)[0] / len(b), rel=1e-5)
    a, b = (np.log(mfcc.MelSpectrogram(x).mT.double().numpy() + 1e-6) for x in (one, other))
    cost = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    assert mel_spectral_distortion(one, other, RATE) == pytest.approx(loop_warp(cost)[0] / len(b), rel=1e-5)


def test_decibels_are_decibels():
    """A cosine ripple of the log spectrum along the mel bands, of amplitude A dB, is A / sqrt(2) dB of distance."""
    bands, amplitude = np.arange(80), 6.0
    ripple = amplitude * np.cos(np.pi * 3 * (bands + 0.5) / 80)  # dB, by band
    log_power = ripple * math.log(10) / 10
    cosines = metrics._cosines().numpy()
    frames = np.tile(log_power @ cosines[:, 1:] / math.sqrt(160), (9, 1))
    assert mcd_frames(frames, np.zeros_like(frames)) == pytest.approx(amplitude / math.sqrt(2), rel=1e-6)


def test_shapes_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="frames, order"):
        mcd_frames(np.zeros(13), np.zeros((4, 13)))
    with pytest.raises(ValueError, match="551 samples"):
        mel_cepstral_distortion(torch.zeros(100), torch.zeros(100), RATE)
