"""Symbols: the text of an utterance as phonemes or characters, between a symbol of the speaker and one of the end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from tasks.text_to_speech.espeak import Espeak

PADDING, UNKNOWN, END = "<pad>", "<unknown>", "<end>"
PADDING_ID, UNKNOWN_ID, END_ID = 0, 1, 2
# A phoneme is a base with stress before it and marks behind it (length, rhoticity, ties, combining marks).
PHONEME = re.compile(r"[ˈˌ]*[^\sˈˌ][ːˑʰʲʷ˞ˠˤ\u0300-\u036f]*")


def split_phonemes(ipa: str) -> list[str]:
    """Phonemes with their stress, and one space between words.  Raises ValueError if there is no phoneme."""
    words = unicodedata.normalize("NFD", ipa).split()
    symbols = [symbol for word in words for symbol in (" ", *PHONEME.findall(word))][1:]
    if not symbols:
        raise ValueError("no phonemes")
    return symbols


def split_characters(text: str) -> list[str]:
    """Lower-case characters, with one space for white space.  Raises ValueError if there is no character."""
    symbols = list(" ".join(unicodedata.normalize("NFC", text).lower().split()))
    if not symbols:
        raise ValueError("no text")
    return symbols


class Phonemizer:
    """English text to IPA, by one instance of espeak-ng for many texts."""

    def __init__(self, voice: str = "en-us") -> None:
        self.espeak, self.voice = Espeak(), voice

    def __call__(self, text: str) -> str:
        return self.espeak.phonemes(text, voice=self.voice)


class Vocabulary:
    """Numbers the symbols of the training part; symbols that only other parts have become UNKNOWN."""

    def __init__(self, utterances: Iterable[Sequence[str]]) -> None:
        seen = sorted({symbol for symbols in utterances for symbol in symbols} - {END})
        self.symbols = (PADDING, UNKNOWN, END, *seen)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, symbols: Sequence[str]) -> list[int]:
        """The numbers of the symbols."""
        return [self._ids.get(symbol, UNKNOWN_ID) for symbol in symbols]


def speaker_symbol(name: str) -> str:
    """The first symbol of an utterance; with its brackets it never equals a phoneme or a character."""
    return f"<speaker {name}>"
