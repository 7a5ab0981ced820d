"""A folder of ``fairseq-preprocess --only-source`` as the task's data; the words of its dictionary are the tokens.

Each part is one document, so its consecutive blocks are those of fairseq's ``--sample-break-mode none``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.fairseq_data import (
    END,
    TOKENS_AT_ONCE,
    UNKNOWN,
    fingerprint,
    holds_codes,
    paths_of,
    read_binarised,
    read_dictionary,
)
from tasks.language_modeling.data import TokenizedPart

PREFIXES = {"train": "train", "validation": "valid", "test": "test"}

JOINS = {  # data.tokens -> how words are joined to text, by fairseq's names (--post-process)
    "fairseq": "words",
    "fairseq_subword_nmt": "subword_nmt",
    "fairseq_sentencepiece": "sentencepiece",
}


class FairseqTokens:
    """The dictionary in the place of a tokeniser; the texts are tokens already."""

    begin = END  # the language models of fairseq read </s> before the first token

    def __init__(self, words: tuple[str, ...], kind: str) -> None:
        self.words, self.kind = words, kind
        self.vocab_size = len(words)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the words and their kind."""
        return hashlib.sha256("\n".join([self.kind, *self.words]).encode()).hexdigest()


class LineCounter:
    """Counts bytes and words of slices of lines, as ``TextCounter`` does.

    ``</s>`` ends a line and counts as its newline.  A word is followed by one space, or by the newline.  With "subword_nmt"
    nothing follows a piece that ends with @@.  With "sentencepiece" ▁ is a space, except at the start of a line.
    """

    def __init__(self, words: tuple[str, ...], kind: str) -> None:
        join = JOINS[kind]
        goes_on = np.array([join == "subword_nmt" and word.endswith("@@") for word in words])
        marked = np.array([join == "sentencepiece" and word.startswith("▁") for word in words])
        length = np.array(
            [len(word.replace("▁", " ").encode() if join == "sentencepiece" else word.encode()) for word in words]
        )
        follows = np.zeros(len(words), dtype=np.int64) if join == "sentencepiece" else np.where(goes_on, -2, 1)
        self.inner = length + follows  # bytes of a token that follows another one of its line
        self.first = self.inner - marked  # bytes of a token at the start of a line
        # The space that was counted after the last word is the newline; pieces of sentencepiece have none after them.
        self.inner[END], self.first[END] = int(join == "sentencepiece"), 1
        self.goes_on, self.starts_word = goes_on, marked if join == "sentencepiece" else np.ones(len(words), dtype=bool)
        self.starts_word[END] = False

    def num_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """Bytes of the UTF-8 text.  previous: the token before the slice, None where the part begins."""
        before = self._before(tokens, previous)
        return int(np.where(before == END, self.first[tokens], self.inner[tokens]).sum())

    def num_words(self, tokens: np.ndarray, previous: int | None) -> int:
        """Words that begin in the slice.  previous: as in ``num_bytes``."""
        before = self._before(tokens, previous)
        starts = (self.starts_word[tokens] & ~self.goes_on[before]) | (before == END)
        return int((starts & (tokens != END)).sum())

    def _before(self, tokens: np.ndarray, previous: int | None) -> np.ndarray:
        before = np.empty(len(tokens), dtype=np.int64)
        before[1:] = tokens[:-1]
        before[:1] = END if previous is None else previous
        return before


class BinarisedTexts(NamedTuple):
    """Everything that the task takes from such a folder."""

    tokenizer: FairseqTokens
    counter: LineCounter
    parts: dict[str, TokenizedPart]
    sizes: Mapping[str, Mapping[str, Any]]  # by part: lines, tokens, bytes (None where unknown), whether it is whole
    name: str
    fingerprint: str
    bytes_unknown: str | None  # why the number of bytes is unknown; None if it is known


def load_binarised(data_root: Path | None, kind: str, max_bytes: Mapping[str, int | None]) -> BinarisedTexts:
    """Reads ``<data root>/lm`` if it has a ``dict.txt``, else the data root itself.

    kind: a key of JOINS.
    max_bytes: by part; takes about so many bytes of text as whole lines from the middle of the part, estimated by the mean
    length of its first tokens (4 bytes a token if the text can't be recovered).  None takes all lines.
    Raises ValueError with one line for files that can't be used.
    """
    if data_root is None:
        raise ValueError(
            f"data.tokens {kind}: needs --data-root with a folder that fairseq-preprocess wrote (dict.txt, train.bin, …); "
            "allowed without one: bytes, bpe"
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
    """The first and the last of those lines in the middle that have about so many tokens; of all lines for None."""
    if max_tokens is None or ends[-1] <= max_tokens:
        return 0, len(ends) - 1
    start = (ends[-1] - max_tokens) / 2
    first = int(np.searchsorted(ends, start))
    last = int(np.searchsorted(ends, start + max_tokens))
    return first, max(first, min(last, len(ends) - 1))


def _count_bytes(counter: LineCounter, tokens: np.ndarray) -> int:
    """Bytes of whole lines, piece by piece, because the training part may have a hundred million tokens."""
    starts = range(0, len(tokens), TOKENS_AT_ONCE)
    return sum(
        counter.num_bytes(tokens[start : start + TOKENS_AT_ONCE], int(tokens[start - 1]) if start else None)
        for start in starts
    )


def _why_unknown(words: tuple[str, ...], test: np.ndarray) -> str | None:
    """The reason why the text can't be recovered from the tokens and its bytes are unknown; None if it can."""
    if holds_codes(words):
        return "the dictionary holds numbers, the codes of a BPE whose pieces are not there"
    lost = int((test == UNKNOWN).sum())
    return f"{lost:,} of {len(test):,} tokens of the test part are <unk>, whose text is lost" if lost else None
