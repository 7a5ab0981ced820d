"""The utterances of the embedded data or of a folder in the data root, in three parts, and their references."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from benchmark.settings import Settings
from tasks.text_to_speech import audio, ljspeech, synthetic
from tasks.text_to_speech.pitch import pitch_method
from tasks.text_to_speech.text import END, Phonemizer, speaker_symbol, split_characters, split_phonemes
from tasks.text_to_speech.utterances import (
    Reference,
    Utterance,
    count_notes,
    load_references,
    load_utterances,
    make_reference,
    measure_frames,
    save_references,
    save_utterances,
)
from tasks.text_to_speech.vocoder import Vocoder

FORMAT = 2  # of the cached files; raised when their content is computed in another way
PARTS = ("train", "validation", "test")
SPOKEN_FROM = "espeakng-loader"
MOST_SHOWN = 8  # test utterances whose recordings a record may keep
LEFT_OUT_SHOWN = 10  # left out utterances that the record names
LONGER = 1.25  # synthesis ends at so many times the longest utterance, unless data.max_frames says otherwise


class DataSettings(Settings):
    """Which utterances there are, and how their texts are written."""

    num_train: int = Field(default=200, ge=1, description="utterances; with real data at most so many, evenly spaced")
    num_validation: int = Field(default=16, ge=1)
    num_test: int = Field(default=32, ge=1)
    text: Literal["phonemes", "characters"] = "phonemes"
    folder: str | None = Field(
        default=None, description="in tts/ of the data root; by default LJSpeech or the only one"
    )
    alignments: str | None = Field(default=None, description="folder beside wavs/ with TextGrid or .npy durations")
    max_symbols: int | None = Field(default=None, ge=3, description="longest text; by default that of the data")
    max_frames: int | None = Field(default=None, ge=8, description="longest utterance, recorded or synthesised")
    longest_train_seconds: float | None = Field(
        default=None, gt=0, description="longer utterances are left out of training, never of validation or test"
    )
    name: synthetic.Grammar = Field(
        default="digits", description="of the embedded data: a name and two digits, or sentences of a small grammar"
    )
    voices: tuple[str, ...] = Field(default=("f", "m"), description="of the embedded data")
    rates: tuple[str, ...] = Field(default=("slow", "plain", "fast"), description="of the embedded data")
    long: bool = Field(
        default=False, description="embedded sentences have four parts, not three; digits have no long form"
    )
    seed: int = Field(default=0, ge=0)

    @field_validator("voices", "rates")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        allowed = synthetic.VOICES if info.field_name == "voices" else synthetic.RATES
        if not names or set(names) - set(allowed) or len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names) or 'none'}: some of {', '.join(allowed)}, each once")
        return names

    @field_validator("folder", "alignments")
    @classmethod
    def _one_level(cls, name: str | None) -> str | None:
        if name is not None and (name in ("", ".", "..") or "/" in name or "\\" in name):
            raise ValueError(f"{name!r}: the name of a folder is needed, not a path")
        return name


class Speech(NamedTuple):
    """The data of the task, as ``load_speech`` gives them."""

    parts: tuple[list[Utterance], list[Utterance], list[Utterance]]  # train, validation, test
    references: dict[str, Reference]  # name -> reference, of validation and test
    sounds: dict[str, Tensor]  # (samples,) of the shortest test utterances: name -> recorded, vocoded(name) -> vocoded
    max_symbols: int
    max_frames: int
    aligned: bool  # whether durations are given
    key: str  # for names of cached files about the test part
    name: str
    fingerprint: str
    embedded: bool
    details: dict[str, Any]


class _Source(NamedTuple):
    """Where the utterances come from."""

    name: str
    fingerprint: str
    embedded: bool
    details: dict[str, Any]


def load_speech(settings: DataSettings, data_root: Path | None, cache: Path, vocoder: Vocoder) -> Speech:
    """Recordings from ``tts/`` of ``data_root`` or, without one, embedded speech.

    vocoder: turns spectrograms into speech.  Raises ValueError with one line for data that can't be used.
    """
    if data_root is None:
        for name in ("folder", "alignments"):
            if (value := getattr(settings, name)) is not None:
                raise ValueError(
                    f"data.{name} {value!r}: it lies in tts/ of a data root, and there is none (--data-root)"
                )
        loaded = _load_embedded(settings, cache, vocoder)
    else:
        loaded = _load_real(settings, data_root, cache, vocoder)
    source, whole, (references, sounds) = loaded
    parts, num_left_out = _shorter(whole, settings.longest_train_seconds)
    longest_text = max(len(utterance.symbols) for part in parts for utterance in part)
    longest_sound = max(len(utterance.mel) for part in parts for utterance in part)
    _refuse_longer(parts, settings)
    aligned = all(len(utterance.durations) for part in parts for utterance in part)
    details = {
        **source.details,
        "text": settings.text,
        "pitch": pitch_method(),
        "utterances": dict(zip(PARTS, map(len, parts), strict=True)),
        "seconds": {
            part: round(sum(len(u.mel) for u in utterances) * audio.HOP / audio.SAMPLE_RATE, 1)
            for part, utterances in zip(PARTS, parts, strict=True)
        },
        "durations": "given" if aligned else "by the aligner, learned with the model",
        "train_left_out_as_longer": num_left_out,
        "longest_symbols": longest_text,
        "longest_frames": longest_sound,
    }
    return Speech(
        parts,
        references,
        sounds,
        max_symbols=settings.max_symbols or longest_text,
        max_frames=settings.max_frames or int(LONGER * longest_sound),
        aligned=aligned,
        key=_key(source.fingerprint, [u.name for u in parts[0]], [u.name for u in parts[2]], settings.text),
        name=source.name,
        fingerprint=source.fingerprint,
        embedded=source.embedded,
        details=details,
    )


_Parts = tuple[list[Utterance], list[Utterance], list[Utterance]]
_Compared = tuple[dict[str, Reference], dict[str, Tensor]]  # references, and recordings to show, by name
_Loaded = tuple[_Source, _Parts, _Compared]


def _load_embedded(settings: DataSettings, cache: Path, vocoder: Vocoder) -> _Loaded:
    sizes = (settings.num_train, settings.num_validation, settings.num_test)
    chosen = {name: getattr(settings, name) for name in ("name", "voices", "rates", "long", "text", "seed")}
    key = _key("embedded", sizes, chosen, version(SPOKEN_FROM), pitch_method())
    path = cache / f"tts-{key}.npz"
    loaded = load_utterances(path)
    sentences: list[synthetic.Sentence] = []
    if loaded is None:
        sentences = _speak(settings)
        save_utterances(path, [_from_sentence(sentence, settings.text) for sentence in sentences], {})
        loaded = load_utterances(path)
        assert loaded is not None
    utterances, _ = loaded
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(json.dumps([utterance.name, utterance.text, utterance.symbols]).encode())
        for values in (utterance.mel, utterance.durations):
            digest.update(values.numpy().tobytes())
    parts = _cut(utterances, sizes)
    scored = [*parts[1], *parts[2]]

    def recorded() -> list[Tensor]:
        spoken = {s.name: s.spoken.samples for s in sentences or _speak(settings)}
        return [_as_float(spoken[utterance.name]) for utterance in scored]

    references = _references(cache, key, parts, vocoder, recorded)
    details = {
        "voices": list(settings.voices),
        "rates": {name: synthetic.RATES[name] for name in settings.rates},
        "split": "by sentence, each of which is spoken once",
        "espeak-ng": f"of {SPOKEN_FROM} {version(SPOKEN_FROM)}",
    }
    return _Source("embedded", digest.hexdigest(), True, details), parts, references


def _speak(settings: DataSettings) -> list[synthetic.Sentence]:
    count = settings.num_train + settings.num_validation + settings.num_test
    return synthetic.make_sentences(
        settings.seed,
        count,
        grammar=settings.name,
        voices=settings.voices,
        rates=settings.rates,
        long=settings.long,
    )


def _as_float(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def _from_sentence(sentence: synthetic.Sentence, text: str) -> Utterance:
    samples = _as_float(sentence.spoken.samples)
    measured = measure_frames(samples, pitch_method())
    phonemes, durations = synthetic.frame_durations(sentence.spoken, len(measured.mel), audio.HOP)
    first = speaker_symbol(sentence.speaker)
    if text == "characters":  # espeak-ng gives the times of phonemes only; the aligner finds those of letters
        symbols, durations = (first, *split_characters(sentence.text), END), durations[:0]
    else:
        symbols = (first, *phonemes, END)
    return Utterance(sentence.name, sentence.text, symbols, *measured, torch.from_numpy(durations.copy()))


def _load_real(settings: DataSettings, data_root: Path, cache: Path, vocoder: Vocoder) -> _Loaded:
    folder = ljspeech.find_folder(data_root, settings.folder)
    rows = ljspeech.read_table(folder / ljspeech.TABLE)
    empty = [row.name for row in rows if not row.text.strip() and not (row.phonemes or "").strip()]
    all_parts, rule = ljspeech.split_rows([row for row in rows if row.name not in empty])
    sizes = (settings.num_train, settings.num_validation, settings.num_test)
    limited = [_evenly(part, size) for part, size in zip(all_parts, sizes, strict=True)]
    if settings.alignments is not None and not (folder / settings.alignments).is_dir():
        raise ValueError(f"data.alignments {settings.alignments!r}: tts/{folder.name}/ has no such folder")
    fingerprint = _fingerprint(folder, limited, settings.alignments)
    key = _key(fingerprint, settings.text, settings.alignments, version(SPOKEN_FROM), pitch_method())
    path = cache / f"tts-{key}.npz"
    loaded = load_utterances(path)
    if loaded is None:
        loaded = _measure_all(folder, [row for part in limited for row in part], settings)
        save_utterances(path, *loaded)
    utterances, notes = loaded
    by_name = {utterance.name: utterance for utterance in utterances}
    kept = [[by_name[row.name] for row in part if row.name in by_name] for part in limited]
    parts = (kept[0], kept[1], kept[2])
    for part, content in zip(PARTS, parts, strict=True):
        if not content:
            reasons = "; ".join(notes["left_out"][:3]) or "it is empty"
            raise ValueError(f"tts/{folder.name}: the {part} part has no usable utterance ({reasons})")
    scored = [*parts[1], *parts[2]]
    references = _references(
        cache, key, parts, vocoder, lambda: [_samples(folder, utterance.name)[0] for utterance in scored]
    )
    left_out = [f"{name}: empty transcript" for name in empty] + notes["left_out"]
    details = {
        "split": rule,
        "conversions": notes["conversions"],
        "left_out": {"count": len(left_out), "first": left_out[:LEFT_OUT_SHOWN]},
        "whole": dict(zip(PARTS, (len(a) == len(b) for a, b in zip(all_parts, limited, strict=True)), strict=True)),
    }
    return _Source(folder.name, fingerprint, False, details), parts, references


def _evenly(rows: Sequence[ljspeech.Row], count: int) -> list[ljspeech.Row]:
    """At most ``count`` rows, evenly spaced."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index] for index in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _samples(folder: Path, name: str) -> audio.Recording:
    path = ljspeech.wav_of(folder, name) or folder / "wavs" / f"{name}.wav"
    return audio.read_wav(path, f"tts/{folder.name}/wavs/{path.name}")


