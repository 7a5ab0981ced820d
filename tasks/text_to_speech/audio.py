"""Sound in and out: wav files of any kind, the log-mel spectrogram of the protocol, Griffin-Lim, MP3."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio import functional as audio

SAMPLE_RATE = 22_050
N_FFT = WINDOW = 1024
HOP = 256
NUM_MELS = 80
F_MIN, F_MAX = 20.0, 8000.0
FLOOR = 1e-5  # of the mel magnitudes, before the logarithm
MEL_SCALE = "slaney"  # scale and normalisation of features and vocoder; the distortions use HTK's (metrics.py)
LEAST_FRAMES = 4  # of a sound, because a shorter one can't be reflected at its ends by half a window
VOCODER_SEED = 0  # of the phases that Griffin-Lim starts from
WANTED = "a wav (or FLAC) file of 8 to 64 bits, any rate, any number of channels"


class Recording(NamedTuple):
    """Samples as the task uses them, and how the file was converted."""

    samples: Tensor  # float32 (n,), 22,050 Hz, mono
    conversions: tuple[str, ...]  # empty for 22,050 Hz, mono, 16 bits


def read_wav(path: Path, name: str) -> Recording:
    """The sound of a wav or FLAC file.  name: the file's name in messages.

    Raises ValueError with one line for a file that can't be read, is cut short or too short, or has samples that are not
    finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, subtype, promised = file.samplerate, file.subtype, file.frames
            samples = file.read(dtype="float32", always_2d=True)  # (n, channels), full scale is 1
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).replace(str(path), name).split())
        raise ValueError(f"{name}: can't be read ({reason}); expected: {WANTED}") from None
    if len(samples) < promised or _is_cut(path):
        raise ValueError(
            f"{name}: cut short, its header promises more than the {len(samples)} samples it holds; expected: {WANTED}"
        )
    if len(samples) * SAMPLE_RATE / rate <= N_FFT:
        raise ValueError(
            f"{name}: {len(samples)} samples at {rate} Hz are no utterance; more than {N_FFT} at {SAMPLE_RATE} Hz are needed"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{name}: a sample is not a finite number; expected: {WANTED}")
    conversions = []
    if subtype != "PCM_16":
        conversions.append(f"{subtype} to float")
    if samples.shape[1] > 1:
        conversions.append(f"{samples.shape[1]} channels to their mean")
    mono = torch.from_numpy(samples).mean(1)
    if rate != SAMPLE_RATE:
        conversions.append(f"{rate} Hz to {SAMPLE_RATE} Hz")
        mono = audio.resample(mono, rate, SAMPLE_RATE)
    return Recording(mono, tuple(conversions))


def _is_cut(path: Path) -> bool:
    """Whether a RIFF file ends before the end that its header states; libsndfile reads such files without a warning."""
    head = path.open("rb").read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return False
    stated = int.from_bytes(head[4:8], "little")
    # A program that streams its output doesn't know the size, and writes 0 or the largest number.
    return 0 < stated < 0xFFFF_FFFF - 8 and path.stat().st_size < stated + 8


@functools.cache
def _window() -> Tensor:
    return torch.hann_window(WINDOW)


@functools.cache
def mel_filters() -> Tensor:
    """Weights from bins to mel bands.  (N_FFT / 2 + 1, NUM_MELS)"""
    return audio.melscale_fbanks(
        N_FFT // 2 + 1, F_MIN, F_MAX, NUM_MELS, SAMPLE_RATE, norm=MEL_SCALE, mel_scale=MEL_SCALE
    )


@functools.cache
def _inverse_filters() -> Tensor:
    """The pseudo-inverse of the filters, as in the published vocoder.  (NUM_MELS, N_FFT / 2 + 1)"""
    return torch.linalg.pinv(mel_filters())


def num_frames(num_samples: int) -> int:
    """The number of frames of a sound; frame i is centred on sample i * HOP."""
    return 1 + num_samples // HOP


def magnitudes(samples: Tensor) -> Tensor:
    """The magnitude spectrogram of a sound that is reflected at its ends.  samples: (n,).  Returns (frames, N_FFT / 2 + 1)."""
    spectrum = audio.spectrogram(
        samples, 0, _window(), N_FFT, HOP, WINDOW, power=1.0, normalized=False, center=True, pad_mode="reflect"
    )
    return spectrum.mT


def log_mel(magnitude: Tensor) -> Tensor:
    """The natural logarithm of the mel magnitudes.  magnitude: (frames, N_FFT / 2 + 1).  Returns (frames, NUM_MELS)."""
    return (magnitude @ mel_filters()).clamp_min(FLOOR).log()


def griffin_lim(mel: Tensor, num_iterations: int) -> Tensor:
    """The waveform of one utterance's log-mel spectrogram.  mel: (frames, NUM_MELS).  Returns (samples,) on the CPU.

    It takes one utterance at a time, because in a batch the phases that a row starts from would depend on its place.
    """
    linear = (at_least(mel.detach().float().cpu(), LEAST_FRAMES).exp() @ _inverse_filters()).clamp_min(0).mT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(VOCODER_SEED)
        return audio.griffinlim(linear, _window(), N_FFT, HOP, WINDOW, 1.0, num_iterations, 0.0, None, True)


def at_least(mel: Tensor, num_frames: int) -> Tensor:
    """Repeats the last frame until there are ``num_frames``; longer ones stay.  mel: (frames, NUM_MELS)."""
    missing = max(0, num_frames - len(mel))
    return torch.cat((mel, mel[-1:].expand(missing, -1)))


def to_mp3(samples: Tensor) -> bytes:
    """The bytes of an MP3 file.  samples: (n,) in [-1, 1]; a louder sound is scaled down to it."""
    peak = max(1.0, float(samples.abs().max()))
    buffer = io.BytesIO()
    soundfile.write(
        buffer, (samples / peak).numpy(), SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9
    )
    return buffer.getvalue()
