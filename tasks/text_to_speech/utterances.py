"""Utterances: text, speaker and the frames measured from the sound; and the files in the cache that keep them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmark.files import replacing
from tasks.text_to_speech import audio
from tasks.text_to_speech.metrics import Cepstra, cepstra
from tasks.text_to_speech.pitch import pitch


class Utterance(NamedTuple):
    """Text and frames of one recording."""

    name: str
    text: str
    symbols: tuple[str, ...]  # speaker first, END last
    mel: Tensor  # float32 (frames, NUM_MELS), natural logarithm
    pitch: Tensor  # float32 (frames,), Hz
    energy: Tensor  # float32 (frames,), L2 norm of the magnitudes
    durations: Tensor  # int64 (symbols,), frames; empty if unknown
    is_test: bool = False  # speech is synthesised for test utterances; the others need only their loss


class Frames(NamedTuple):
    """What is measured of one recording, as ``Utterance`` has it."""

    mel: Tensor
    pitch: Tensor
    energy: Tensor


class Reference(NamedTuple):
    """The cepstra that the synthesis of a validation or test utterance is compared with."""

    vocoded: Cepstra  # of the true spectrogram through the vocoder, for mcd and msd
    recorded: Cepstra  # of the recording, for mcd_db


def measure_frames(samples: Tensor, pitch_method: str) -> Frames:
    """The frames of these samples, (n,)."""
    magnitude = audio.magnitudes(samples)
    return Frames(audio.log_mel(magnitude), pitch(samples, pitch_method), magnitude.norm(dim=1))


def make_reference(samples: Tensor, mel: Tensor, vocoder: Callable[[Tensor], Tensor]) -> Reference:
    """The reference of one utterance.

    samples: (n,) of the recording.  mel: its (frames, NUM_MELS).  vocoder: mel -> waveform (samples,).
    """
    rate = audio.SAMPLE_RATE
    return Reference(cepstra(vocoder(mel), rate), cepstra(samples, rate))


def save_utterances(path: Path, utterances: Sequence[Utterance], notes: dict[str, Any]) -> None:
    """Writes one file without pickled objects: the arrays of all utterances joined; names, texts and notes as JSON."""
    words = [{"name": u.name, "text": u.text, "symbols": u.symbols} for u in utterances]
    arrays = {
        "mel": torch.cat([u.mel for u in utterances]).numpy(),
        "pitch": torch.cat([u.pitch for u in utterances]).numpy(),
        "energy": torch.cat([u.energy for u in utterances]).numpy(),
        "frames": np.array([len(u.mel) for u in utterances]),
        "durations": torch.cat([u.durations for u in utterances]).numpy(),
        "known": np.array([len(u.durations) for u in utterances]),
        "words": _as_bytes({"utterances": words, "notes": notes}),
    }
    save_arrays(path, arrays)


def load_utterances(path: Path) -> tuple[list[Utterance], dict[str, Any]] | None:
    """What ``save_utterances`` wrote; None if there is no usable file."""
    arrays = load_arrays(path)
    if arrays is None:
        return None
    words = json.loads(arrays["words"].tobytes())
    frames, known = (arrays[name].tolist() for name in ("frames", "known"))
    parts = [torch.from_numpy(arrays[name]).split(frames) for name in ("mel", "pitch", "energy")]
    durations = torch.from_numpy(arrays["durations"]).split(known)
    utterances = [
        Utterance(word["name"], word["text"], tuple(word["symbols"]), *measured)
        for word, *measured in zip(words["utterances"], *parts, durations, strict=True)
    ]
    return utterances, words["notes"]


def save_references(path: Path, references: Sequence[Reference], recordings: Mapping[str, Tensor]) -> None:
    """recordings: name -> samples; 16 bits are kept, because they are listened to and not measured."""
    kinds = [cepstra for reference in references for cepstra in reference]
    arrays: dict[str, np.ndarray] = {"frames": np.array([len(kind.mfcc) for kind in kinds])}
    arrays |= {name: np.concatenate([getattr(kind, name) for kind in kinds]) for name in Cepstra._fields}
    # A sound beyond full scale is made softer: clipping would make it another sound.
    quiet = [samples / max(1.0, float(samples.abs().max())) for samples in recordings.values()]
    sounds = [(samples * 32767).round().to(torch.int16) for samples in quiet]
    arrays |= {"names": _as_bytes([*recordings]), "samples": torch.cat(sounds).numpy()}
    save_arrays(path, arrays | {"sizes": np.array([len(sound) for sound in sounds])})


def load_references(path: Path) -> tuple[list[Reference], dict[str, Tensor]] | None:
    """What ``save_references`` wrote, in its order; None if there is no usable file."""
    arrays = load_arrays(path)
    if arrays is None:
        return None
    cuts = arrays["frames"].cumsum()[:-1]
    kinds = [Cepstra(*x) for x in zip(*(np.split(arrays[name], cuts) for name in Cepstra._fields), strict=True)]
    sounds = (torch.from_numpy(arrays["samples"]).float() / 32767).split(arrays["sizes"].tolist())
    recordings = dict(zip(json.loads(arrays["names"].tobytes()), sounds, strict=True))
    return [Reference(*pair) for pair in zip(kinds[::2], kinds[1::2], strict=True)], recordings


def count_notes(notes: Iterable[str]) -> dict[str, int]:
    """Note -> how often it occurs."""
    counts: dict[str, int] = {}
    for note in notes:
        counts[note] = counts.get(note, 0) + 1
    return counts


def _as_bytes(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content, ensure_ascii=False).encode(), dtype=np.uint8)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name; whole or not at all, because another worker may be writing the same."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its own keywords are bool


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file by name; None if there is no file, or a damaged one, which the caller makes anew."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
