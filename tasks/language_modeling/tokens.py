"""Lossless tokenisers: bytes, whole words, byte-level BPE trained on the training part, and GPT-2's vocabulary.

Each tokeniser has ``kind``, ``pieces`` (the bytes of every token), ``begin`` (the token that opens a block and is never
predicted), ``vocab_size`` (``begin`` included), ``encode(texts) -> list of arrays`` and ``decode(tokens) -> bytes``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks.text_files import decoded, parse_json, read_content, split_lines

WORD = re.compile(r"\s?\w+|\s?[^\w\s]|\s")  # every character of a text is in one match
SPACE = frozenset(b" \t\n\r\v\f")  # ASCII only, so that words can be counted in pieces of a text


class ByteTokenizer:
    """Each byte of the UTF-8 text is a token."""

    kind = "bytes"
    begin = 256
    vocab_size = 257
    pieces = tuple(bytes([value]) for value in range(256))
    fingerprint = hashlib.sha256(b"bytes").hexdigest()

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """The tokens of each text, uint8 (bytes,)."""
        return [np.frombuffer(text, dtype=np.uint8) for text in texts]

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of some tokens."""
        return tokens.astype(np.uint8).tobytes()


class PieceTokenizer:
    """Byte-level BPE (Radford et al., 2019): no normalisation, no special tokens in the text, a token for each byte.

    begin: the token that opens a block; a further one, after the vocabulary's, if None.
    """

    def __init__(self, tokenizer: Tokenizer, kind: str, begin: int | None = None) -> None:
        self.tokenizer, self.kind = tokenizer, kind
        size = tokenizer.get_vocab_size()
        self.begin = size if begin is None else begin
        self.vocab_size = max(size, self.begin + 1)

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each token; ``begin`` has none."""
        value_of = {character: value for value, character in byte_characters().items()}
        words = (self.tokenizer.id_to_token(index) or "" for index in range(self.vocab_size))
        return tuple(
            b"" if index == self.begin else bytes(value_of[character] for character in word)
            for index, word in enumerate(words)
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of vocabulary and merges."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """The tokens of each text, uint32 (tokens,).  Raises UnicodeDecodeError for texts that are not UTF-8."""
        encodings = self.tokenizer.encode_batch([text.decode("utf-8") for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of some tokens."""
        return b"".join([self.pieces[token] for token in tokens])


class WordTokenizer:
    """Each word and each other sign is a token, together with the white space before it, if any.

    pieces: the tokens of the training part.  Other words can't be encoded, so this is for texts of few words.
    """

    kind = "words"

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self.pieces = (*pieces, b"")
        self.begin = len(pieces)
        self.vocab_size = len(pieces) + 1
        self._numbers = {piece.decode(): number for number, piece in enumerate(pieces)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the pieces."""
        return hashlib.sha256(b"\0".join((b"words", *self.pieces))).hexdigest()

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """The tokens of each text, uint32 (tokens,).  Raises ValueError for a word that the training part lacks."""
        try:
            return [
                np.array([self._numbers[word] for word in WORD.findall(text.decode("utf-8"))], dtype=np.uint32)
                for text in texts
            ]
        except KeyError as error:
            raise ValueError(
                f"data.tokens words: {error.args[0]!r:.40} is not in the training part; allowed are texts of the same few words, "
                "or tokens bytes or bpe"
            ) from None

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of some tokens."""
        return b"".join([self.pieces[token] for token in tokens])


AnyTokenizer = ByteTokenizer | PieceTokenizer | WordTokenizer


def words_in(texts: Iterable[bytes], vocab_size: int) -> WordTokenizer:
    """The tokeniser of the words of these texts, in alphabetical order.

    Raises ValueError if they and the begin token are more than ``vocab_size``.
    """
    words = {word for text in texts for word in WORD.findall(text.decode("utf-8"))}
    if len(words) >= vocab_size:
        raise ValueError(
            f"data.tokens words: the training part has {len(words):,} different words, data.vocab_size allows "
            f"{vocab_size - 1:,}; allowed are a larger one, or tokens bytes or bpe"
        )
    return WordTokenizer(tuple(sorted(word.encode() for word in words)))


def train_bpe(texts: Iterable[bytes], vocab_size: int) -> PieceTokenizer:
    """BPE with at most ``vocab_size`` tokens, the 256 bytes and ``begin`` included, trained on these texts."""
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(byte_characters().values()), show_progress=False
    )
    tokenizer.train_from_iterator((text.decode("utf-8") for text in texts), trainer)
    return PieceTokenizer(tokenizer, "bpe")


