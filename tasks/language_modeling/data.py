"""Reads the texts, tokenises them into memory-mapped files, and cuts them into blocks.

A document is a book of ``<data root>/lm/{train,validation,test}/*.txt``, or, of the embedded data, a register or a module of the
running interpreter's standard library.  No block crosses from one document into the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from benchmark.files import is_companion, replacing, write_bytes
from tasks.folders import files_in
from tasks.language_modeling.registers import make_registers
from tasks.language_modeling.tokens import (
    AnyTokenizer,
    ByteTokenizer,
    load_bpe,
    load_gpt2,
    train_bpe,
    words_in,
)
from tasks.text_files import read_content

PARTS = ("train", "validation", "test")

# The embedded data leave out other people's packages; tests, which some distributions don't install; tables that are near
# copies of each other (encodings) or one text of 700 kB (pydoc_data); and files that the build of an interpreter writes.
LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-", "sitecustomize", "usercustomize")

DOCUMENTS_AT_ONCE = 32  # tokenised in parallel, and in memory together


class Document(NamedTuple):
    """Bytes [start, stop) of a file; messages and records call it ``name``."""

    name: str
    path: Path
    start: int
    stop: int


class Sources(NamedTuple):
    """The documents of each part, and the SHA-256 of their names and bytes."""

    parts: Mapping[str, tuple[Document, ...]]
    name: str
    embedded: bool
    fingerprint: str


class AnyCounter(Protocol):
    """Counts the text of a slice of tokens; previous: the token before the slice, None where a document begins."""

    def num_bytes(self, tokens: np.ndarray, previous: int | None = None) -> int:
        """Bytes of the UTF-8 text."""
        ...

    def num_words(self, tokens: np.ndarray, previous: int | None) -> int:
        """Words that begin in the slice."""
        ...


class TokenizedPart(NamedTuple):
    """One part of the data."""

    tokens: np.ndarray  # (tokens,) of all documents in a row; a memory map
    ends: np.ndarray  # (documents,) where each document ends in it


class Example(NamedTuple):
    """A block of tokens, and how much text they make."""

    tokens: np.ndarray  # (n,)
    num_bytes: int
    num_words: int


class Blocks(Sequence[Example]):
    """A part cut into consecutive blocks of ``length`` tokens.

    Each document is cut by itself, so its last block may be shorter.
    """

    def __init__(self, part: TokenizedPart, length: int, counter: AnyCounter) -> None:
        self.tokens, self.counter = part.tokens, counter
        begins = np.concatenate([[0], part.ends[:-1]])
        self.starts = np.concatenate([np.arange(a, b, length) for a, b in zip(begins, part.ends, strict=True)])
        self.stops = np.minimum(self.starts + length, part.ends[np.searchsorted(part.ends, self.starts, side="right")])
        self.opens_document = np.isin(self.starts, begins)
        self.documents = np.searchsorted(part.ends, self.starts, side="right")  # (blocks,) the document of each block

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, stop = self.starts[index], self.stops[index]
        tokens = np.array(self.tokens[start:stop])
        previous = None if self.opens_document[index] else int(self.tokens[start - 1])
        return Example(tokens, self.counter.num_bytes(tokens, previous), self.counter.num_words(tokens, previous))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each block.  (blocks,)"""
        return self.stops - self.starts

    @property
    def clusters(self) -> np.ndarray:
        """The document of each block, because blocks of one document depend on each other.  (blocks,)"""
        return self.documents


def find_books(data_root: Path) -> Sources:
    """The books below ``<data_root>/lm``.  Raises ValueError with one line for books that can't be used."""
    folder = data_root / "lm"
    parts = {}
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ValueError(
                f"lm/{part}: no such folder in the data root {data_root.name!r}; one with .txt files is needed"
            )
        paths = files_in(folder / part, ".txt")
        if not paths:
            raise ValueError(f"lm/{part}: has no .txt file; each part needs at least one book")
        parts[part] = [(f"lm/{part}/{path.name}", path) for path in paths]
    return _read_all(parts, name="books", embedded=False)


