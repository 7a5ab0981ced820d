"""The registers, read again by plain Python: their facts, the places that ask for them, and the figure of recall."""

import hashlib
import re

import numpy as np
import pytest
import torch

from tasks.language_modeling.recall import asked_places
from tasks.language_modeling.registers import FIRST_NAMES, SURNAMES, make_registers
from tasks.language_modeling.task import LanguageModeling

from .test_task import evaluate

NAME = re.compile(rf"\b({'|'.join(FIRST_NAMES)}) (\w+)")
REGISTERS = {"name": "registers", "num_texts": 144, "text_words": 200, "tokens": "words", "context_length": 32}


@pytest.fixture
def task(make_task) -> LanguageModeling:
    return make_task(None, data=REGISTERS)


def test_the_texts_are_the_same_bytes_on_every_machine():
    # If the generator makes other texts, the task's version must be raised.
    digest = hashlib.sha256("\n".join(make_registers(20, 300, 0)).encode()).hexdigest()
    assert digest == "60e0f2b6f81d91e3a7828b2c1dcc8a5181de068f824ec95060051bb352af3e11"


def test_a_first_name_has_one_surname_in_a_text_and_any_over_all_texts():
    over_all = {}
    for text in make_registers(100, 300, 0):
        found = NAME.findall(text)
        facts = dict(found)
        assert len(facts) == 4
        assert all(facts[first] == surname for first, surname in found)
        assert len(found) == len(re.findall(r"\b(?:" + "|".join(FIRST_NAMES) + r")\b", text))
        for first, surname in facts.items():
            over_all.setdefault(first, []).append(surname)
    assert set(over_all) == set(FIRST_NAMES)
    assert all(set(surnames) <= set(SURNAMES) for surnames in over_all.values())
    assert min(len(set(surnames)) for surnames in over_all.values()) > 6  # of 16, from some 33 draws


def test_names_differ_from_each_other_and_from_all_other_words():
    words = set(re.findall(r"\w+", NAME.sub("", " ".join(make_registers(50, 300, 0)))))
    assert len({*FIRST_NAMES, *SURNAMES}) == len(FIRST_NAMES) + len(SURNAMES)
    assert not words & {*FIRST_NAMES, *SURNAMES}


def test_the_parts_share_no_text_and_are_read_from_files(task, tmp_path):
    texts = [path.read_text() for path in sorted((tmp_path / "cache" / "lm-registers-144-200").rglob("*.txt"))]
    assert len(texts) == len(set(texts)) == 144 + 4 + 4
    assert task.splits.embedded
    assert task.splits.details["texts"] == "registers"
    assert "python" not in task.splits.details


def test_asked_places_are_the_surnames_of_people_named_before_in_the_block(task):
    examples = list(task.splits.test)
    batch = task.collate(examples)
    asked = asked_places(batch.inputs, batch.targets, task.is_name)
    for row, example in enumerate(examples):
        words = [task.tokenizer.decode(example.tokens[i : i + 1]).decode().strip() for i in range(len(example.tokens))]
        seen, expected = set(), []
        for place, word in enumerate(words[:-1], start=1):
            if word in FIRST_NAMES:
                if word in seen:
                    expected.append(place)
                seen.add(word)
        assert asked[row].nonzero()[:, 0].tolist() == expected
    assert asked.sum() > 40


def test_whoever_reads_the_block_recalls_all_and_a_guess_almost_nothing(task):
    class Reader(torch.nn.Module):
        """Repeats what followed on the last token before, which is right wherever recall is asked."""

        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, task.tokenizer.vocab_size)
            for row, sequence in enumerate(tokens.tolist()):
                after = {}
                for place, token in enumerate(sequence):
                    if place:
                        after[sequence[place - 1]] = token
                    if token in after:
                        logits[row, place, after[token]] = 9.0
            return logits

    columns = evaluate(task, Reader(), task.splits.test, 4)
    assert task.metrics["recall"].value(columns) == 100
    assert task.metrics["recall"].n(columns) == columns["asked"].sum() > 40
    for name, values in task.controls().items():
        assert set(values) == set(columns)
        np.testing.assert_array_equal(values["asked"], columns["asked"])
        assert task.metrics["recall"].value(values) < 25, name


def test_pieces_that_are_whole_names_have_the_same_recall_as_words(task, make_task):
    pieces = make_task(
        None, data={**REGISTERS, "tokens": "bpe", "vocab_size": 1024, "context_length": 200}, eval={"lengths": [1]}
    )
    words = make_task(None, data={**REGISTERS, "context_length": 200}, eval={"lengths": [1]})
    counts = []
    for one in (pieces, words):
        batch = one.collate(list(one.splits.test))
        counts.append(asked_places(batch.inputs, batch.targets, one.is_name).sum(1).tolist())
    assert counts[0] == counts[1]


def test_other_texts_and_tokens_have_no_recall(make_task, data_root, sites):
    for task in (make_task(data_root), make_task(None, data={**REGISTERS, "tokens": "bytes"})):
        assert "recall" not in task.metrics
        columns = evaluate(task, task.build_model(sites()).eval(), task.splits.test, 16)
        assert "asked" not in columns
    assert "recall" in LanguageModeling.metrics
