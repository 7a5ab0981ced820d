"""From texts to examples: chooses the data, trains the tokeniser, cuts long texts, and keeps the tokens in the cache."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from benchmark.files import write_bytes
from benchmark.interface import Splits
from benchmark.settings import Settings
from benchmark.settings.messages import shortened
from tasks.folders import folders_in, named
from tasks.language_modeling.data import cache_key, find_modules
from tasks.language_modeling.tokens import PieceTokenizer, load_bpe, train_bpe
from tasks.summarization import binarised, reports
from tasks.summarization.docstrings import Target, find_definitions
from tasks.summarization.examples import Examples, Side, Summaries, cached_side, flat, size_of
from tasks.summarization.metrics import dropped_share, sentences
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
# How many sentences of each document the control lead takes; for other data, as many as their summaries usually have.
LEAD_SENTENCES = {"reports": 1, "docstrings": 1, "scitldr": 1, "qmsum": 3, "multi_news": 3}
EMBEDDED = ("reports", "docstrings")
TRUNCATION = {
    "documents": "each document gives as many first tokens as the others, and what a shorter one leaves goes to them",
    "head": "the first tokens of question and documents in their order",
}


class DataSettings(Settings):
    """Which pairs are read, and how they are tokenised and cut."""

    name: Literal[
        "auto",
        "reports",
        "docstrings",
        "scitldr",
        "qmsum",
        "multi_news",
        "own",
        "fairseq",
        "fairseq_subword_nmt",
        "fairseq_sentencepiece",
        "fairseq_gpt2",
    ] = Field(
        default="auto",
        description="auto: reports without a data root; with one scitldr, or the only set in its sum/; fairseq…: what "
        "fairseq-preprocess wrote, by how its words are joined",
    )
    folder: str | None = Field(
        default=None,
        description="multi_news, own, fairseq…: a path, or a folder in sum/ of the data root; null: multi_news, or for fairseq "
        "the data root itself (own needs one)",
    )
    source_column: str = Field(default="source", description="own data: column or key of the texts")
    target_column: str = Field(default="target", description="own data: column or key of the summaries")
    target: Target = Field(default="sentence", description="docstrings: how much of a docstring is the summary")
    signature: bool = Field(default=False, description="docstrings: put the def or class line before the body")
    vocab_size: int = Field(default=4096, ge=259, le=2**20, description="of BPE, with begin and end mark")
    max_source_tokens: int = Field(ge=2, description="with the end mark")
    max_target_tokens: int = Field(ge=2, description="with the end mark; in training and in generation")
    truncate: Truncate = "documents"
    max_train: int | None = Field(default=None, ge=1, description="number of pairs, evenly chosen; null: all")
    max_validation: int | None = Field(default=None, ge=1)
    max_test: int | None = Field(default=None, ge=1)
    max_dropped_share: float = Field(
        default=0.02, ge=0, le=1, description="allowed share of the references' letters and digits that ROUGE drops"
    )


class Texts(NamedTuple):
    """The texts of all parts as they were read, before they are tokenised."""

    parts: Mapping[str, Sequence[Pair]]
    name: str
    kind: str  # a key of LEAD_SENTENCES
    fingerprint: str
    details: Mapping[str, Any]
    chosen: tuple[str, ...] = ()  # settings besides the files and the numbers of pairs on which the texts depend


def load_summaries(settings: DataSettings, data_root: Path | None, cache: Path) -> Summaries:
    """Reads, tokenises and cuts the pairs.  Raises ValueError, in one line, for data that can't be used."""
    if settings.name in binarised.KINDS:
        return _load_binarised(settings, data_root, cache)
    texts = read_texts(settings, data_root, cache)
    for part in PARTS:
        if not texts.parts[part]:
            raise ValueError(f"{texts.name}: its {part} part has no example; each part needs at least one")
    dropped = dropped_share(text for pair in texts.parts["test"] for text in pair.references)
    if dropped > settings.max_dropped_share:
        raise ValueError(
            f"{texts.name}: ROUGE's tokenizer knows a-z and 0-9 only and would drop {dropped:.1%} of the letters and digits "
            f"of the test summaries; data.max_dropped_share allows {settings.max_dropped_share:.1%}"
        )
    sizes_of_parts = {part: len(texts.parts[part]) for part in PARTS}
    key = cache_key("v2", texts.kind, texts.chosen, texts.fingerprint, sizes_of_parts, settings.vocab_size)
    tokenizer = _tokenizer(texts.parts["train"], settings.vocab_size, cache / f"sum-{key}-bpe.json")
    end = tokenizer.vocab_size
    limits = (settings.max_source_tokens, settings.max_target_tokens, settings.truncate)
    key = cache_key("v1", key, limits)
    examples, sizes = {}, {}
    for part in PARTS:
        pairs = texts.parts[part]
        source = cached_side(cache / f"sum-{key}-{part}-source", partial(_sources, pairs, tokenizer, end, settings))
        target = cached_side(cache / f"sum-{key}-{part}-target", partial(_targets, pairs, tokenizer, end, settings))
        examples[part] = Examples(pairs, source, target, is_test=part == "test")
        sizes[part] = {"examples": len(pairs)} | size_of("source", source) | size_of("target", target)
    details = {
        **texts.details,
        "positions": "learned, whatever the attention",
        "vocab_size": end + 1,
        "tokenizer": "byte-level BPE trained on the training part",
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_source_tokens": settings.max_source_tokens,
        "max_target_tokens": settings.max_target_tokens,
        "truncation": TRUNCATION[settings.truncate],
        "parts": sizes,
        "rouge": "rouge-score 0.1.2, its tokenizer (a-z and 0-9), Porter stemmer, sentences by newlines and Punkt",
        "letters_unseen_by_rouge": dropped,
    }
    embedded = texts.kind in EMBEDDED
    splits = Splits(
        examples["train"], examples["validation"], examples["test"], texts.name, texts.fingerprint, embedded, details
    )
    longest = max(sizes[part]["source_longest"] for part in PARTS)
    return Summaries(splits, tokenizer, end, longest, LEAD_SENTENCES.get(texts.kind) or _usual_sentences(texts))


