"""The task as the engine calls it: figures counted by hand, independent families, and what can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.interface import PATTERNS
from benchmark.running.trainer import evaluate, measured_metrics
from tasks.recall.families import FAMILIES
from tasks.recall.metrics import accuracy
from tasks.recall.task import NAMES, Recall

from .conftest import built, loaded, settings, trained

BOTH = ["mqar", "fused", "compression"]
SIZES = {
    "mqar": {"train": [[2, 16]], "test": [[2, 16], [3, 24]]},
    "fused": {"train": [[3, 8], [4, 12]], "test": [[3, 8], [4, 12], [5, 12]]},
    "compression": {"train": [[3, 5]], "test": [[3, 5]]},
}


def test_accuracy_is_the_share_of_right_answers():
    predicted = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    answers = torch.tensor([[1, 2, 3, 4], [1, 9, 9, 9]])
    assert accuracy(predicted, answers).tolist() == [100, 25]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_figures_are_those_of_every_text_asked_alone(pattern):
    """Each text goes through its family's model by itself; right answers are counted in plain Python."""
    task = loaded(BOTH, pattern, data=SIZES)
    model = built(task)
    columns = evaluate(task, model, task.splits.test, batch_size=13)
    right = {name: [] for name in task.families}
    for index in range(len(task.splits.test)):
        (example,) = task.splits.test[index]
        one, row = example
        texts = [None if x is None else torch.from_numpy(x[row : row + 1]).long() for x in one.texts[:4]]
        with torch.no_grad():
            logits = model[one.family].eval()(*texts[:3])[0]
        share = sum(int(logits[i].argmax()) == int(answer) for i, answer in enumerate(texts[3][0])) / len(logits)
        assert columns["accuracy"][index] == pytest.approx(100 * share)
        about = [columns[name][index] for name in ("family", "pairs", "length", "is_trained")]
        trained_sizes = SIZES[one.family]["train"]
        assert about == [NAMES.index(one.family), one.pairs, one.length, [one.pairs, one.length] in trained_sizes]
        if [one.pairs, one.length] in trained_sizes:
            right[one.family].append(100 * share)
    figures = measured_metrics(task.metrics, columns)
    assert list(figures) == ["accuracy", *(name for name in NAMES if name in BOTH), "loss"]
    for family, shares in right.items():
        assert figures[family].value == pytest.approx(np.mean(shares))
        assert figures[family].n == len(shares)
    assert figures["accuracy"].value == pytest.approx(np.mean([np.mean(shares) for shares in right.values()]))


def test_the_headline_is_the_mean_of_the_solvable_families():
    task = loaded(BOTH, data=SIZES, solvable=["mqar", "compression", "parity"])
    figures = measured_metrics(task.metrics, evaluate(task, built(task), task.splits.test, batch_size=64))
    assert figures["accuracy"].value == pytest.approx((figures["mqar"].value + figures["compression"].value) / 2)


def test_families_that_a_pattern_lacks_are_left_out():
    assert loaded(["mqar", "parity"], "causal_self").families == ["mqar", "parity"]
    task = loaded(["mqar", "parity"], "noncausal_cross")
    assert task.families == ["mqar"]
    assert "parity" not in task.metrics
    with pytest.raises(ValueError, match=r"data.families \['parity'\]: none for causal_cross; it has mqar, fused"):
        loaded(["parity"], "causal_cross")


@pytest.mark.parametrize("pattern", ["causal_self", "causal_cross"])
def test_a_family_is_the_same_whatever_families_are_beside_it(pattern):
    """Its texts, first weights and gradients, so that a list of families can grow without moving any figure."""
    tasks = [loaded(families, pattern, data=SIZES) for families in (BOTH, ["mqar"])]
    models = [built(task, seed=3) for task in tasks]
    for task, model in zip(tasks, models, strict=True):
        batch = task.collate([task.splits.train[index] for index in range(8)])
        total, num_terms = task.loss(model, batch)
        (total / num_terms).backward()
    alone = dict(models[1]["mqar"].named_parameters())
    for name, parameter in models[0]["mqar"].named_parameters():
        assert torch.equal(parameter, alone[name])
        assert torch.equal(parameter.grad, alone[name].grad)


def test_parts_patterns_and_seeds_have_texts_of_their_own():
    def first(task, part="train"):
        return getattr(task.splits, part).sets[0].texts.answers[:8].tolist()

    task = loaded(["mqar"])
    assert first(task) != first(task, "test") != first(task, "validation")
    assert first(task) != first(loaded(["mqar"], "noncausal_self"))
    assert first(task) != first(loaded(["mqar"], data={"seed": 1}))
    assert first(task) == first(loaded(["mqar"]))
    assert task.splits.fingerprint != loaded(["mqar"], data={"seed": 1}).splits.fingerprint


