"""Makes ``lm/{train,validation,test}/*.txt`` from published collections of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

WIKITEXT = "wikitext-103-raw-v1.zip"
PARTS = {"train": "train", "valid": "validation", "test": "test"}
# Files are tokenised whole, so the training part of 540 MB is cut, at beginnings of articles.  The other two parts are smaller
# than this and stay whole, because published perplexities run on from article to article.
MOST_BYTES = 2_000_000
_TITLE = re.compile(rb" = [^=].*[^=] = \n| = [^=] = \n")  # of an article; sections have more signs


def wikitext(inputs: Mapping[str, Path], made: Path, most_bytes: int = MOST_BYTES) -> None:
    """WikiText-103 as published, before its words were replaced by ``<unk>``: ``wiki.{train,valid,test}.raw``.

    The files of a part, one after another, are the published file.  Raises ValueError if one is missing.
    """
    folder = inputs[WIKITEXT] / "wikitext-103-raw"
    for name, part in PARTS.items():
        source = folder / f"wiki.{name}.raw"
        if not source.is_file():
            raise ValueError(f"{WIKITEXT}: has no wikitext-103-raw/{source.name}")
        target = made / "lm" / part
        target.mkdir(parents=True)
        for number, piece in enumerate(_pieces(source, most_bytes)):
            (target / f"wiki.{name}.{number:04d}.txt").write_bytes(piece)


def _pieces(source: Path, most_bytes: int) -> Iterator[bytes]:
    """The content in pieces of whole articles, as large as the limit allows; one longer article is a piece of its own."""
    piece: list[bytes] = []
    size = 0
    for article in _articles(source):
        if piece and size + len(article) > most_bytes:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(article)
        size += len(article)
    if piece:
        yield b"".join(piece)


def _articles(source: Path) -> Iterator[bytes]:
    """The articles; the blank line before a title belongs to the article before."""
    lines: list[bytes] = []
    with source.open("rb") as file:
        for line in file:
            if _TITLE.fullmatch(line) and any(one.strip() for one in lines) and not lines[-1].strip():
                yield b"".join(lines)
                lines = []
            lines.append(line)
    if lines:
        yield b"".join(lines)