def load_bpe(path: Path) -> PieceTokenizer:
    """A tokeniser that ``train_bpe`` made, from its file."""
    return PieceTokenizer(Tokenizer.from_file(str(path)), "bpe")


def load_gpt2(folder: Path, name: str) -> PieceTokenizer:
    """GPT-2's tokeniser from its two files.  name: the folder's name in messages.

    Raises ValueError if a file is missing or malformed.
    """
    for file in ("vocab.json", "merges.txt"):
        if not (folder / file).is_file():
            raise ValueError(
                f"{name}/{file}: no such file; tokens gpt2 need GPT-2's vocab.json and merges.txt there "
                "(or choose tokens bytes or bpe)"
            )
    vocabulary = _read_vocabulary(folder / "vocab.json", f"{name}/vocab.json")
    merges = _read_merges(folder / "merges.txt", f"{name}/merges.txt", vocabulary)
    tokenizer = _byte_level(models.BPE(vocab=vocabulary, merges=merges))
    return PieceTokenizer(tokenizer, "gpt2", begin=vocabulary["<|endoftext|>"])


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_vocabulary(path: Path, name: str) -> dict[str, int]:
    vocabulary = parse_json(decoded(read_content(path, name), name), name)
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{name}: must map each piece to a number of its own, from 0 without gaps")
    missing = [piece for piece in ("<|endoftext|>", *byte_characters().values()) if piece not in vocabulary]
    if missing:
        raise ValueError(f"{name}: lacks {missing[0]!r}; all 256 bytes and <|endoftext|> must be there")
    known = set(byte_characters().values())
    strange = [piece for piece in vocabulary if piece != "<|endoftext|>" and not known.issuperset(piece)]
    if strange:
        raise ValueError(f"{name}: piece {strange[0]!r} is not written in GPT-2's byte characters")
    return vocabulary


def _read_merges(path: Path, name: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(split_lines(decoded(read_content(path, name), name)), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {pair[0], pair[1], pair[0] + pair[1]} <= vocabulary.keys():
            raise ValueError(
                f"{name}: line {number}, {line[:80]!r}, is not two pieces of vocab.json that join to a third"
            )
        merges.append((pair[0], pair[1]))
    return merges


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: the byte's own if it is visible, else one from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [value for value in range(256) if value not in visible]
    return {value: chr(value) for value in visible} | {value: chr(256 + i) for i, value in enumerate(hidden)}


class TextCounter:
    """Counts bytes and words of any slice of tokens; the counts of adjacent slices add up to those of the whole.

    A word belongs to the slice that holds its first byte.
    """

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        pieces = tokenizer.pieces
        black = [[byte not in SPACE for byte in piece] for piece in pieces]
        self.length = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self.inner_starts = np.array([sum(b and not a for a, b in pairwise(row)) for row in black])
        self.starts_black = np.array([row[:1] == [True] for row in black])
        self.ends_white = np.array([row[-1:] == [False] for row in black])

    def num_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """Bytes of the UTF-8 text."""
        del previous  # the bytes of a piece are the same after any token
        return int(self.length[tokens].sum())

    def num_words(self, tokens: np.ndarray, previous: int | None) -> int:
        """Words that begin in the slice.  previous: the token before the slice, None where a document begins."""
        after_white = np.empty(len(tokens), dtype=bool)
        after_white[1:] = self.ends_white[tokens[:-1]]
        after_white[:1] = previous is None or self.ends_white[previous]
        return int(self.inner_starts[tokens].sum() + (self.starts_black[tokens] & after_white).sum())
