"""The embedded data: reports of what six witnesses said, and summaries of what the believed one said.

Each witness speaks a language of their own and tells a day, a colour and an animal, in any order.  The report has the
statements in random order, and somewhere among them the language of the witness who is believed.  The summary gives that
witness's three facts, each on a line behind its heading, in random order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from tasks.summarization.pairs import Pair
from tasks.summarization.sources import PARTS

HEADINGS = ("Day", "Colour", "Animal")
# Language -> six words for each heading.  No word is there twice, and all are written in a-z, because ROUGE sees no other letter.
WORDS = {
    "English": (
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
        ("red", "blue", "green", "black", "white", "grey"),
        ("dog", "cat", "horse", "cow", "goose", "mouse"),
    ),
    "German": (
        ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag"),
        ("rot", "blau", "gelb", "schwarz", "grau", "braun"),
        ("Hund", "Katze", "Pferd", "Kuh", "Gans", "Maus"),
    ),
    "French": (
        ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi"),
        ("rouge", "bleu", "vert", "noir", "blanc", "gris"),
        ("chien", "chat", "cheval", "vache", "oie", "souris"),
    ),
    "Dutch": (
        ("maandag", "dinsdag", "woensdag", "donderdag", "vrijdag", "zaterdag"),
        ("rood", "blauw", "groen", "zwart", "wit", "grijs"),
        ("hond", "kat", "paard", "koe", "muis", "geit"),
    ),
    "Finnish": (
        ("maanantai", "tiistai", "keskiviikko", "torstai", "perjantai", "lauantai"),
        ("punainen", "sininen", "musta", "valkoinen", "harmaa", "ruskea"),
        ("koira", "kissa", "hevonen", "hiiri", "hanhi", "lammas"),
    ),
    "Indonesian": (
        ("Senin", "Selasa", "Rabu", "Kamis", "Jumat", "Sabtu"),
        ("merah", "biru", "hijau", "hitam", "putih", "kuning"),
        ("anjing", "kucing", "kuda", "sapi", "tikus", "angsa"),
    ),
}
LANGUAGES = tuple(WORDS)
COUNTS = {"train": 20_000, "validation": 500, "test": 500}  # where the settings give no limit
STREAMS = {
    "train": 1,
    "validation": 2,
    "test": 3,
}  # of random numbers, one a part, so that no part's size changes another


def make_reports(limits: Mapping[str, int | None]) -> dict[str, tuple[Pair, ...]]:
    """The pairs of each part.  limits: the number of pairs of a part; None for ``COUNTS``."""
    return {part: tuple(_pairs(part, limits[part] or COUNTS[part])) for part in PARTS}


def _pairs(part: str, count: int) -> list[Pair]:
    # Uniform numbers are the same in all versions of NumPy; how it shuffles may change.
    generator = np.random.Generator(np.random.PCG64(STREAMS[part]))
    num_facts, num_witnesses = len(HEADINGS), len(LANGUAGES)
    sizes = [num_facts * num_witnesses] * 2 + [num_witnesses + 1, num_facts, 1]
    uniform = np.split(generator.random((count, sum(sizes))), np.cumsum(sizes)[:-1], axis=1)
    words = (uniform[0] * 6).astype(int).reshape(count, num_witnesses, num_facts)
    order_of_facts = uniform[1].reshape(count, num_witnesses, num_facts).argsort(2)
    order_of_lines, order_of_headings = uniform[2].argsort(1), uniform[3].argsort(1)
    believed = (uniform[4][:, 0] * num_witnesses).astype(int)
    rows = zip(words, order_of_facts, order_of_lines, order_of_headings, believed, strict=True)
    return [_pair(f"{part}:{number}", *row) for number, row in enumerate(rows, start=1)]


def _pair(
    name: str,
    words: np.ndarray,  # (witnesses, facts): which of the six
    order_of_facts: np.ndarray,  # (witnesses, facts)
    order_of_lines: np.ndarray,  # (witnesses + 1,)
    order_of_headings: np.ndarray,  # (facts,)
    believed: int,
) -> Pair:
    said = [
        [six[index] for six, index in zip(WORDS[language], row, strict=True)]
        for language, row in zip(LANGUAGES, words, strict=True)
    ]
    lines = [" ".join(facts[i] for i in order) for facts, order in zip(said, order_of_facts, strict=True)]
    lines.append(f"believe {LANGUAGES[believed]}")
    report = "Heard: " + "; ".join(lines[i] for i in order_of_lines) + "."
    summary = "\n".join(f"{HEADINGS[i]}: {said[believed][i]}" for i in order_of_headings)
    return Pair(name, (report,), (summary,))


def fingerprint(parts: Mapping[str, tuple[Pair, ...]]) -> str:
    """SHA-256 of all texts."""
    digest = hashlib.sha256()
    for part in PARTS:
        for pair in parts[part]:
            digest.update("\0".join((part, pair.name, *pair.documents, *pair.references, "")).encode())
    return digest.hexdigest()