def _load_binarised(settings: DataSettings, data_root: Path | None, cache: Path) -> Summaries:
    """The pairs of a folder that fairseq-preprocess wrote."""
    _refuse_unread(settings, settings.name, *READ_BY)
    folder = data_root if settings.folder is None else _folder(settings.folder, data_root, settings.name)
    if folder is None:
        raise ValueError(
            f"data.name {settings.name}: needs the folder that fairseq-preprocess wrote: data.folder, or --data-root"
        )
    lengths = (settings.max_source_tokens, settings.max_target_tokens)
    return binarised.load_pairs(
        folder,
        settings.name,
        lengths=lengths,
        limits=_limits(settings),
        max_dropped_share=settings.max_dropped_share,
        gpt2=None if data_root is None else data_root / "lm" / "gpt2",
        cache=cache,
    )


def _usual_sentences(texts: Texts) -> int:
    """The median number of sentences of the validation part's summaries, at least 1."""
    counts = [len(sentences(reference)) for pair in texts.parts["validation"] for reference in pair.references]
    return max(1, int(np.median(counts)))


def read_texts(settings: DataSettings, data_root: Path | None, cache: Path) -> Texts:
    """Reads the pairs that the settings name.  Raises ValueError where a folder or a data root is missing."""
    kind: str = settings.name
    only = None
    if kind == "auto":
        _refuse_unread(settings, kind, "folder")
        kind, only = ("reports", None) if data_root is None else find_set(data_root)
    _refuse_unread(settings, kind, *READ_BY)
    if kind == "reports":
        return _reports(settings)
    if kind == "docstrings":
        return _docstrings(settings, cache)
    if kind in ("scitldr", "qmsum"):
        if data_root is None:
            raise ValueError(f"data.name {kind}: needs a data root with sum/{kind}/ (--data-root)")
        read = read_scitldr if kind == "scitldr" else read_qmsum
        return _limited(read(data_root), kind, kind, settings)
    name = settings.folder or only or ("multi_news" if kind == "multi_news" else None)
    folder = _folder(name, data_root, kind)
    if kind == "multi_news":
        return _limited(read_multi_news(folder), kind, kind, settings)
    columns = (settings.source_column, settings.target_column)
    return _limited(read_own(folder, *columns), folder.name, kind, settings)._replace(chosen=columns)


