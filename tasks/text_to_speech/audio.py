"""Sound in and out: wav files of any kind, the log-mel spectrogram of the protocol, Griffin-Lim, MP3."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio import functional as audio

from benchmark.files import is_machine_fault
from benchmark.settings.messages import shortened
from tasks.array_files import check_size

SAMPLE_RATE = 22_050
N_FFT = WINDOW = 1024
HOP = 256
NUM_MELS = 80
F_MIN, F_MAX = 20.0, 8000.0
FLOOR = 1e-5  # of the mel magnitudes, before the logarithm
MEL_SCALE = "slaney"  # scale and normalisation of features and vocoder; the distortions use HTK's (metrics.py)
LEAST_FRAMES = 4  # of a sound, because a shorter one can't be reflected at its ends by half a window
VOCODER_SEED = 0  # of the phases that Griffin-Lim starts from
LONGEST_SECONDS = 3600  # of an utterance
VALUES_AT_ONCE = 2**22
MOST_FILTER_WEIGHTS = 2**26  # of the filter that converts one rate to another; 256 MiB
MOST_CHUNKS = 1000  # before the data of a wav file
STREAMED = 0x7FFFF000  # the least size that a program writes for "unknown"; sox has this one
WANTED = "a wav (or FLAC) file of 8 to 64 bits, any usual rate, any number of channels"


class Recording(NamedTuple):
    """Samples as the task uses them, and how the file was converted."""

    samples: Tensor  # float32 (n,), 22,050 Hz, mono
    conversions: tuple[str, ...]  # empty for 22,050 Hz, mono, 16 bits


def read_wav(path: Path, name: str) -> Recording:
    """The sound of a wav or FLAC file.  name: the file's name in messages.

    A wav that was written to a pipe states no true sizes; it is read to its end.
    Raises ValueError with one line for a file that can't be read, is cut short, too short or too long, or has samples that
    are not finite.
    """
    try:
        with soundfile.SoundFile(_with_true_sizes(path)) as file:
            rate, subtype, promised = file.samplerate, file.subtype, file.frames
            _check_promises(rate, promised, name)
            samples = _read_samples(file, name)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        if is_machine_fault(error):
            raise
        reason = shortened(str(error).replace(str(path), name), 100)
        raise ValueError(f"{name}: can't be read ({reason}); expected is {WANTED}") from None
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
    if np.abs(samples).max() > 1:
        conversions.append("louder than full scale, kept as it is")
    if samples.shape[1] > 1:
        conversions.append(f"{samples.shape[1]} channels to their mean")
    mono = torch.from_numpy(samples).mean(1)
    if rate != SAMPLE_RATE:
        conversions.append(f"{rate} Hz to {SAMPLE_RATE} Hz")
        mono = audio.resample(mono, rate, SAMPLE_RATE)
    return Recording(mono, tuple(conversions))


def _read_samples(file: soundfile.SoundFile, name: str) -> np.ndarray:
    """All samples, float32 (n, channels), full scale is 1; in pieces, so that a false promise takes no memory."""
    num_at_once = max(1, VALUES_AT_ONCE // file.channels)
    pieces: list[np.ndarray] = []
    while not pieces or len(pieces[-1]) == num_at_once:
        pieces.append(file.read(num_at_once, dtype="float32", always_2d=True))
        _check_promises(file.samplerate, num_at_once * (len(pieces) - 1), name)
    return np.concatenate(pieces)


def _check_promises(rate: int, num_samples: int, name: str) -> None:
    """Raises ValueError for a header whose sound, or whose conversion to SAMPLE_RATE, would take gigabytes."""
    if num_samples > LONGEST_SECONDS * rate:
        raise ValueError(
            f"{name}: {num_samples:,} samples at {rate} Hz or more, or a number that its header doesn't know; an utterance "
            f"of at most {LONGEST_SECONDS} s is expected"
        )
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) > MOST_FILTER_WEIGHTS:
        raise ValueError(
            f"{name}: {rate} Hz can't be converted to {SAMPLE_RATE} Hz in reasonable memory; usual rates can, as 8000, "
            "16000, 22050, 24000, 44100, 48000 or 96000"
        )


class Chunk(NamedTuple):
    """A chunk of a RIFF file."""

    name: bytes
    start: int  # of its content
    stated: int  # bytes, by its header


def _chunks(file: BinaryIO) -> list[Chunk] | None:
    """The chunks of a wav file up to its data; None for a file of another kind."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    chunks, start = [Chunk(b"RIFF", 8, int.from_bytes(head[4:8], "little"))], 12
    while len(chunks) < MOST_CHUNKS and len(head := file.read(8)) == 8:
        chunks.append(Chunk(head[:4], start + 8, int.from_bytes(head[4:], "little")))
        if head[:4] == b"data":
            break
        start = chunks[-1].start + chunks[-1].stated + chunks[-1].stated % 2  # contents have an even number of bytes
        file.seek(start)
    return chunks


def _is_unknown(chunk: Chunk) -> bool:
    """Whether a size is what programs write that can't go back to the header: 0, or about the largest number."""
    return chunk.stated == 0 or chunk.stated >= STREAMED


def _with_true_sizes(path: Path) -> Path | io.BytesIO:
    """The file, or a copy with true sizes where its header has the size 0 for data that are there; libsndfile reads none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        chunks = _chunks(file)
        if chunks is None or chunks[-1].name != b"data" or chunks[-1].stated or size <= chunks[-1].start:
            return path
        riff, data = chunks[0], chunks[-1]
        if not _is_unknown(riff) and riff.start + riff.stated > data.start:  # other chunks follow empty data
            return path
        check_size(size)
        file.seek(0)
        content = bytearray(file.read())
    for chunk in (riff, data):
        content[chunk.start - 4 : chunk.start] = (len(content) - chunk.start).to_bytes(4, "little")
    return io.BytesIO(content)


def _is_cut(path: Path) -> bool:
    """Whether a wav file ends before the end that its header states; libsndfile reads such files without a warning."""
    size = path.stat().st_size
    with path.open("rb") as file:
        chunks = _chunks(file)
    return chunks is not None and any(
        size < chunk.start + chunk.stated and not _is_unknown(chunk) for chunk in (chunks[0], chunks[-1])
    )


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