def _measure_all(
    folder: Path, rows: Sequence[ljspeech.Row], settings: DataSettings
) -> tuple[list[Utterance], dict[str, Any]]:
    """The utterances that can be used, and notes of conversions and of utterances left out."""
    phonemize = Phonemizer()
    utterances: list[Utterance] = []
    left_out: list[str] = []
    conversions: list[str] = []
    for row in rows:
        recording = _samples(folder, row.name)
        conversions += recording.conversions
        measured = measure_frames(recording.samples, pitch_method())
        durations = np.zeros(0, np.int64)
        try:
            if settings.text == "characters":
                symbols = split_characters(row.text)
            else:
                symbols = split_phonemes(row.phonemes or phonemize(row.text))
            if settings.alignments is not None:
                num_samples, num_frames = len(recording.samples), len(measured.mel)
                place = folder / settings.alignments
                phones, durations = ljspeech.read_alignment(place, row.name, num_samples, num_frames)
                if phones and settings.text == "characters":
                    raise ValueError("a TextGrid has phones; data.text=characters needs .npy durations of characters")
                symbols = phones or symbols
                if len(durations) != len(symbols) + 2:
                    raise ValueError(
                        f"{len(durations)} durations for {len(symbols) + 2} symbols, speaker and end included"
                    )
            elif len(measured.mel) < len(symbols) + 2:
                raise ValueError(f"{len(symbols) + 2} symbols can't be aligned with {len(measured.mel)} frames")
        except ValueError as error:
            left_out.append(f"{row.name}: {error}")
            continue
        whole = (speaker_symbol("reader"), *symbols, END)
        utterances.append(Utterance(row.name, row.text, whole, *measured, torch.from_numpy(durations)))
    if not utterances:
        raise ValueError(f"tts/{folder.name}: no usable utterance; {left_out[0]}")
    return utterances, {"left_out": left_out, "conversions": count_notes(conversions)}