def find_set(data_root: Path) -> tuple[str, str | None]:
    """What ``auto`` takes from ``sum/`` of a data root: a value of ``data.name``, and the folder for those that need one.

    It takes scitldr if that is there, else the only set.  Raises ValueError, which names what there is, if there are several
    sets or none.
    """
    found = {path.name: kind for path in folders_in(data_root / "sum") if (kind := _kind_of(path)) is not None}
    if "scitldr" in found:
        return "scitldr", None
    if not found:
        raise ValueError(
            "sum/ of the data root: has no set; scitldr/, qmsum/, or a folder with {train,validation,test}.jsonl, .csv, or "
            ".src and .tgt is wanted there"
        )
    if len(found) > 1:
        options = [f"data.name={kind}" + (f" data.folder={name}" * (kind != name)) for name, kind in found.items()]
        raise ValueError(f"sum/ of the data root: has several sets; choose one: {shortened(' or '.join(options), 200)}")
    ((name, kind),) = found.items()
    return kind, name if kind in READ_BY["folder"] else None


def has_set(data_root: Path) -> bool:
    """Whether ``sum/`` of a data root has any set."""
    return any(_kind_of(path) is not None for path in folders_in(data_root / "sum"))


def _kind_of(folder: Path) -> str | None:
    """The value of ``data.name`` that reads a folder; None for a folder without a training part."""
    if folder.name in ("scitldr", "qmsum"):
        return folder.name
    if (folder / "train.src").is_file():
        return "multi_news"
    return "own" if any(named(folder, f"train{ending}") for ending in (".jsonl", ".csv")) else None


# Settings that only some kinds of data read.
READ_BY: dict[str, tuple[str, ...]] = {
    "folder": ("multi_news", "own", *binarised.KINDS),
    "source_column": ("own",),
    "target_column": ("own",),
    "target": ("docstrings",),
    "signature": ("docstrings",),
}


def _refuse_unread(settings: DataSettings, kind: str, *names: str) -> None:
    """Raises ValueError if one of these settings is given, and data of this kind have no use for it."""
    for name in names:
        value = getattr(settings, name)
        if kind not in READ_BY[name] and value != DataSettings.model_fields[name].default:
            raise ValueError(
                f"data.{name} {shortened(repr(value))}: data.name {kind} doesn't read it; it is for data.name "
                f"{' and '.join(READ_BY[name])}"
            )


def _folder(name: str | None, data_root: Path | None, kind: str) -> Path:
    if name is None:
        raise ValueError(
            f"data.folder: data.name {kind} needs the folder of its files: a path, or one in sum/ of the root"
        )
    candidates = [Path(name), *([data_root / "sum" / name] if data_root is not None else [])]
    found = next((path for path in reversed(candidates) if path.is_dir()), None)
    if found is None:
        where = (
            "a folder in sum/ of the data root, or a path"
            if data_root is not None
            else "a path (there is no data root)"
        )
        advice = f"; {MULTI_NEWS_ADVICE}" if kind == "multi_news" else ""
        raise ValueError(f"data.folder {name!r}: no such folder; allowed is {where}{advice}")
    return found


def _limits(settings: DataSettings) -> dict[str, int | None]:
    return {"train": settings.max_train, "validation": settings.max_validation, "test": settings.max_test}


