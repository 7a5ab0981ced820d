"""Texts -> examples: which data, the tokeniser, truncation, and what is kept in the cache."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from benchmark.interface import Splits
from benchmark.settings import Settings
from tasks.language_modeling.data import cache_key, find_modules, write_atomically
from tasks.language_modeling.tokens import PieceTokenizer, load_bpe, train_bpe
from tasks.summarization.docstrings import Target, find_definitions
from tasks.summarization.metrics import dropped_share
from tasks.summarization.pairs import Pair
from tasks.summarization.sources import (
    MULTI_NEWS_ADVICE,
    PARTS,
    RealData,
    read_multi_news,
    read_own,
    read_qmsum,
    read_scitldr,
)

Truncate = Literal["documents", "head"]
LEAD_SENTENCES = {"embedded": 1, "scitldr": 1, "qmsum": 3, "multi_news": 3, "own": 3}  # of the control lead
TRUNCATION = {
    "documents": "each document gives as many first tokens as the others, and what a shorter one leaves goes to them",
    "head": "the first tokens of question and documents in their order",
}


class DataSettings(Settings):
    """Which pairs, how they are tokenised and cut."""

    name: Literal["auto", "embedded", "scitldr", "qmsum", "multi_news", "own"] = Field(
        default="auto", description="auto: scitldr where there is a data root, else embedded"
    )
    folder: str | None = Field(
        default=None,
        description="of multi_news or own: a path, or a folder in sum/ of the data root; the data's name where null",
    )
    source_column: str = Field(default="source", description="of own data: column or key of the texts")
    target_column: str = Field(default="target", description="of own data: column or key of the summaries")
    target: Target = Field(default="sentence", description="of embedded data: how much of a docstring is the summary")
    signature: bool = Field(default=False, description="of embedded data: the def or class line stands before the body")
    vocab_size: int = Field(default=4096, ge=259, le=2**20, description="of BPE; begin and end mark included")
    max_source_tokens: int = Field(ge=2, description="the end mark included")
    max_target_tokens: int = Field(ge=2, description="the end mark included; for training and generation")
    truncate: Truncate = "documents"
    max_train: int | None = Field(default=None, ge=1, description="pairs, evenly chosen; all where null")
    max_validation: int | None = Field(default=None, ge=1)
    max_test: int | None = Field(default=None, ge=1)
    max_dropped_share: float = Field(
        default=0.02, ge=0, le=1, description="letters and digits of the references that ROUGE may fail to see"
    )


class Example(NamedTuple):
    """One pair, tokenised and cut; both end with the end mark."""

    source: np.ndarray  # int64 (m,)
    target: np.ndarray  # int64 (n,): the first reference
    pair: Pair
    is_test: bool  # test examples are summarised, the others' loss alone is wanted


class Side(NamedTuple):
    """Sources or targets of a part: all tokens in a row (a memory map), and where each text ends."""

    tokens: np.ndarray
    ends: np.ndarray
    uncut: np.ndarray  # how many tokens each text had before it was cut

    def text(self, index: int) -> np.ndarray:
        start = self.ends[index - 1] if index else 0
        return np.asarray(self.tokens[start : self.ends[index]], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


class Examples(Sequence[Example]):
    """One part."""

    def __init__(self, pairs: Sequence[Pair], source: Side, target: Side, *, is_test: bool) -> None:
        self.pairs, self.source, self.target, self.is_test = pairs, source, target, is_test

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # negative ones too, and IndexError beyond
        return Example(self.source.text(index), self.target.text(index), self.pairs[index], self.is_test)


class Summaries(NamedTuple):
    """Everything that the task needs."""

    splits: Splits
    tokenizer: PieceTokenizer
    end: int  # the end mark; ``tokenizer.begin`` is the begin mark
    lead_sentences: int  # of the control, by document

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size + 1


class Texts(NamedTuple):
    """What was read."""

    parts: Mapping[str, Sequence[Pair]]
    name: str
    kind: str  # a key of LEAD_SENTENCES
    fingerprint: str
    details: Mapping[str, Any]


def load_summaries(options: DataSettings, data_root: Path | None, cache: Path) -> Summaries:
    """Reads, tokenises and cuts.  Raises ValueError, in one line, for data that can't be used."""
    texts = read_texts(options, data_root, cache)
    for part in PARTS:
        if not texts.parts[part]:
            raise ValueError(f"{texts.name}: its {part} part has no example; each part needs one at least")
    dropped = dropped_share(text for pair in texts.parts["test"] for text in pair.references)
    if dropped > options.max_dropped_share:
        raise ValueError(
            f"{texts.name}: ROUGE's tokenizer knows a-z and 0-9 only and would drop {dropped:.1%} of the letters and digits "
            f"of the test summaries; data.max_dropped_share allows {options.max_dropped_share:.1%}"
        )
    key = cache_key("v1", texts.fingerprint, {part: len(texts.parts[part]) for part in PARTS}, options.vocab_size)
    tokenizer = _tokenizer(texts.parts["train"], options.vocab_size, cache / f"sum-{key}-bpe.json")
    end = tokenizer.vocab_size
    limits = (options.max_source_tokens, options.max_target_tokens, options.truncate)
    key = cache_key("v1", key, limits)
    examples, sizes = {}, {}
    for part in PARTS:
        pairs = texts.parts[part]
        source = _side(cache / f"sum-{key}-{part}-source", partial(_sources, pairs, tokenizer, end, options))
        target = _side(cache / f"sum-{key}-{part}-target", partial(_targets, pairs, tokenizer, end, options))
        examples[part] = Examples(pairs, source, target, is_test=part == "test")
        sizes[part] = {"examples": len(pairs)} | _size("source", source) | _size("target", target)
    details = {
        **texts.details,
        "positions": "learned, whatever the attention",
        "vocab_size": end + 1,
        "tokenizer": "byte-level BPE trained on the training part",
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_source_tokens": options.max_source_tokens,
        "max_target_tokens": options.max_target_tokens,
        "truncation": TRUNCATION[options.truncate],
        "parts": sizes,
        "rouge": "rouge-score 0.1.2, its tokenizer (a-z and 0-9), Porter stemmer, sentences by newlines and Punkt",
        "letters_unseen_by_rouge": dropped,
    }
    embedded = texts.kind == "embedded"
    splits = Splits(
        examples["train"], examples["validation"], examples["test"], texts.name, texts.fingerprint, embedded, details
    )
    return Summaries(splits, tokenizer, end, LEAD_SENTENCES[texts.kind])


