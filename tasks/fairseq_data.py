"""Reads what ``fairseq-preprocess`` writes (dictionaries, binarised texts), without fairseq."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.text_files import decoded, read_content, split_lines

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # the first four words of every dictionary; its file leaves them out
END, UNKNOWN = SPECIAL.index("</s>"), SPECIAL.index("<unk>")

MAGIC = b"MMIDIDX\0\0"
HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the tokens' type, number of items
TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32, 10: np.uint64}
TOKENS_AT_ONCE = 2**22


class Binarised(NamedTuple):
    """A binarised text; an item is a line with its ``</s>``."""

    tokens: np.ndarray  # (tokens,) of all items in a row; a memory map
    ends: np.ndarray  # (items,) int64, where each item ends


def read_dictionary(path: Path, name: str) -> tuple[str, ...]:
    """The words in the order of their numbers, the special ones first.  name: the file's name in messages.

    Raises ValueError with one line for a file that is not a dictionary.
    """
    text = decoded(read_content(path, name, advice="a folder that fairseq-preprocess wrote has it"), name)
    words, seen = list(SPECIAL), set(SPECIAL)
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        entry = line.rstrip()
        overwrites = entry.endswith(" #fairseq:overwrite")  # the word may occur again, with a further number
        word, _, count = entry.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not word or not count.isdecimal():
            raise ValueError(f"{name}: line {number}, {line[:80]!r}, is not a word, a space and its count")
        if word in seen and not overwrites:
            raise ValueError(f"{name}: line {number}: {word!r} is there already; each word has one line")
        words.append(word)
        seen.add(word)
    return tuple(words)


def read_binarised(prefix: Path, name: str, vocab_size: int) -> Binarised:
    """The text of ``<prefix>.bin`` and ``<prefix>.idx``, as ``--dataset-impl mmap`` (the default) writes them.

    name: the prefix in messages.  Raises ValueError with one line for files that are missing, of another kind, cut off, or
    hold tokens that the dictionary doesn't have.
    """
    for ending in ("idx", "bin"):
        if not _path(prefix, ending).is_file():
            raise ValueError(f"{name}.{ending}: no such file; fairseq-preprocess writes {name}.idx and {name}.bin")
    dtype, sizes = _read_index(_path(prefix, "idx"), f"{name}.idx")
    ends = np.cumsum(sizes, dtype=np.int64)
    wanted, found = int(ends[-1]) * dtype.itemsize, _path(prefix, "bin").stat().st_size
    if found != wanted:
        raise ValueError(
            f"{name}.bin: has {found:,} bytes, {name}.idx states {wanted:,}: cut off, or not the file of this index"
        )
    if not wanted:
        raise ValueError(f"{name}.bin: has no token; a part needs text")
    tokens = np.memmap(_path(prefix, "bin"), dtype=dtype, mode="r")
    _check_tokens(tokens, f"{name}.bin", vocab_size)
    return Binarised(tokens, ends)


def holds_codes(words: tuple[str, ...]) -> bool:
    """Whether a dictionary holds numbers, the codes of a BPE such as GPT-2's, whose pieces stand elsewhere."""
    own = words[len(SPECIAL) :]
    return bool(own) and sum(word.isdecimal() for word in own) > 0.9 * len(own)


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of these files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def paths_of(prefix: Path) -> tuple[Path, Path]:
    """The file of the index, and the file of the tokens."""
    return _path(prefix, "idx"), _path(prefix, "bin")


def _path(prefix: Path, ending: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{ending}")


def _read_index(path: Path, name: str) -> tuple[np.dtype, np.ndarray]:
    """The type of the tokens, and the number of tokens of each item."""
    content = read_content(path, name)
    if content[:6] == b"TNTIDX":
        raise ValueError(f"{name}: was written by --dataset-impl lazy or cached; mmap, fairseq's default, is read here")
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{name}: does not begin with MMIDIDX, as an index of fairseq-preprocess does")
    if len(content) < HEADER.size:
        raise ValueError(f"{name}: ends within its header, after {len(content)} bytes; it is cut off")
    _, version, code, num_items = HEADER.unpack_from(content)
    if version != 1 or code not in TYPES:
        raise ValueError(
            f"{name}: version {version} with tokens of type {code}; version 1 with whole numbers "
            f"(types {', '.join(map(str, TYPES))}) is read here"
        )
    if not num_items:
        raise ValueError(f"{name}: has no item; a part needs text")
    wanted = HEADER.size + num_items * (4 + 8)
    if len(content) != wanted:
        raise ValueError(
            f"{name}: has {len(content):,} bytes, {num_items:,} items take {wanted:,}: cut off, or not fairseq's index"
        )
    dtype = np.dtype(TYPES[code]).newbyteorder("<")
    sizes = np.frombuffer(content, "<i4", num_items, HEADER.size)
    offsets = np.frombuffer(content, "<i8", num_items, HEADER.size + sizes.nbytes)
    in_a_row = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) * dtype.itemsize
    if sizes.min() < 0 or not np.array_equal(offsets, in_a_row):
        raise ValueError(f"{name}: its items don't follow one another without gaps; it is damaged")
    return dtype, sizes


def _check_tokens(tokens: np.ndarray, name: str, vocab_size: int) -> None:
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[start : start + TOKENS_AT_ONCE]
        strange = np.flatnonzero((piece >= vocab_size) | (piece < 0))
        if len(strange):
            raise ValueError(
                f"{name}: token {start + int(strange[0]):,} is {int(piece[strange[0]])}, the dictionary has {vocab_size} "
                "words, numbered from 0; dictionary and texts must be of one run of fairseq-preprocess"
            )
