"""The embedded data: names with numbers, or sentences, spoken by espeak-ng in several voices and at several rates.

Only the first symbol of an utterance tells voice and rate, so a model must look back to it until the end.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from tasks.text_to_speech.espeak import Espeak, Spoken

VOICES = {"f": "en-us+f2", "m": "en-us+m3", "d": "en-us", "r": "en-gb-x-rp+f4"}
RATES = {"slow": 150, "plain": 185, "fast": 220}
PAUSE = "_"
Grammar = Literal["digits", "sentences"]

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Frank", "Greta", "Henry", "Ida", "Jack", "Laura", "Max", "Nora"]
NAMES += ["Oscar", "Paula", "Tom"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SUBJECTS = [
    "the old ship",
    "a grey whale",
    "my brother",
    "the captain",
    "our teacher",
    "the north wind",
    "a small bird",
]
SUBJECTS += ["the doctor", "every child", "the queen", "a stranger", "the river", "the black horse", "your sister"]
SUBJECTS += ["the young king", "a tired soldier", "the judge", "some women", "the last train", "my uncle"]
VERBS = ["turned", "looked", "went back", "sailed", "came down", "ran", "walked slowly", "moved", "fell", "called"]
VERBS += ["waited", "stood up", "returned", "spoke quietly", "jumped"]
PLACES = ["to the north", "into the dark", "over the hills", "near the gate", "before noon", "under a cold moon"]
PLACES += ["without a word", "towards the house", "along the shore", "after supper", "in the garden", "behind the wall"]
PLACES += ["at the bridge", "from the island", "across five fields", "beside a wooden table"]
ENDS = [
    "and nobody saw it",
    "but it was late",
    "as she had said",
    "and that was all",
    "for the first time",
    "so we waited",
]
ENDS += ["because of the storm", "while others slept", "and laughed", "which pleased them"]


class Sentence(NamedTuple):
    """One utterance of the embedded data."""

    name: str
    text: str
    speaker: str  # a key of VOICES, a point, a key of RATES
    spoken: Spoken


def sentence_texts(seed: int, count: int, *, grammar: Grammar, long: bool) -> list[str]:
    """Distinct texts in random order: a name and two digits, or sentences of three parts (long: of four).

    Raises ValueError if the grammar has too few.
    """
    groups = (NAMES, DIGITS, DIGITS) if grammar == "digits" else (SUBJECTS, VERBS, PLACES, ENDS)[: 3 + long]
    sizes = [len(group) for group in groups]
    total = int(np.prod(sizes))
    if count > total:
        raise ValueError(f"{count} utterances: the embedded grammar has {total} different sentences")
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(total)[:count]
    indices = np.stack(np.unravel_index(chosen, sizes), axis=1)
    return [" ".join(group[i] for group, i in zip(groups, row, strict=True)) for row in indices]


def make_sentences(
    seed: int, count: int, *, grammar: Grammar, voices: tuple[str, ...], rates: tuple[str, ...], long: bool
) -> list[Sentence]:
    """Texts with their sound; equal arguments give equal bytes.  Raises ValueError as ``sentence_texts`` does."""
    texts = sentence_texts(seed, count, grammar=grammar, long=long)
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    drawn = zip(generator.integers(len(voices), size=count), generator.integers(len(rates), size=count), strict=True)
    espeak = Espeak()
    sentences = []
    for number, (text, (voice, rate)) in enumerate(zip(texts, drawn, strict=True)):
        spoken = espeak.speak(text, voice=VOICES[voices[voice]], rate=RATES[rates[rate]])
        sentences.append(Sentence(f"e{number:05d}", text, f"{voices[voice]}.{rates[rate]}", spoken))
    return sentences


def frame_durations(spoken: Spoken, num_frames: int, hop: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The symbols of an utterance (phonemes, and PAUSE for pauses), and durations in frames, int64 (symbols + 2,).

    Frame i is centred on sample i * hop and belongs to the phoneme that sounds there.  The first duration is the time before
    the first phoneme, the last one the time after the last phoneme, with a pause at the end.
    """
    names, starts, end = list(spoken.phonemes), list(spoken.starts), len(spoken.samples)
    while names and not names[-1]:
        names.pop()
        end = starts.pop()
    edges = np.array([*starts, end], dtype=np.int64)
    first_frames = np.minimum(-(-edges // hop), num_frames)  # the first frame whose centre is at or after the edge
    durations = np.diff(np.concatenate(([0], first_frames, [num_frames])))
    return tuple(name or PAUSE for name in names), durations
