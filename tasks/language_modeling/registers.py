"""Embedded texts: registers of market days, in which a first name's surname is drawn anew for each text.

A first name is always followed by its surname.  At a person's first mention in a text nothing tells the surname; at each later
mention the text itself does, and nothing else, because over all texts every first name has every surname equally often.
"""

from __future__ import annotations

import functools

import numpy as np

PEOPLE = 4  # in a text
FIRST_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Greta", "Hugo", "Ida", "Jan", "Kate", "Leo")
SURNAMES = (
    *("Alder", "Birch", "Cole", "Dale", "East", "Field", "Grove", "Hill"),
    *("Jones", "Lake", "Marsh", "Oakes", "Reed", "Stone", "Thorn", "West"),
)
HEADING = "Market day."  # so that every name follows a space
SENTENCES = (
    "{a} buys a {thing} from {b}.",
    "{a} owes {b} {number} coins.",
    "{a} sells {b} {number} sheep.",
    "{a} and {b} meet at the {place}.",
    "Today {a} leaves for the {place}.",
    "{a} pays the toll.",
    "The {thing} of {a} is lost.",
    "{a} thanks {b}.",
)
FILLERS = {
    "thing": ("cow", "horse", "goat", "cart", "cloak", "plough"),
    "number": ("two", "three", "four", "five", "six"),
    "place": ("gate", "mill", "bridge", "church", "well", "inn"),
}


@functools.lru_cache(maxsize=4)
def make_registers(num_texts: int, num_words: int, seed: int) -> tuple[str, ...]:
    """Texts of at least ``num_words`` words and full stops each.  The same arguments give the same texts on every machine.

    Each text has PEOPLE people with different first names.  A sentence and the people in it are drawn independently of all others,
    so any two mentions of a person may be far apart.
    """
    rng = np.random.default_rng(seed)
    return tuple(_text(rng, num_words) for _ in range(num_texts))


def _text(rng: np.random.Generator, num_words: int) -> str:
    firsts = rng.permutation(len(FIRST_NAMES))[:PEOPLE]
    people = [
        f"{FIRST_NAMES[i]} {SURNAMES[j]}" for i, j in zip(firsts, rng.integers(len(SURNAMES), size=PEOPLE), strict=True)
    ]
    sentences, count = [HEADING], len(words_of(HEADING))
    while count < num_words:
        kind, a, apart, *fills = rng.integers(
            [len(SENTENCES), PEOPLE, PEOPLE - 1, *map(len, FILLERS.values())]
        ).tolist()
        chosen = {name: words[fill] for (name, words), fill in zip(FILLERS.items(), fills, strict=True)}
        sentence = SENTENCES[kind].format(a=people[a], b=people[(a + 1 + apart) % PEOPLE], **chosen)
        sentences.append(sentence)
        count += len(words_of(sentence))
    return " ".join(sentences)


def words_of(sentence: str) -> list[str]:
    """The words and full stops of a sentence."""
    return sentence.replace(".", " .").split()
