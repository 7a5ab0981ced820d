"""Pairs that ``fairseq-preprocess --source-lang S --target-lang T`` wrote; the words of its dictionaries are the tokens.

A folder has ``dict.S.txt``, ``dict.T.txt``, and for each part ``<part>.S-T.S.{idx,bin}`` and ``<part>.S-T.T.{idx,bin}``.  An item is a
source or a summary with its ``</s>``.  fairseq itself is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.interface import Splits
from benchmark.settings.messages import shortened
from tasks.fairseq_data import (
    END,
    SPECIAL,
    UNKNOWN,
    Binarised,
    fingerprint,
    holds_codes,
    paths_of,
    read_binarised,
    read_dictionary,
)
from tasks.language_modeling.data import cache_key
from tasks.language_modeling.tokens import PieceTokenizer, load_gpt2
from tasks.summarization.examples import Examples, Side, Summaries, cached_side, flat, size_of
from tasks.summarization.metrics import dropped_share, sentences
from tasks.summarization.pairs import Pair

KINDS = {  # data.name -> how words are joined to text; fairseq says --post-process, or --bpe gpt2
    "fairseq": "words with a space between them",
    "fairseq_subword_nmt": "pieces, of which those with @@ at their end go on",
    "fairseq_sentencepiece": "pieces with ▁ for a space",
    "fairseq_gpt2": "codes of GPT-2's byte-level BPE",
}
PREFIXES = {"train": "train", "validation": "valid", "test": "test"}
UNKNOWN_REFERENCE = "<<unk>>"  # as fairseq writes it, so that a generated <unk> never equals it


class PairTokens:
    """The dictionaries in the place of a tokeniser; the texts are tokens already.

    words: the source's dictionary, and the words that only the target's has.  gpt2: whose pieces the codes are, or None.
    """

    begin = END  # the decoders of fairseq read </s> before the first token

    def __init__(self, words: tuple[str, ...], kind: str, gpt2: PieceTokenizer | None = None) -> None:
        self.words, self.kind = words, kind
        self.vocab_size = len(words)
        self._pieces = None if gpt2 is None else [_piece(word, gpt2) for word in words]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the words and their kind."""
        return hashlib.sha256("\n".join([self.kind, *self.words]).encode()).hexdigest()

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of some tokens without its special words; an unknown word leaves nothing."""
        return self._text(tokens, "")

    def reference(self, tokens: np.ndarray) -> str:
        """The text of a reference; an unknown word counts as one that no summary can have."""
        return self._text(tokens, UNKNOWN_REFERENCE).decode("utf-8", errors="replace")

    def _text(self, tokens: np.ndarray, unknown: str) -> bytes:
        numbers = [int(token) for token in tokens if token >= len(SPECIAL) or (token == UNKNOWN and unknown)]
        if self._pieces is not None:
            return b"".join(unknown.encode() if one == UNKNOWN else self._pieces[one] for one in numbers)
        words = [unknown if one == UNKNOWN else self.words[one] for one in numbers]
        if self.kind == "fairseq_sentencepiece":
            text = "".join(words).replace("▁", " ").strip()
        elif self.kind == "fairseq_subword_nmt":
            text = (" ".join(words) + " ").replace("@@ ", "").rstrip()
        else:
            text = " ".join(words)
        return text.encode()


def _piece(word: str, gpt2: PieceTokenizer) -> bytes:
    """The bytes of a code; nothing for the words with which fairseq fills its dictionary up (madeupword0001)."""
    return gpt2.pieces[int(word)] if word.isdecimal() and int(word) < len(gpt2.pieces) else b""


class _Folder(NamedTuple):
    """The files of a folder, named in messages by ``label``."""

    path: Path
    label: str
    languages: tuple[str, str]  # of sources and of summaries

    def dictionary(self, side: int) -> Path:
        return self.path / f"dict.{self.languages[side]}.txt"

    def prefix(self, part: str, side: int) -> str:
        source, target = self.languages
        return f"{PREFIXES[part]}.{source}-{target}.{self.languages[side]}"


def find_languages(folder: Path) -> tuple[str, str]:
    """The names of source and target.  Raises ValueError, in one line, if the folder has no pair of texts, or several."""
    names = sorted(
        path.name.removeprefix("dict.").removesuffix(".txt")
        for path in folder.glob("dict.*.txt")
        if path.name.count(".") > 1
    )
    pairs = [(a, b) for a in names for b in names if a != b and (folder / f"train.{a}-{b}.{a}.idx").exists()]
    if len(pairs) != 1:
        found = ", ".join(f"{a}-{b}" for a, b in pairs) or "none"
        raise ValueError(
            f"{folder.name}/: one pair of binarised texts is expected (dict.S.txt, dict.T.txt, train.S-T.S.idx and so on, as "
            f"fairseq-preprocess --source-lang S --target-lang T writes them), found {shortened(found)}"
        )
    return pairs[0]


def load_pairs(
    folder: Path,
    kind: str,
    *,
    lengths: tuple[int, int],
    limits: Mapping[str, int | None],
    max_dropped_share: float,
    gpt2: Path | None,
    cache: Path,
) -> Summaries:
    """Reads the pairs of a folder.

    lengths: the most tokens of a source and of a summary, ``</s>`` included; longer ones are cut.
    limits: the most pairs by part, evenly chosen; None means all.  gpt2: the folder of GPT-2's vocabulary.
    Raises ValueError, in one line, for files that can't be used.
    """
    files = _Folder(folder, folder.name, find_languages(folder))
    tokens, renumbered = _tokens(files, kind, gpt2)
    items = {part: _read(files, part, renumbered) for part in PREFIXES}
    digest = fingerprint(
        [files.dictionary(0), files.dictionary(1)]
        + [path for part in PREFIXES for side in (0, 1) for path in paths_of(folder / files.prefix(part, side))]
    )
    stem = cache / f"sum-{cache_key('fairseq-v1', digest, kind, lengths, dict(limits))}"
    examples, sizes = {}, {}
    for part in PREFIXES:
        examples[part] = _examples(part, items[part], limits[part], tokens, renumbered, lengths, stem)
        source, target = examples[part].source, examples[part].target
        sizes[part] = {"examples": len(examples[part])} | size_of("source", source) | size_of("target", target)
        sizes[part]["unknown_words_of_summaries"] = int((target.tokens == UNKNOWN).sum())
    references = [pair.references[0] for pair in examples["test"].pairs]
    dropped = dropped_share(references)
    if dropped > max_dropped_share:
        raise ValueError(
            f"{files.label}: ROUGE's tokenizer knows a-z and 0-9 only and would drop {dropped:.1%} of the letters and digits "
            f"of the test summaries; data.max_dropped_share allows {max_dropped_share:.1%}"
        )
    details = {
        "positions": "learned, whatever the attention",
        "vocab_size": tokens.vocab_size,
        "tokenizer": f"fairseq's dictionaries, {KINDS[kind]}",
        "tokenizer_sha256": tokens.fingerprint,
        "max_source_tokens": lengths[0],
        "max_target_tokens": lengths[1],
        "truncation": "the first tokens of the source",
        "parts": sizes,
        "rouge": "rouge-score 0.1.2, its tokenizer (a-z and 0-9), Porter stemmer, sentences by newlines and Punkt",
        "letters_unseen_by_rouge": dropped,
    }
    splits = Splits(examples["train"], examples["validation"], examples["test"], files.label, digest, False, details)
    usual = [len(sentences(pair.references[0])) for pair in examples["validation"].pairs]
    longest = max(sizes[part]["source_longest"] for part in PREFIXES)
    return Summaries(splits, tokens, END, longest, max(1, int(np.median(usual))))


def _read(files: _Folder, part: str, renumbered: Sequence[np.ndarray]) -> list[Binarised]:
    """The sources and the summaries of a part."""
    items = [
        read_binarised(files.path / files.prefix(part, side), f"{files.label}/{files.prefix(part, side)}", len(numbers))
        for side, numbers in enumerate(renumbered)
    ]
    if len(items[0].ends) != len(items[1].ends):
        raise ValueError(
            f"{files.label}/{files.prefix(part, 1)}.idx: {len(items[1].ends):,} items beside {len(items[0].ends):,} of "
            f"{files.prefix(part, 0)}.idx; item i of one belongs to item i of the other"
        )
    return items


def _examples(
    part: str,
    items: Sequence[Binarised],
    limit: int | None,
    tokens: PairTokens,
    renumbered: Sequence[np.ndarray],
    lengths: tuple[int, int],
    stem: Path,
) -> Examples:
    """At most ``limit`` pairs of a part.  stem: how the names of its files in the cache begin."""
    total = len(items[0].ends)
    rows = np.arange(min(limit or total, total)) * total // min(limit or total, total)
    source, target = (
        cached_side(
            stem.with_name(f"{stem.name}-{part}-{name}"),
            partial(_side, items[side], rows, renumbered[side], lengths[side]),
        )
        for side, name in enumerate(("source", "target"))
    )
    pairs = _pairs(part, items, rows, renumbered, tokens, with_texts=part != "train")
    return Examples(pairs, source, target, is_test=part == "test")


def _tokens(files: _Folder, kind: str, gpt2: Path | None) -> tuple[PairTokens, list[np.ndarray]]:
    """The common vocabulary, and for both sides its numbers of the words of that side's dictionary.

    With --joined-dictionary both are the same and keep their numbers; else the words that only the target has follow.
    """
    source, target = (
        read_dictionary(files.dictionary(side), f"{files.label}/{files.dictionary(side).name}") for side in (0, 1)
    )
    for side, words in enumerate((source, target)):
        name = f"{files.label}/{files.dictionary(side).name}"
        if kind == "fairseq_gpt2" and not holds_codes(words):
            raise ValueError(
                f"{name}: holds words, no codes of GPT-2; data.name fairseq reads them, or one of the others"
            )
        if kind != "fairseq_gpt2" and holds_codes(words):
            raise ValueError(f"{name}: holds numbers, the codes of a BPE; data.name fairseq_gpt2 reads those of GPT-2")
    number = {word: place for place, word in reversed(list(enumerate(source)))}
    new = [word for word in dict.fromkeys(target) if word not in number]
    number |= {word: len(source) + place for place, word in enumerate(new)}
    same = source == target
    renumbered = np.arange(len(target)) if same else np.array([number[word] for word in target])
    pieces = None
    if kind == "fairseq_gpt2":
        if gpt2 is None:
            raise ValueError(
                "data.name fairseq_gpt2: needs a data root with lm/gpt2 (lavo-bench prepare lm --name gpt2)"
            )
        pieces = load_gpt2(gpt2, "lm/gpt2")
    return PairTokens((*source, *new), kind, pieces), [np.arange(len(source)), renumbered]


def _item(items: Binarised, index: int) -> np.ndarray:
    """The tokens of an item without its ``</s>``.  int64 (length,)"""
    start = items.ends[index - 1] if index else 0
    tokens = np.asarray(items.tokens[start : items.ends[index]], dtype=np.int64)
    return tokens[:-1] if len(tokens) and tokens[-1] == END else tokens


def _side(items: Binarised, rows: np.ndarray, renumbered: np.ndarray, max_tokens: int) -> Side:
    """The tokens of these items in the common vocabulary, cut, each with ``</s>``."""
    texts = [renumbered[_item(items, int(row))] for row in rows]
    return flat([np.append(text[: max_tokens - 1], END) for text in texts], [len(text) + 1 for text in texts])


def _pairs(
    part: str,
    items: Sequence[Binarised],
    rows: np.ndarray,
    renumbered: Sequence[np.ndarray],
    tokens: PairTokens,
    *,
    with_texts: bool,
) -> list[Pair]:
    """The pairs with their texts, or with their names only: the texts of training are never read, and there are many."""
    if not with_texts:
        return [Pair(f"{PREFIXES[part]}:{row + 1}", (), ("",)) for row in rows]
    pairs = []
    for row in map(int, rows):
        source, target = (renumbered[side][_item(items[side], row)] for side in (0, 1))
        document = tokens.decode(source).decode("utf-8", errors="replace")
        pairs.append(Pair(f"{PREFIXES[part]}:{row + 1}", (document,) if document else (), (tokens.reference(target),)))
    return pairs