def _references(
    cache: Path,
    key: str,
    parts: Sequence[Sequence[Utterance]],
    vocoder: Vocoder,
    recorded: Callable[[], list[Tensor]],
) -> _Compared:
    """The references of validation and test utterances, and the sounds that a record may keep; from the cache if it has them.

    recorded: gives the samples of the validation utterances and then of the test utterances.
    """
    scored = [utterance for part in parts[1:] for utterance in part]
    names = [utterance.name for utterance in scored]
    path = cache / f"tts-{_key(key, names, vocoder.key)}.reference.npz"
    loaded = load_references(path)
    if loaded is None:
        samples = recorded()
        made = [make_reference(x, u.mel, vocoder) for u, x in zip(scored, samples, strict=True)]
        by_name = dict(zip(names, samples, strict=True))
        kept = shortest(parts[2], MOST_SHOWN)
        sounds = {u.name: by_name[u.name] for u in kept}
        loaded = made, sounds | {vocoded(u.name): vocoder(u.mel) for u in kept}
        save_references(path, *loaded)
    references, shown = loaded
    return dict(zip(names, references, strict=True)), shown


def vocoded(name: str) -> str:
    """The key of ``Speech.sounds`` for the truth of an utterance after the vocoder."""
    return f"{name}.vocoded"