def read_texts(options: DataSettings, data_root: Path | None, cache: Path) -> Texts:
    """The pairs that the settings name."""
    kind = options.name
    if kind == "auto":
        kind = "embedded" if data_root is None else "scitldr"
    if kind == "embedded":
        return _embedded(options, cache)
    if kind in ("scitldr", "qmsum"):
        if data_root is None:
            raise ValueError(f"data.name {kind}: needs a data root with sum/{kind}/ (--data-root)")
        read = read_scitldr if kind == "scitldr" else read_qmsum
        return _limited(read(data_root), kind, kind, options)
    folder = _folder(options.folder or ("multi_news" if kind == "multi_news" else None), data_root, kind)
    if kind == "multi_news":
        return _limited(read_multi_news(folder), kind, kind, options)
    return _limited(read_own(folder, options.source_column, options.target_column), folder.name, kind, options)


def _folder(name: str | None, data_root: Path | None, kind: str) -> Path:
    if name is None:
        raise ValueError(
            f"data.folder: data.name {kind} needs the folder of its files: a path, or one in sum/ of the root"
        )
    candidates = [Path(name), *([data_root / "sum" / name] if data_root is not None else [])]
    found = next((path for path in reversed(candidates) if path.is_dir()), None)
    if found is None:
        where = "sum/ of the data root, or a path" if data_root is not None else "a path (there is no data root)"
        advice = f"; {MULTI_NEWS_ADVICE}" if kind == "multi_news" else ""
        raise ValueError(f"data.folder {name!r}: no such folder; {where} is wanted{advice}")
    return found


def _limits(options: DataSettings) -> dict[str, int | None]:
    return {"train": options.max_train, "validation": options.max_validation, "test": options.max_test}


def _limited(data: RealData, name: str, kind: str, options: DataSettings) -> Texts:
    """Evenly chosen pairs, where fewer than all are wanted."""
    parts, details = {}, {}
    for part, limit in _limits(options).items():
        pairs = data.parts[part]
        count = min(limit or len(pairs), len(pairs))
        parts[part] = tuple(pairs[i * len(pairs) // count] for i in range(count))
        details[part] = len(pairs)
    return Texts(parts, name, kind, data.fingerprint, {**data.details, "pairs_of_each_part": details})


def _embedded(options: DataSettings, cache: Path) -> Texts:
    modules, limits = find_modules(), _limits(options)
    key = cache_key("v2", modules.fingerprint, options.target, options.signature, limits)
    path = cache / f"sum-{key}.json"
    if not path.exists():
        found = find_definitions(modules, options.target, limits, signature=options.signature)
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(found), encoding="utf-8"))
    rows = json.loads(path.read_text(encoding="utf-8"))
    parts = {part: tuple(Pair(*(_tuples(value) for value in row)) for row in rows[part]) for part in PARTS}
    details = {
        "source": "body, signature before it" if options.signature else "body",
        "summary": f"first {options.target} of the docstring",
        "python": platform.python_version(),
    }
    if options.target == "docstring":
        details["summary"] = "the docstring"
    digest = hashlib.sha256(f"{modules.fingerprint} {key}".encode()).hexdigest()
    return Texts(parts, "embedded", "embedded", digest, details)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tokenizer(pairs: Sequence[Pair], vocab_size: int, path: Path) -> PieceTokenizer:
    if not path.exists():
        # dict.fromkeys: a meeting is the source of many questions, and counts once.
        texts = dict.fromkeys(text for pair in pairs for text in (*pair.documents, pair.question, *pair.references))
        trained = train_bpe((_bytes(text, "train") for text in texts), vocab_size - 1)
        write_atomically(path, lambda temporary: temporary.write_text(trained.tokenizer.to_str(), encoding="utf-8"))
    return load_bpe(path)


