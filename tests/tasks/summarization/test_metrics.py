"""ROUGE compared with values worked out by hand, and letters that its tokenizer can't see."""

import pytest

from tasks.summarization.metrics import dropped_share, one_sentence_a_line, rouge, sentences


def test_the_four_types_differ_on_exchanged_sentences():
    found = rouge("the dog ran.\nthe cat sat.", ["the cat sat.\nthe dog ran."])
    assert found == pytest.approx({"rouge1": 100, "rouge2": 80, "rougeL": 50, "rougeLsum": 100})
    assert rouge("the dog ran. the cat sat.", ["the cat sat. the dog ran."])["rougeLsum"] == pytest.approx(50)


def test_figures_are_f1_in_per_cent():
    # 2 words of 3 and of 4 in common: 2 * (2/3) * (2/4) / (2/3 + 2/4); one pair of 2 and of 3.
    found = rouge("a b x", ["a b c d"])
    assert found == pytest.approx({"rouge1": 400 / 7, "rouge2": 40, "rougeL": 400 / 7, "rougeLsum": 400 / 7})


def test_words_are_stemmed():
    assert rouge("returning objects", ["returned object"])["rouge2"] == 100


def test_the_best_reference_counts_for_each_type():
    references = ["a c b d", "b a x y z"]
    singles = [rouge("a b", [one]) for one in references]
    found = rouge("a b", references)
    assert found == {name: max(one[name] for one in singles) for name in found}


@pytest.mark.parametrize("prediction", ["", ".", "\n", "…"])
def test_a_prediction_without_a_word_scores_nothing(prediction):
    assert set(rouge(prediction, ["a cat"]).values()) == {0.0}
    assert set(rouge("a cat", [prediction]).values()) == {0.0}


def test_letters_that_the_tokenizer_does_not_see_are_measured_and_refused():
    assert rouge("cafe", ["café"])["rouge1"] == 0
    assert dropped_share(["café"]) == 0.25
    assert dropped_share(["A b, 1!", "…"]) == 0
    assert dropped_share([]) == 0
    with pytest.raises(ValueError, match="100% of their letters and digits are outside a-z"):
        rouge("สวัสดี", ["สวัสดี"])
    assert rouge("สวัสดี", ["สวัสดี"], max_dropped=1.0)["rouge1"] == 0


@pytest.mark.parametrize("references", [[], "a text"])
def test_references_are_a_list(references):
    with pytest.raises(ValueError, match="a list of at least one text is needed"):
        rouge("a", references)


def test_sentences_end_at_newlines_and_full_stops():
    assert sentences("It is 3.5 times more. Good!\nYes") == ["It is 3.5 times more.", "Good!", "Yes"]
    assert one_sentence_a_line("One cat. Two dogs.") == "One cat.\nTwo dogs."
    assert one_sentence_a_line("") == ""