def shortest(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """The ``count`` shortest ones; names decide between equal numbers of frames."""
    return sorted(utterances, key=lambda utterance: (len(utterance.mel), utterance.name))[:count]


def _shorter(parts: _Parts, seconds: float | None) -> tuple[_Parts, int]:
    """The parts without the training utterances that are longer, and the number of these."""
    train, validation, test = parts
    kept = [u for u in train if seconds is None or len(u.mel) * audio.HOP <= seconds * audio.SAMPLE_RATE]
    if not kept:
        raise ValueError(f"data.longest_train_seconds {seconds}: all {len(train)} training utterances are longer")
    return (kept, validation, test), len(train) - len(kept)


def _refuse_longer(parts: Sequence[Sequence[Utterance]], settings: DataSettings) -> None:
    """Raises ValueError naming the first utterance that is longer than the settings allow."""
    for part, utterances in zip(PARTS, parts, strict=True):
        for utterance in utterances:
            for setting, count, what in (
                ("max_symbols", len(utterance.symbols), "symbols"),
                ("max_frames", len(utterance.mel), "frames"),
            ):
                limit = getattr(settings, setting)
                if limit is not None and count > limit:
                    raise ValueError(
                        f"data.{setting} {limit}: {utterance.name} ({part}) has {count} {what}; allow as many, or leave the "
                        "setting out"
                    )


def _cut(utterances: list[Utterance], sizes: tuple[int, int, int]) -> _Parts:
    first, second = sizes[0], sizes[0] + sizes[1]
    return utterances[:first], utterances[first:second], utterances[second:]


def _fingerprint(folder: Path, parts: Sequence[Sequence[ljspeech.Row]], alignments: str | None) -> str:
    """SHA-256 over the table, the recordings in use and their alignments."""
    digest = hashlib.sha256(hashlib.sha256((folder / ljspeech.TABLE).read_bytes()).digest())
    for part in parts:
        for row in part:
            paths = [ljspeech.wav_of(folder, row.name)]
            if alignments is not None:
                paths += [ljspeech.alignment_of(folder / alignments, row.name, one) for one in (".npy", ".TextGrid")]
            for path in paths:
                if path is not None:
                    digest.update(row.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts], default=str).encode()).hexdigest()[:24]
