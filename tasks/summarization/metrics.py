"""ROUGE of one summary, by Google's rouge-score 0.1.2, and what its tokenizer can't see.

Convention: F1 in per cent; words are runs of a-z and 0-9 after lower-casing, words of more than three letters stemmed by
Porter's rules; ``rougeL`` takes the text as one sequence, ``rougeLsum`` the union of the longest common subsequences of
sentences, which newlines divide.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score.rouge_scorer import RougeScorer

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOSTLY = 0.5  # of a reference's letters


def rouge(prediction: str, references: Sequence[str], *, max_dropped: float = MOSTLY) -> dict[str, float]:
    """``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``; with several references the best for each of the four.

    An empty prediction, or one without a word, scores 0.  Raises ValueError without a reference, and where the
    references' letters and digits are not ASCII to a larger share than ``max_dropped``: the tokenizer would not see them.

    >>> rouge("the dog ran.\\nthe cat sat.", ["the cat sat.\\nthe dog ran."])
    {'rouge1': 100.0, 'rouge2': 80.00000000000001, 'rougeL': 50.0, 'rougeLsum': 100.0}
    """
    if isinstance(references, str) or not len(references):
        raise ValueError(f"references {references!r}: a list of at least one text is wanted")
    dropped = dropped_share(references)
    if dropped > max_dropped:
        raise ValueError(
            f"references: {dropped:.0%} of their letters and digits are outside a-z and 0-9, and ROUGE's tokenizer drops "
            f"them; at most {max_dropped:.0%} is allowed"
        )
    scores = _scorer().score_multi(list(references), prediction)
    return {name: 100 * float(scores[name].fmeasure) for name in TYPES}


def dropped_share(texts: Iterable[str]) -> float:
    """Share of the letters, marks and digits of all texts that are not a-z or 0-9 after lower-casing; 0 without any."""
    seen = dropped = 0
    for text in texts:
        for character in text.lower():
            if character.isascii():
                seen += character.isalnum()
            elif unicodedata.category(character)[0] in "LMN":
                seen += 1
                dropped += 1
    return dropped / seen if seen else 0.0


def sentences(text: str) -> list[str]:
    """By newlines, and within a line by nltk's Punkt with no abbreviations learnt."""
    return [sentence for line in text.splitlines() for sentence in _punkt().tokenize(line)]


def one_sentence_a_line(text: str) -> str:
    """What ``rougeLsum`` is given, predictions and references alike."""
    return "\n".join(sentences(text))


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(TYPES), use_stemmer=True)


@cache
def _punkt() -> PunktSentenceTokenizer:
    return PunktSentenceTokenizer()
