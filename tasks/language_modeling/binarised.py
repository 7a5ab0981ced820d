"""A folder of ``fairseq-preprocess --only-source`` as the task's data: its dictionary are the tokens.

A part is one document: consecutive blocks of it are those of fairseq's ``--sample-break-mode none``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.fairseq_data import (
    END,
    SPECIAL,
    TOKENS_AT_ONCE,
    UNKNOWN,
    fingerprint,
    paths_of,
    read_binarised,
    read_dictionary,
)
from tasks.language_modeling.data import TokenizedPart

PREFIXES = {"train": "train", "validation": "valid", "test": "test"}

JOINS = {  # data.tokens -> how words make text, in fairseq's words (--post-process)
    "fairseq": "words",
    "fairseq_subword_nmt": "subword_nmt",
    "fairseq_sentencepiece": "sentencepiece",
}


class FairseqTokens:
    """The dictionary, in place of a tokeniser: the texts are tokens already."""

    begin = END  # fairseq's language models read </s> before the first token

    def __init__(self, words: tuple[str, ...], kind: str) -> None:
        self.words, self.kind = words, kind
        self.vocab_size = len(words)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join([self.kind, *self.words]).encode()).hexdigest()


class LineCounter:
    """Counts bytes and words of slices of lines, as ``TextCounter`` does; a line ends with ``</s>``, its newline.

    A word is followed by one space, or by the newline.  With "subword_nmt" a piece that ends with @@ is followed by
    nothing; with "sentencepiece" a space stands where a piece has ▁, but none before the line.
    """

    def __init__(self, words: tuple[str, ...], kind: str) -> None:
        join = JOINS[kind]
        goes_on = np.array([join == "subword_nmt" and word.endswith("@@") for word in words])
        marked = np.array([join == "sentencepiece" and word.startswith("▁") for word in words])
        length = np.array(
            [len(word.replace("▁", " ").encode() if join == "sentencepiece" else word.encode()) for word in words]
        )
        follows = np.zeros(len(words), dtype=np.int64) if join == "sentencepiece" else np.where(goes_on, -2, 1)
        self.inner = length + follows  # bytes of a token after another of its line
        self.first = self.inner - marked  # and at the beginning of a line
        self.inner[END], self.first[END] = int(join == "sentencepiece"), 1  # words bring their newline themselves
        self.goes_on, self.starts_word = goes_on, marked if join == "sentencepiece" else np.ones(len(words), dtype=bool)
        self.starts_word[END] = False

    def num_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """previous: the token before the slice, None where the part begins."""
        before = self._before(tokens, previous)
        return int(np.where(before == END, self.first[tokens], self.inner[tokens]).sum())

    def num_words(self, tokens: np.ndarray, previous: int | None) -> int:
        before = self._before(tokens, previous)
        starts = (self.starts_word[tokens] & ~self.goes_on[before]) | (before == END)
        return int((starts & (tokens != END)).sum())

    def _before(self, tokens: np.ndarray, previous: int | None) -> np.ndarray:
        before = np.empty(len(tokens), dtype=np.int64)
        before[1:] = tokens[:-1]
        before[:1] = END if previous is None else previous
        return before


class BinarisedTexts(NamedTuple):
    """All that the task takes from such a folder."""

    tokenizer: FairseqTokens
    counter: LineCounter
    parts: dict[str, TokenizedPart]
    sizes: Mapping[str, Mapping[str, Any]]  # by part: lines, tokens, bytes (None where unknown), whether it is whole
    name: str
    fingerprint: str
    bytes_unknown: str | None  # why bits per byte can't be told


def load_binarised(data_root: Path | None, kind: str, max_bytes: Mapping[str, int | None]) -> BinarisedTexts:
    """Reads ``<data root>/lm`` or the data root itself, whichever has a ``dict.txt``.

    max_bytes: by part; takes lines from its middle, as many as make so many bytes of text at the part's mean length of
    a token (4 bytes where texts can't be recovered).  Raises ValueError with one line where the files can't be used.
    """
    if data_root is None:
        raise ValueError(
            f"data.tokens {kind}: needs --data-root with a folder that fairseq-preprocess wrote (dict.txt, train.bin, …); "
            "without: bytes, bpe"
        )
    label, folder = next(
        (
            (label, folder)
            for label, folder in (("lm/", data_root / "lm"), ("", data_root))
            if (folder / "dict.txt").exists()
        ),
        ("lm/", data_root / "lm"),
    )
    tokenizer = FairseqTokens(read_dictionary(folder / "dict.txt", f"{label}dict.txt"), kind)
    counter = LineCounter(tokenizer.words, kind)
    whole = {
        part: read_binarised(folder / prefix, f"{label}{prefix}", tokenizer.vocab_size)
        for part, prefix in PREFIXES.items()
    }
    unknown = _why_unknown(tokenizer.words, whole["test"].tokens)
    parts, sizes = {}, {}
    for part, (tokens, ends) in whole.items():
        limit = max_bytes[part]
        sample = tokens[:TOKENS_AT_ONCE]
        bytes_of_token = 4.0 if unknown else counter.num_bytes(sample) / len(sample)
        first, last = _middle(ends, None if limit is None else limit / bytes_of_token)
        start = int(ends[first - 1]) if first else 0
        taken = tokens[start : int(ends[last])]
        parts[part] = TokenizedPart(taken, np.array([len(taken)]))
        sizes[part] = {
            "documents": 1,
            "lines": last + 1 - first,
            "bytes": None if unknown else _count_bytes(counter, taken),
            "tokens": len(taken),
            "whole": len(taken) == len(tokens),
        }
    files = [folder / "dict.txt", *(path for prefix in PREFIXES.values() for path in paths_of(folder / prefix))]
    return BinarisedTexts(tokenizer, counter, parts, sizes, "fairseq", fingerprint(files), unknown)


def _middle(ends: np.ndarray, max_tokens: float | None) -> tuple[int, int]:
    """First and last of the lines from the middle that have about so many tokens; all where that is None."""
    if max_tokens is None or ends[-1] <= max_tokens:
        return 0, len(ends) - 1
    start = (ends[-1] - max_tokens) / 2
    first = int(np.searchsorted(ends, start))
    last = int(np.searchsorted(ends, start + max_tokens))
    return first, max(first, min(last, len(ends) - 1))


def _count_bytes(counter: LineCounter, tokens: np.ndarray) -> int:
    """Of whole lines, piece by piece: the training part may have a hundred million tokens."""
    starts = range(0, len(tokens), TOKENS_AT_ONCE)
    return sum(
        counter.num_bytes(tokens[start : start + TOKENS_AT_ONCE], int(tokens[start - 1]) if start else None)
        for start in starts
    )


def _why_unknown(words: tuple[str, ...], test: np.ndarray) -> str | None:
    """Why the text can't be recovered from the tokens, so that its bytes are unknown; None where it can."""
    own = words[len(SPECIAL) :]
    if own and sum(word.isdecimal() for word in own) > 0.9 * len(own):
        return "the dictionary holds numbers, the codes of a BPE whose pieces are not there"
    lost = int((test == UNKNOWN).sum())
    return f"{lost:,} of {len(test):,} tokens of the test part are <unk>, whose text is lost" if lost else None
