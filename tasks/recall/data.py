"""Draws the texts of all families, difficulties and parts: the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmark.interface import PATTERNS, Pattern, Splits
from tasks.recall.families import FAMILIES, Family
from tasks.recall.settings import DataSettings, Difficulty
from tasks.recall.texts import Texts

PARTS = ("train", "validation", "test")
TEXTS_AT_ONCE = 4096  # are drawn together; part of the definition of the data, because it orders the draws


class Set(NamedTuple):
    """The texts of one family at one difficulty, in one part of the data."""

    family: str
    pairs: int
    length: int
    is_trained: bool  # whether training has this difficulty
    texts: Texts


class Example(NamedTuple):
    """One text of a set."""

    set: Set
    row: int


class Training(Sequence[tuple[Example, ...]]):
    """The training part.  Example i has one text of each family; the difficulties of a family take turns."""

    def __init__(self, sets: Sequence[Set]) -> None:
        self.sets = sets
        families = dict.fromkeys(one.family for one in sets)
        self._turns = [[one for one in sets if one.family == family] for family in families]

    def __len__(self) -> int:
        return min(sum(len(one.texts.answers) for one in turn) for turn in self._turns)

    def __getitem__(self, index: Any) -> Any:
        return tuple(Example(turn[index % len(turn)], index // len(turn)) for turn in self._turns)


class Part(Sequence[tuple[Example, ...]]):
    """A part that is scored.  Each example is one text; sets take turns, so that any first examples are of all sets."""

    def __init__(self, sets: Sequence[Set]) -> None:
        self.sets = sets
        rows = np.concatenate([np.arange(len(one.texts.answers)) for one in sets])
        numbers = np.repeat(np.arange(len(sets)), [len(one.texts.answers) for one in sets])
        order = np.lexsort((numbers, rows))
        self._places = np.stack([numbers, rows], 1)[order].tolist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        number, row = self._places[index]
        return (Example(self.sets[number], row),)


def draw_splits(options: DataSettings, pattern: Pattern) -> Splits:
    """Draws all parts.  Raises ValueError for a family or difficulty that the pattern or vocabulary doesn't allow."""
    families = [name for name in options.families if pattern in FAMILIES[name].patterns]
    if not families:
        have = [name for name, family in FAMILIES.items() if pattern in family.patterns]
        raise ValueError(f"data.families {list(options.families)}: none for {pattern}; it has {', '.join(have)}")
    parts = {part: _sets(options, families, part, pattern) for part in PARTS}
    digest = hashlib.sha256()
    for sets in parts.values():
        for one in sets:
            for array in one.texts:
                digest.update(b"" if array is None else np.ascontiguousarray(array).astype("<i4").tobytes())
    return Splits(
        Training(parts["train"]),
        Part(parts["validation"]),
        Part(parts["test"]),
        name="embedded",
        fingerprint=digest.hexdigest(),
        embedded=True,
        details=_details(options, families, parts["test"]),
    )


def _sets(options: DataSettings, families: Sequence[str], part: str, pattern: Pattern) -> list[Set]:
    sets = []
    for name in families:
        sizes = getattr(options, name)
        difficulties = sizes.test if part == "test" else sizes.train
        for index, difficulty in enumerate(difficulties):
            is_trained = difficulty in sizes.train
            count = getattr(options, f"num_{part}") if is_trained else options.num_curve
            if part == "train":  # an equal share, so that example i has a text for every i
                count = -(-count // len(difficulties))
            check_difficulty(name, difficulty, options.vocab_size, pattern)
            # A family's texts must not depend on which other families there are.
            entropy = [options.seed, PATTERNS.index(pattern), zlib.crc32(name.encode()), PARTS.index(part), index]
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
            texts = draw(FAMILIES[name], generator, count, difficulty, options.vocab_size, pattern)
            pairs, length = difficulty
            sets.append(Set(name, pairs, length, is_trained, texts))
    return sets


def draw(
    family: Family,
    generator: np.random.Generator,
    count: int,
    difficulty: Difficulty,
    vocab_size: int,
    pattern: Pattern,
) -> Texts:
    """Draws texts of one family, ``TEXTS_AT_ONCE`` together, so that memory stays small."""
    pieces = [
        family.draw(generator, min(TEXTS_AT_ONCE, count - first), *difficulty, vocab_size, pattern)
        for first in range(0, count, TEXTS_AT_ONCE)
    ]
    columns: list[Any] = [
        None if column[0] is None else np.concatenate(column).astype(np.int32) for column in zip(*pieces, strict=True)
    ]
    return Texts(*columns)


def check_difficulty(name: str, difficulty: Difficulty, vocab_size: int, pattern: Pattern) -> None:
    """Raises ValueError if a text of this family can't have these pairs or this length."""
    family, (pairs, length) = FAMILIES[name], difficulty
    place = f"data.{name} [{pairs}, {length}]"
    least = family.places(pairs, pattern.endswith("cross"))
    if length < least:
        raise ValueError(f"{place}: {pairs} pairs need a length of at least {least} for {pattern}")
    most = None if family.most_pairs is None else family.most_pairs(vocab_size)
    if most is not None and pairs > most:
        raise ValueError(f"{place}: at most {most} pairs with data.vocab_size {vocab_size}")
    if name == "mqar" and not pattern.endswith("cross") and length % 2:
        raise ValueError(f"{place}: the length must be even, because queries stand at even places")
    if name == "induction":
        words = length if pattern.endswith("cross") else length - 2 * pairs
        if words >= vocab_size:
            raise ValueError(f"{place}: its {words} different words need a data.vocab_size above {words}")


def _details(options: DataSettings, families: Sequence[str], test: Sequence[Set]) -> Mapping[str, Any]:
    return {
        "families": list(families),
        "vocab_size": options.vocab_size,
        "test": [{"family": one.family, "pairs": one.pairs, "length": one.length} for one in test],
    }