def find_registers(num_texts: int, num_words: int, cache: Path) -> Sources:
    """The registers, written to the cache: ``num_texts`` for training, and a 36th as many for validation and for test.

    The parts are disjoint pieces of one series of texts, those for validation and test first: more texts for training leave
    them as they are only if ``num_texts`` stays.
    """
    sizes = {"train": num_texts, "validation": max(1, num_texts // 36), "test": max(1, num_texts // 36)}
    folder = cache / f"lm-registers-{num_texts}-{num_words}"
    texts = iter(make_registers(sum(sizes.values()), num_words, 0))
    parts = {}
    for part, size in sizes.items():
        parts[part] = [(f"registers/{part}/{i:04d}.txt", folder / part / f"{i:04d}.txt") for i in range(size)]
        for _, path in parts[part]:
            content = next(texts).encode()
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
    return _read_all(parts, name="embedded", embedded=True)


def find_modules() -> Sources:
    """The modules of the running interpreter's standard library; a digest of a module's path chooses its part.

    Raises ValueError if the interpreter has no source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[tuple[str, Path]]] = {part: [] for part in PARTS}
    for path in _module_files(root):
        name = path.relative_to(root).as_posix()
        parts[_part_of(name)].append((f"stdlib/{name}", path))
    if not all(parts.values()):
        raise ValueError(
            "embedded data: the running Python has no source files of its standard library; use one that has, or --data-root"
        )
    return _read_all(parts, name="embedded", embedded=True)


def _module_files(root: Path) -> list[Path]:
    """Source files that aren't empty, sorted; folders to leave out are not even entered."""
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT_FOLDERS and not _is_left_out(name)]
        files += [Path(folder, name) for name in names if name.endswith(".py") and not _is_left_out(name)]
    return sorted(path for path in files if path.stat().st_size > 0)


def _is_left_out(name: str) -> bool:
    return name.startswith(LEFT_OUT_PREFIXES) or is_companion(name)


def _part_of(name: str) -> str:
    """1 module of 16 is for validation, 2 are for test."""
    bucket = hashlib.sha256(name.encode()).digest()[0] % 16
    return "validation" if bucket == 0 else "test" if bucket <= 2 else "train"


def _read_all(parts: Mapping[str, Sequence[tuple[str, Path]]], *, name: str, embedded: bool) -> Sources:
    """Reads every file once, to check it and to make the fingerprint."""
    digest = hashlib.sha256()
    part_of: dict[bytes, tuple[str, str]] = {}  # digest of a text -> part and name of the file that had it first
    documents: dict[str, tuple[Document, ...]] = {}
    for part, files in parts.items():
        documents[part] = ()
        for label, path in files:
            text = _read_text(label, path)
            content = hashlib.sha256(text).digest()
            seen_part, seen_label = part_of.setdefault(content, (part, label))
            if seen_part != part and not embedded:
                raise ValueError(f"{label}: has the same text as {seen_label}; a book may be in one part only")
            digest.update(f"{part}\0{label}\0{len(text)}\0".encode() + content)
            documents[part] += (Document(label, path, 0, len(text)),)
    return Sources(documents, name, embedded, digest.hexdigest())


def _read_text(label: str, path: Path) -> bytes:
    text = read_content(path, label)
    if not text:
        raise ValueError(f"{label}: is empty; a book must have text (remove the file)")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{label}: byte {error.start}, 0x{text[error.start]:02x}, is not UTF-8; books must be UTF-8 text"
        ) from None
    return text


def limit_documents(documents: Sequence[Document], max_bytes: int | None, excerpt_bytes: int) -> list[Document]:
    """Middles of some documents, together at most ``max_bytes``; whole documents if that is None or enough for all.

    As many documents are taken as can have ``excerpt_bytes`` each, evenly chosen among those that are long enough; if none is,
    the longest one.  Middles are taken because books begin with titles and tables of contents.
    """
    if max_bytes is None or sum(document.stop for document in documents) <= max_bytes:
        return list(documents)
    long = [document for document in documents if document.stop >= excerpt_bytes]
    long = long or [max(documents, key=lambda document: document.stop)]
    count = max(1, min(len(long), max_bytes // excerpt_bytes))
    excerpts = []
    for document in (long[i * len(long) // count] for i in range(count)):
        size = min(document.stop, max_bytes // count)
        start = (document.stop - size) // 2
        excerpts.append(document._replace(start=start, stop=start + size))
    return excerpts


def read_document(document: Document) -> bytes:
    """The document's bytes, without the halves of characters at its two ends."""
    with document.path.open("rb") as file:
        file.seek(document.start)
        text = file.read(document.stop - document.start)
    # The whole file was checked, so the only faults to ignore are characters cut at the ends.
    return text.decode("utf-8", errors="ignore").encode("utf-8")


def make_tokenizer(
    kind: str, vocab_size: int, documents: Sequence[Document], data_root: Path | None, cached: Callable[[str], Path]
) -> AnyTokenizer:
    """The tokeniser of this kind.

    kind: bytes, words, bpe or gpt2.  documents: the texts that BPE is trained on, or whose words are the tokens.  cached: gives the path of a file in the cache.
    Raises ValueError if the files of gpt2 are missing or damaged.
    """
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "words":
        return words_in((read_document(document) for document in documents), vocab_size)
    if kind == "gpt2":
        if data_root is None:
            raise ValueError(
                "data.tokens gpt2: needs a data root with lm/gpt2/vocab.json and merges.txt; allowed without one: bytes, bpe"
            )
        return load_gpt2(data_root / "lm" / "gpt2", "lm/gpt2")
    path = cached("bpe.json")
    if not path.exists():
        trained = train_bpe((read_document(document) for document in documents), vocab_size)
        write_bytes(path, trained.tokenizer.to_str().encode("utf-8"))
    return load_bpe(path)


def tokenize(documents: Sequence[Document], tokenizer: AnyTokenizer, cached: Callable[[str], Path]) -> TokenizedPart:
    """All tokens of these documents, from the cache if it has them.

    cached: gives the path of a file in the cache.  Raises ValueError if the tokens of a document don't give back its text.
    """
    dtype = np.uint8 if tokenizer.vocab_size <= 257 else np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    tokens_path, ends_path = cached("tokens.bin"), cached("ends.npy")
    if not (tokens_path.exists() and ends_path.exists()):
        lengths = []
        with replacing(tokens_path) as file:
            for tokens in _encode_all(documents, tokenizer):
                lengths.append(len(tokens))
                file.write(tokens.astype(dtype).tobytes())
        with replacing(ends_path) as file:
            np.save(file, np.cumsum(lengths, dtype=np.int64))
    return TokenizedPart(np.memmap(tokens_path, dtype=dtype, mode="r"), np.load(ends_path))


def _encode_all(documents: Sequence[Document], tokenizer: AnyTokenizer) -> Iterator[np.ndarray]:
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        group = documents[first : first + DOCUMENTS_AT_ONCE]
        texts = [read_document(document) for document in group]
        for document, text, tokens in zip(group, texts, tokenizer.encode(texts), strict=True):
            if tokenizer.decode(tokens) != text:
                raise ValueError(
                    f"{document.name}: its tokens don't give back its text; tokens must be lossless, as bytes are"
                )
            yield tokens


def cache_key(*facts: object) -> str:
    """A digest of everything that a cached file's content depends on, as part of the file's name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
