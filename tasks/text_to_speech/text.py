"""Symbols: an utterance's text as phonemes or characters, between a symbol for the speaker and one for the end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from tasks.text_to_speech.espeak import Espeak

PADDING, UNKNOWN, END = "<pad>", "<unknown>", "<end>"
PADDING_ID, UNKNOWN_ID, END_ID = 0, 1, 2
# A phoneme: stress before it, a base, and the marks behind it (length, rhoticity, ties, combining marks).
PHONEME = re.compile(r"[ˈˌ]*[^\sˈˌ][ːˑʰʲʷ˞ˠˤ\u0300-\u036f]*")


def split_phonemes(ipa: str) -> list[str]:
    """Phonemes with their stress, and one space between words.  Raises ValueError for a text without any."""
    words = unicodedata.normalize("NFD", ipa).split()
    symbols = [symbol for word in words for symbol in (" ", *PHONEME.findall(word))][1:]
    if not symbols:
        raise ValueError("no phonemes")
    return symbols


def split_characters(text: str) -> list[str]:
    """Lower-case characters, white space as one space.  Raises ValueError for a text without any."""
    symbols = list(" ".join(unicodedata.normalize("NFC", text).lower().split()))
    if not symbols:
        raise ValueError("no text")
    return symbols


class Phonemizer:
    """English text to IPA by espeak-ng, one instance for many texts."""

    def __init__(self, voice: str = "en-us") -> None:
        self.espeak, self.voice = Espeak(), voice

    def __call__(self, text: str) -> str:
        return self.espeak.phonemes(text, voice=self.voice)


class Vocabulary:
    """Numbers of symbols, fitted on the training part: what only other parts have is UNKNOWN."""

    def __init__(self, utterances: Iterable[Sequence[str]]) -> None:
        seen = sorted({symbol for symbols in utterances for symbol in symbols} - {END})
        self.symbols = (PADDING, UNKNOWN, END, *seen)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, symbols: Sequence[str]) -> list[int]:
        return [self._ids.get(symbol, UNKNOWN_ID) for symbol in symbols]


def speaker_symbol(name: str) -> str:
    """The first symbol of an utterance; no phoneme or character is longer than its bracket."""
    return f"<speaker {name}>"