def _limited(data: RealData, name: str, kind: str, settings: DataSettings) -> Texts:
    """Keeps evenly chosen pairs of the parts that have a limit."""
    parts, details = {}, {}
    for part, limit in _limits(settings).items():
        pairs = data.parts[part]
        count = min(limit or len(pairs), len(pairs))
        parts[part] = tuple(pairs[i * len(pairs) // count] for i in range(count))
        details[part] = len(pairs)
    return Texts(parts, name, kind, data.fingerprint, {**data.details, "pairs_of_each_part": details})


def _reports(settings: DataSettings) -> Texts:
    parts = reports.make_reports(_limits(settings))
    details = {
        "source": "what six witnesses said, and which one is believed",
        "summary": "the three facts of the believed witness",
    }
    return Texts(parts, "embedded", "reports", reports.fingerprint(parts), details)


def _docstrings(settings: DataSettings, cache: Path) -> Texts:
    modules, limits = find_modules(), _limits(settings)
    key = cache_key("v2", modules.fingerprint, settings.target, settings.signature, limits)
    path = cache / f"sum-{key}.json"
    if not path.exists():
        found = find_definitions(modules, settings.target, limits, signature=settings.signature)
        write_bytes(path, json.dumps(found).encode())
    rows = json.loads(path.read_text(encoding="utf-8"))
    parts = {part: tuple(Pair(*(_tuples(value) for value in row)) for row in rows[part]) for part in PARTS}
    details = {
        "source": "body, signature before it" if settings.signature else "body",
        "summary": f"first {settings.target} of the docstring",
        "python": platform.python_version(),
    }
    if settings.target == "docstring":
        details["summary"] = "the docstring"
    digest = hashlib.sha256(f"{modules.fingerprint} {key}".encode()).hexdigest()
    return Texts(parts, "embedded", "docstrings", digest, details)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tokenizer(pairs: Sequence[Pair], vocab_size: int, path: Path) -> PieceTokenizer:
    if not path.exists():
        # Each text counts once: a meeting is the source of many questions.
        texts = dict.fromkeys(text for pair in pairs for text in (*pair.documents, pair.question, *pair.references))
        trained = train_bpe((_bytes(text, "train") for text in texts), vocab_size - 1)
        write_bytes(path, trained.tokenizer.to_str().encode())
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
    """The tokens of each text, int64 (length,).

    name stands in messages.  Raises ValueError where the tokens don't give back the text.
    """
    contents = [_bytes(text, name) for text in texts]
    tokens = tokenizer.encode(contents)
    for content, ids in zip(contents, tokens, strict=True):
        if tokenizer.decode(ids) != content:
            raise ValueError(f"{name}: the tokens don't give back the text; tokens must be lossless")
    return tokens


def _sources(pairs: Sequence[Pair], tokenizer: PieceTokenizer, end: int, settings: DataSettings) -> Side:
    """Question and documents with an empty line between them, then the end mark."""
    (blank,) = encode(["\n\n"], tokenizer, "separator")
    rows, uncut = [], []
    # The tokens of the pair before: all questions to a meeting follow one another and share its transcript.
    remembered: dict[str, np.ndarray] = {}
    for pair in pairs:
        texts = [text for text in (pair.question, *pair.documents) if text]
        new = [text for text in texts if text not in remembered]
        known = {text: remembered[text] for text in texts if text in remembered}
        remembered = known | dict(zip(new, encode(new, tokenizer, pair.name), strict=True))
        pieces = [remembered[text] for text in texts]
        rows.append(join(pieces, blank, end, settings.max_source_tokens, settings.truncate))
        uncut.append(sum(map(len, pieces)) + len(blank) * max(0, len(pieces) - 1) + 1)
    return flat(rows, uncut)


def join(pieces: Sequence[np.ndarray], blank: np.ndarray, end: int, max_tokens: int, truncate: Truncate) -> np.ndarray:
    """One source of at most ``max_tokens`` tokens, the end mark included.  int64 (length,)

    pieces: the tokens of question and documents.  blank: the tokens that stand between two pieces.
    """
    room = max(0, max_tokens - 1 - len(blank) * (len(pieces) - 1)) if pieces else 0
    if truncate == "documents":
        sizes = fair_shares([len(piece) for piece in pieces], room)
        pieces = [piece[:size] for piece, size in zip(pieces, sizes, strict=True)]
    separated = [part for piece in pieces for part in (blank, piece)][1:]
    joined = np.concatenate([*separated, blank[:0]])[: max_tokens - 1]
    return np.append(joined, end)


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many of its tokens each text keeps, at most ``room`` together: equal shares.

    A text that is shorter than its share leaves the rest to the others.
    """
    shares = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for done, index in enumerate(order):
        shares[index] = min(lengths[index], room // (len(lengths) - done))
        room -= shares[index]
    return shares


def _targets(pairs: Sequence[Pair], tokenizer: PieceTokenizer, end: int, settings: DataSettings) -> Side:
    """The first reference of each pair, and the end mark."""
    tokens = encode([pair.references[0] for pair in pairs], tokenizer, "summaries")
    rows = [np.append(ids[: settings.max_target_tokens - 1], end) for ids in tokens]
    return flat(rows, [len(ids) + 1 for ids in tokens])
