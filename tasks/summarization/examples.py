"""Tokenised examples of summarisation: the pairs, and the tokens of their sources and summaries in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmark.files import replacing
from benchmark.interface import Splits
from tasks.summarization.pairs import Pair


class AnyTokenizer(Protocol):
    """What the task needs of a tokeniser."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        ...

    @property
    def begin(self) -> int:
        """The token that the decoder reads before the first one."""
        ...

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of some tokens."""
        ...


class Example(NamedTuple):
    """One pair, tokenised and cut; source and target end with the end mark."""

    source: np.ndarray  # int64 (m,)
    target: np.ndarray  # int64 (n,): the first reference
    pair: Pair
    is_test: bool  # a summary is generated for test examples; the others need only their loss


class Side(NamedTuple):
    """The sources, or the targets, of one part: the tokens of all texts in a row, and where each text ends."""

    tokens: np.ndarray  # uint32 (all tokens,), a memory map where it was read from the cache
    ends: np.ndarray  # int64 (texts,)
    uncut: np.ndarray  # int64 (texts,): the number of tokens before cutting

    def text(self, index: int) -> np.ndarray:
        """The tokens of one text.  int64 (length,)"""
        start = self.ends[index - 1] if index else 0
        return np.asarray(self.tokens[start : self.ends[index]], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each text.  (texts,)"""
        return np.diff(self.ends, prepend=0)


class Examples(Sequence[Example]):
    """The examples of one part, each made when it is asked for."""

    def __init__(self, pairs: Sequence[Pair], source: Side, target: Side, *, is_test: bool) -> None:
        self.pairs, self.source, self.target, self.is_test = pairs, source, target, is_test

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # a range understands negative indices and raises IndexError beyond the end
        return Example(self.source.text(index), self.target.text(index), self.pairs[index], self.is_test)


class Summaries(NamedTuple):
    """Everything that the task keeps of its data."""

    splits: Splits
    tokenizer: AnyTokenizer
    end: int  # the end mark; ``tokenizer.begin`` is the begin mark
    longest_source: int  # tokens
    lead_sentences: int  # how many sentences of each document the control takes

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary; the end mark is its last token, or one of the tokeniser's."""
        return max(self.tokenizer.vocab_size, self.end + 1)


def flat(rows: Sequence[np.ndarray], uncut: Sequence[int]) -> Side:
    """A side of these texts.  uncut: their numbers of tokens before cutting."""
    tokens = np.concatenate(rows).astype(np.uint32)
    return Side(tokens, np.cumsum([len(row) for row in rows]), np.array(uncut))


def cached_side(stem: Path, make: Callable[[], Side]) -> Side:
    """A side from the cache; one that is not there is made and kept.  stem: how the names of its files begin."""
    paths = {field: stem.with_name(f"{stem.name}-{field}.npy") for field in Side._fields}
    if not all(path.exists() for path in paths.values()):
        for field, array in make()._asdict().items():
            with replacing(paths[field]) as file:
                np.save(file, array)
    return Side(np.load(paths["tokens"], mmap_mode="r"), np.load(paths["ends"]), np.load(paths["uncut"]))


def size_of(name: str, side: Side) -> dict[str, Any]:
    """Numbers of tokens of a side for the record, under names that begin with ``name``."""
    return {
        f"{name}_tokens": int(side.ends[-1]),
        f"{name}_tokens_cut": float(1 - side.ends[-1] / side.uncut.sum()),
        f"{name}_longest": int(side.lengths.max()),
        f"{name}_median": float(np.median(side.lengths)),
    }
