"""espeak-ng in this process: calls the library of the package ``espeakng-loader`` through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader
import numpy as np

SAMPLE_RATE = 22_050
SYNCHRONOUS, CHARS_UTF8, NO_EXIT = 2, 1, 0x8000
PHONEME_EVENTS, PHONEME_IPA = 1, 2
EVENT_END, EVENT_PHONEME = 0, 7
RATE, PITCH = 1, 3  # parameters of espeak_SetParameter
TEXT_IPA = 0x02  # mode of espeak_TextToPhonemes
SEED = 1  # of the noise in breath and fricatives, so that the same text gives the same samples


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Spoken(NamedTuple):
    """The sound of a text, and its phonemes with their times."""

    samples: np.ndarray  # int16 (n,), 22,050 Hz
    phonemes: tuple[str, ...]  # IPA with stress; "" for a pause
    starts: np.ndarray  # int64 (phonemes,): the sample at which each phoneme begins


class Espeak:
    """A private instance of espeak-ng.

    The oscillators of espeak-ng go on where the text before ended, so its samples depend on all earlier texts.  A new
    instance starts afresh: it loads a copy of the library under another name, which has memory of its own.
    """

    def __init__(self) -> None:
        source = Path(espeakng_loader.get_library_path())
        # The copy is removed at once.  A system that can't remove a loaded library cleans its temporary files up later.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self.library: Any = ctypes.CDLL(str(shutil.copy(source, Path(folder, source.name))))
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        options = PHONEME_EVENTS | PHONEME_IPA | NO_EXIT
        rate = self.library.espeak_Initialize(SYNCHRONOUS, 200, espeakng_loader.get_data_path().encode(), options)
        if rate != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng could not be initialised (it answered {rate} instead of {SAMPLE_RATE} Hz)")

    def speak(self, text: str, *, voice: str, rate: int = 175, pitch: int = 50) -> Spoken:
        """Speaks a text.

        voice: a language as en-us, with or without a variant as en-us+f2.  rate: words a minute, 80 to 450.
        pitch: 0 to 100.  Raises ValueError for an unknown voice.
        """
        self._set_voice(voice)
        pieces: list[np.ndarray] = []
        events: list[tuple[int, str]] = []

        def receive(samples: Any, count: int, event: Any) -> int:
            if count and samples:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            index = 0
            while event[index].type != EVENT_END:
                if event[index].type == EVENT_PHONEME:
                    events.append((event[index].sample, event[index].id.string.decode("utf-8", "replace")))
                index += 1
            return 0

        callback = _CALLBACK(receive)
        self.library.espeak_SetSynthCallback(callback)
        self.library.espeak_SetParameter(RATE, rate, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))
        content = text.encode()
        self.library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 1, 0, CHARS_UTF8, None, None)
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
        starts = np.array([start for start, _ in events], dtype=np.int64)
        return Spoken(samples, tuple(name for _, name in events), starts)

    def phonemes(self, text: str, *, voice: str = "en-us") -> str:
        """The text as IPA with stress marks, clauses separated by ``, ``, without other punctuation.

        Raises ValueError for an unknown voice.
        """
        self._set_voice(voice)
        buffer = ctypes.create_string_buffer(text.encode())
        pointer = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = []
        while pointer.value:
            clause = self.library.espeak_TextToPhonemes(ctypes.byref(pointer), CHARS_UTF8, TEXT_IPA)
            clauses.append((clause or b"").decode().strip())
        return ", ".join(clause for clause in clauses if clause)

    def _set_voice(self, voice: str) -> None:
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; one as en-us, or with a variant as en-us+f2")