def _bytes(text: str, name: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair; texts must be "
            "Unicode"
        ) from None


def encode(texts: Sequence[str], tokenizer: PieceTokenizer, name: str) -> list[np.ndarray]:
    """Tokens of each text.  Raises ValueError where they don't give it back."""
    contents = [_bytes(text, name) for text in texts]
    tokens = tokenizer.encode(contents)
    for content, ids in zip(contents, tokens, strict=True):
        if tokenizer.decode(ids) != content:
            raise ValueError(f"{name}: the tokens don't give back the text; tokens must be lossless")
    return tokens


def _sources(pairs: Sequence[Pair], tokenizer: PieceTokenizer, end: int, options: DataSettings) -> Side:
    """Question, documents with an empty line between them, end mark."""
    (blank,) = encode(["\n\n"], tokenizer, "separator")
    rows, uncut = [], []
    remembered: dict[str, np.ndarray] = {}  # of the last pair: a meeting's questions follow one another
    for pair in pairs:
        texts = [text for text in (pair.question, *pair.documents) if text]
        new = [text for text in texts if text not in remembered]
        known = {text: remembered[text] for text in texts if text in remembered}
        remembered = known | dict(zip(new, encode(new, tokenizer, pair.name), strict=True))
        pieces = [remembered[text] for text in texts]
        rows.append(join(pieces, blank, end, options.max_source_tokens, options.truncate))
        uncut.append(sum(map(len, pieces)) + len(blank) * max(0, len(pieces) - 1) + 1)
    return _flat(rows, uncut)


def join(pieces: Sequence[np.ndarray], blank: np.ndarray, end: int, max_tokens: int, truncate: Truncate) -> np.ndarray:
    """One source of at most ``max_tokens``, the end mark included."""
    room = max(0, max_tokens - 1 - len(blank) * (len(pieces) - 1)) if pieces else 0
    if truncate == "documents":
        sizes = fair_shares([len(piece) for piece in pieces], room)
        pieces = [piece[:size] for piece, size in zip(pieces, sizes, strict=True)]
    separated = [part for piece in pieces for part in (blank, piece)][1:]
    joined = np.concatenate([*separated, blank[:0]])[: max_tokens - 1]
    return np.append(joined, end)


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each may keep: as many as the others, and what a shorter one leaves goes to them."""
    shares = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for done, index in enumerate(order):
        shares[index] = min(lengths[index], room // (len(lengths) - done))
        room -= shares[index]
    return shares


def _targets(pairs: Sequence[Pair], tokenizer: PieceTokenizer, end: int, options: DataSettings) -> Side:
    tokens = encode([pair.references[0] for pair in pairs], tokenizer, "summaries")
    rows = [np.append(ids[: options.max_target_tokens - 1], end) for ids in tokens]
    return _flat(rows, [len(ids) + 1 for ids in tokens])


def _flat(rows: Sequence[np.ndarray], uncut: Sequence[int]) -> Side:
    tokens = np.concatenate(rows).astype(np.uint32)
    return Side(tokens, np.cumsum([len(row) for row in rows]), np.array(uncut))


def _side(stem: Path, make: Callable[[], Side]) -> Side:
    """From the cache, or made and kept there."""
    paths = {field: stem.with_name(f"{stem.name}-{field}.npy") for field in Side._fields}
    if not all(path.exists() for path in paths.values()):
        for field, array in make()._asdict().items():
            write_atomically(paths[field], partial(_save, array=array))
    return Side(np.load(paths["tokens"], mmap_mode="r"), np.load(paths["ends"]), np.load(paths["uncut"]))


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add an ending to the temporary name
        np.save(file, array)


def _size(name: str, side: Side) -> dict[str, Any]:
    return {
        f"{name}_tokens": int(side.ends[-1]),
        f"{name}_tokens_cut": float(1 - side.ends[-1] / side.uncut.sum()),
        f"{name}_longest": int(side.lengths.max()),
        f"{name}_median": float(np.median(side.lengths)),
    }