def test_sets_take_turns_so_that_a_limit_keeps_all_of_them():
    task = loaded(BOTH, data=SIZES)
    first = [task.splits.test[index][0].set for index in range(6)]
    assert first == task.splits.test.sets
    assert len({(one.family, one.pairs, one.length) for one in first}) == 6
    every = [
        (id(example.set), example.row) for (example,) in map(task.splits.test.__getitem__, range(len(task.splits.test)))
    ]
    assert len(set(every)) == len(every) == 4 * 16 + 2 * 5  # four trained difficulties, and two for curves only
    with pytest.raises(IndexError):
        task.splits.test[len(task.splits.test)]


def test_training_takes_difficulties_in_turn():
    task = loaded(["fused"], data=SIZES)
    assert [task.splits.train[index][0].set.pairs for index in range(4)] == [3, 4, 3, 4]
    assert len(task.splits.train) == 256


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"mqar": {"train": [[4, 12]], "test": [[4, 12]]}},
            r"data.mqar \[4, 12\]: 4 pairs need a length of at least 16",
        ),
        ({"mqar": {"train": [[4, 17]], "test": [[4, 17]]}}, r"data.mqar \[4, 17\]: the length must be even"),
        ({"mqar": {"train": [[30, 120]], "test": [[30, 120]]}}, r"data.mqar \[30, 120\]: at most 19 pairs"),
        ({"mqar": {"train": [[0, 12]], "test": [[0, 12]]}}, r"train \[0, 12\]: pairs and length are at least 1"),
        ({"mqar": {"train": [[4, 16]], "test": [[4, 32]]}}, r"test \[\[4, 32\]\] has none of train \[\[4, 16\]\]"),
        ({"families": ["mqra"]}, r"'mqra': unknown; allowed: mqar, fused"),
    ],
)
def test_sizes_that_no_text_can_have_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        loaded(data.pop("families", ["mqar"]), data=data)


def test_rules_score_what_counting_expects():
    task = loaded(["mqar", "memorisation", "compression"], data={**SIZES, "num_test": 400, "num_train": 2048})
    rules = {name: measured_metrics(task.metrics, columns) for name, columns in task.controls().items()}
    assert rules["chance"]["mqar"].value == pytest.approx(100 / 20)
    assert rules["chance"]["loss"].value == pytest.approx((2 * np.log(20) + np.log(16)) / 3)
    assert rules["bag"]["mqar"].value == pytest.approx(50)  # two pairs
    assert rules["bag"]["memorisation"].value == pytest.approx(5)
    assert rules["bag"]["compression"].value == pytest.approx(
        100 * (1 + 2 / 16) / 3, rel=0.05
    )  # three independent words
    assert rules["most_frequent"]["mqar"].value == pytest.approx(5, abs=2)
    answers = [example.set.texts.answers[example.row] for (example,) in map(task.splits.test.__getitem__, range(9))]
    assert [len(found) for found in answers[:4]] == [2, 3, 8, 3]


@pytest.mark.parametrize("pattern", ["causal_self", "causal_cross"])
def test_curves_count_the_state_that_streaming_holds(pattern):
    task = loaded(["mqar"], pattern, data=SIZES)
    rows = task.curves(built(task))["recall"]
    per_word = 2 * 16 * 4  # a key and a value of 16 float32
    assert [(row["pairs"], row["length"]) for row in rows] == [(2, 16), (3, 24)]
    assert [row["state_bytes"] >= row["length"] * per_word for row in rows] == [True, True]
    assert {row["state_bytes"] for row in task.curves(built(task, "none"))["recall"]} == {0}
    assert {row["state"] for row in task.curves(built(task, "none"))["recall"]} != {100.0}
    columns = evaluate(task, built(task), task.splits.test, batch_size=8)
    for row in rows:
        same = (columns["pairs"] == row["pairs"]) & (columns["length"] == row["length"])
        assert row["accuracy"] == pytest.approx(columns["accuracy"][same].mean())


def test_noncausal_attentions_have_no_state():
    task = loaded(["mqar"], "noncausal_self", data=SIZES)
    assert {row["state_bytes"] for row in task.curves(built(task))["recall"]} == {None}


def test_a_stranger_finds_a_default_pattern():
    task = Recall(settings(["mqar"]), backbone="probe")
    assert task.pattern == "causal_self"
    assert Recall.separate_models
    assert set(Recall.backbones["probe"]) == set(PATTERNS)
    assert set(FAMILIES) < set(Recall.metrics)


LEARNABLE = {
    "num_train": 2720,
    "num_test": 64,
    "mqar": {"train": [[2, 12]], "test": [[2, 12]]},
    "fused": {"train": [[4, 8]], "test": [[4, 8]]},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_softmax_learns_to_recall_and_a_model_without_attention_stays_at_chance(pattern):
    task = loaded(["mqar", "fused"], pattern, data=LEARNABLE, model={"embed_dim": 32, "feed_forward_dim": 64})
    _, softmax = trained(task, "softmax", steps=170)
    _, none = trained(task, "none", steps=60)
    for family in ("mqar", "fused"):
        assert softmax[family] > 98, softmax
        assert none[family] < 100 / 20 + 5, none
