"""The embedded reports, read again by plain Python."""

import numpy as np
import pytest

from tasks.summarization import reports
from tasks.summarization.data import load_summaries
from tasks.summarization.metrics import one_sentence_a_line, rouge
from tasks.summarization.task import lead

from .test_data import small

LIMITS = {"train": 300, "validation": 50, "test": 60}
SHA_256 = "14ac49716a5ad6d1143599c971c8fb20e604be2c2636665b86c0f4143b556967"
# The first word of each list, written down here a second time: it tells language and heading of a word.
DAYS = {
    "Monday": "English",
    "Montag": "German",
    "lundi": "French",
    "maandag": "Dutch",
    "maanantai": "Finnish",
    "Senin": "Indonesian",
}


@pytest.fixture(scope="module")
def parts():
    return reports.make_reports(LIMITS)


def heading_and_language(word):
    """Where a word is listed."""
    found = [
        (heading, language)
        for language, lists in reports.WORDS.items()
        for heading, words in zip(("Day", "Colour", "Animal"), lists, strict=True)
        if word in words
    ]
    assert len(found) == 1, word
    return found[0]


def test_each_summary_is_what_the_believed_witness_said(parts):
    assert {word: heading_and_language(word) for word in DAYS} == {w: ("Day", language) for w, language in DAYS.items()}
    for pairs in parts.values():
        for pair in pairs:
            lines = pair.documents[0].removeprefix("Heard: ").removesuffix(".").split("; ")
            (believed,) = [line.removeprefix("believe ") for line in lines if line.startswith("believe ")]
            statements = [line.split() for line in lines if not line.startswith("believe ")]
            by_language = {heading_and_language(facts[0])[1]: facts for facts in statements}
            assert set(by_language) == set(DAYS.values())
            for language, facts in by_language.items():
                assert {heading_and_language(word)[1] for word in facts} == {language}
            wanted = {heading_and_language(word)[0]: word for word in by_language[believed]}
            assert dict(line.split(": ") for line in pair.references[0].split("\n")) == wanted
            assert len(wanted) == 3


def test_the_same_bytes_every_time(parts):
    assert reports.fingerprint(parts) == reports.fingerprint(reports.make_reports(LIMITS)) == SHA_256


def test_no_part_s_size_changes_another_part(parts):
    other = reports.make_reports({"train": 10, "validation": None, "test": 60})
    assert other["train"] == parts["train"][:10]
    assert other["validation"][:50] == parts["validation"]
    assert len(other["validation"]) == 500
    texts = [{pair.documents for pair in pairs} for pairs in parts.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 410


def test_headings_languages_and_words_are_drawn_evenly():
    pairs = reports.make_reports({"train": 4000, "validation": 1, "test": 1})["train"]
    first = [pair.references[0].split("\n")[0].split(": ") for pair in pairs]
    for heading in reports.HEADINGS:
        assert [one for one, _ in first].count(heading) == pytest.approx(4000 / 3, abs=120)  # four deviations
    languages = [heading_and_language(word)[1] for _, word in first]
    for language in reports.LANGUAGES:
        assert languages.count(language) == pytest.approx(4000 / 6, abs=95)
    assert {word for _, word in first} == {w for lists in reports.WORDS.values() for words in lists for w in words}


def test_rouge_sees_every_word_and_none_equals_another():
    words = [word for lists in reports.WORDS.values() for words in lists for word in words]
    assert len(words) == len(set(words)) == 108
    for number, word in enumerate(words):
        assert rouge(word, [word])["rouge1"] == 100
        assert rouge(word, [words[number - 1]])["rouge1"] == 0


def test_the_whole_report_is_a_poor_summary_and_any_order_a_good_one(parts):
    def score(text, pair):
        return rouge(one_sentence_a_line(text), pair.references)["rouge1"]

    assert np.mean([score(lead(pair, 1), pair) for pair in parts["test"]]) < 25
    assert lead(parts["test"][0], 1) == parts["test"][0].documents[0]
    backwards = ["\n".join(reversed(pair.references[0].split("\n"))) for pair in parts["test"]]
    assert [score(text, pair) for text, pair in zip(backwards, parts["test"], strict=True)] == [100] * 60


def test_reports_are_the_embedded_data_and_each_word_is_a_token(tmp_path):
    data = load_summaries(small(vocab_size=1024, max_train=2000, max_validation=20, max_test=20), None, tmp_path)
    assert data.splits.embedded
    assert data.splits.name == "embedded"
    sizes = data.splits.details["parts"]
    assert sizes["test"]["source_longest"] == sizes["test"]["source_median"] == 30
    assert sizes["test"]["target_longest"] == sizes["test"]["target_median"] == 12
    assert sizes["test"]["source_tokens_cut"] == 0


def test_any_summary_has_half_of_the_words(parts):
    """Therefore the control ``constant`` stands beside the models: headings alone score 50."""
    for pair in parts["train"][:5]:
        scores = [rouge(pair.references[0], other.references)["rouge1"] for other in parts["test"]]
        assert 50 <= np.mean(scores) < 55
