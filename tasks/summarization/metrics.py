"""ROUGE of one summary, by Google's rouge-score 0.1.2, and the share of a text that its tokenizer can't see.

Convention: F1 in per cent.  Words are runs of a-z and 0-9 after lower-casing; words of more than three letters are stemmed
by Porter's rules.  ``rougeL`` takes the text as one sequence.  ``rougeLsum`` divides it into sentences at newlines and
takes the union of the sentences' longest common subsequences.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score.rouge_scorer import RougeScorer

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOSTLY = 0.5  # above this share of unseen letters a score would mean nothing


def rouge(prediction: str, references: Sequence[str], *, max_dropped: float = MOSTLY) -> dict[str, float]:
    """``rouge1``, ``rouge2``, ``rougeL`` and ``rougeLsum``; each is the best over the references.

    An empty prediction, or one without a word, scores 0.  Raises ValueError without a reference, and where more than
    ``max_dropped`` of the references' letters and digits are not ASCII, because the tokenizer would not see them.

    >>> rouge("the dog ran.\\nthe cat sat.", ["the cat sat.\\nthe dog ran."])
    {'rouge1': 100.0, 'rouge2': 80.00000000000001, 'rougeL': 50.0, 'rougeLsum': 100.0}
    """
    if isinstance(references, str) or not len(references):
        raise ValueError(f"references {references!r}: a list of at least one text is needed")
    dropped = dropped_share(references)
    if dropped > max_dropped:
        raise ValueError(
            f"references: {dropped:.0%} of their letters and digits are outside a-z and 0-9, and ROUGE's tokenizer drops "
            f"them; at most {max_dropped:.0%} is allowed"
        )
    scores = _scorer().score_multi(list(references), prediction)
    return {name: 100 * float(scores[name].fmeasure) for name in TYPES}


def dropped_share(texts: Iterable[str]) -> float:
    """The share of all texts' letters, marks and digits that are not a-z or 0-9 after lower-casing; 0 where there are none."""
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
    """The sentences of a text: it is divided at newlines, and each line by nltk's Punkt with no abbreviations learnt."""
    return [sentence for line in text.splitlines() for sentence in _punkt().tokenize(line)]


def one_sentence_a_line(text: str) -> str:
    """The text with a newline between sentences: the form that predictions and references have for ``rougeLsum``."""
    return "\n".join(sentences(text))


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(TYPES), use_stemmer=True)


@cache
def _punkt() -> PunktSentenceTokenizer:
    return PunktSentenceTokenizer()
