"""What the engine calls: batches, losses, scores, controls and curves."""

import json
import math

import numpy as np
import pytest
import torch

from benchmark.multihead import AttentionSites
from tasks.cross_entropy import PADDED
from tasks.language_modeling.data import TokenizedPart
from tasks.language_modeling.lengths import LengthLoss, position_curve
from tasks.language_modeling.task import EvalSettings, LanguageModeling, LanguageModelingSettings, ModelSettings


def evaluate(task, model, part, batch_size):
    """Columns of a part, as the engine makes them."""
    columns = {}
    with torch.no_grad():
        for first in range(0, len(part), batch_size):
            batch = task.collate([part[i] for i in range(first, min(first + batch_size, len(part)))])
            for name, values in task.score(model, batch).items():
                columns.setdefault(name, []).append(values.numpy())
    return {name: np.concatenate(values) for name, values in columns.items()}


def train(task, model, batches, *, learning_rate):
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses = []
    for batch in batches:
        total, count = task.loss(model, batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append(float(total.detach() / count))
    return losses


def test_a_block_begins_with_the_begin_token_and_predicts_all_its_tokens(data_root, make_task):
    task = make_task(data_root)
    examples = [task.splits.test[0], task.splits.test[len(task.splits.test) - 1]]
    batch = task.collate(examples)
    assert batch.inputs[:, 0].tolist() == [256, 256]
    np.testing.assert_array_equal(batch.targets[0], examples[0].tokens)
    np.testing.assert_array_equal(batch.inputs[0, 1:], examples[0].tokens[:-1])
    short = len(examples[1].tokens)
    assert 0 < short < 32
    np.testing.assert_array_equal(batch.targets[1, :short], examples[1].tokens)
    assert (batch.targets[1, short:] == PADDED).all()
    assert task.tokens(batch) == 32 + short


@pytest.mark.parametrize("attention", ["softmax", "lavo"])
def test_batch_size_changes_no_figure(data_root, make_task, sites, attention):
    task = make_task(data_root)
    model = task.build_model(sites(attention)).eval()
    results = []
    for batch_size in (1, 7, 32):
        columns = evaluate(task, model, task.splits.test, batch_size)
        results.append({name: (metric.value(columns), metric.n(columns)) for name, metric in task.metrics.items()})
    size = sum(len(path.read_bytes()) for path in (data_root / "lm" / "test").iterdir())
    for result in results:
        for name, (value, n) in result.items():
            assert value == pytest.approx(results[0][name][0], rel=1e-6)
            assert n == size


@pytest.mark.parametrize("tokens", ["bytes", "bpe"])
def test_figures_are_ratios_of_sums_over_the_text_itself(data_root, make_task, sites, tokens):
    task = make_task(data_root, data={"tokens": tokens, "vocab_size": 300})
    model = task.build_model(sites()).eval()
    nats = 0.0
    for block in task.splits.test:  # one by one, with log-softmax written out
        tokens_read = torch.tensor([[task.tokenizer.begin, *block.tokens[:-1].tolist()]])
        log_p = model(tokens_read)[0].double().log_softmax(-1)
        nats -= sum(log_p[i, token].item() for i, token in enumerate(block.tokens.tolist()))
    texts = [path.read_bytes() for path in (data_root / "lm" / "test").iterdir()]
    num_words, num_bytes = sum(len(text.split()) for text in texts), sum(map(len, texts))
    num_tokens = len(task.parts["test"].tokens)
    columns = evaluate(task, model, task.splits.test, 8)
    values = {name: metric.value(columns) for name, metric in task.metrics.items()}
    assert values["loss"] == pytest.approx(nats / num_tokens, rel=1e-6)
    assert values["perplexity"] == pytest.approx(math.exp(nats / num_tokens), rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert values["word_perplexity"] == pytest.approx(math.exp(nats / num_words), rel=1e-4)


@pytest.mark.parametrize("attention", ["softmax", "lavo"])
def test_four_examples_are_learnt_by_heart(data_root, make_task, sites, attention):
    task = make_task(data_root, model={"embed_dim": 32})
    model = task.build_model(sites(attention))
    batch = task.collate([task.splits.train[i] for i in range(4)])
    losses = train(task, model, [batch] * 150, learning_rate=1e-2)
    assert losses[-1] < 0.1 < 3 < losses[0]


@pytest.mark.parametrize("attention", ["softmax", "lavo"])
def test_random_bytes_can_not_be_predicted(data_root, make_task, sites, attention):
    task = make_task(data_root, eval={"chunk_size": 128})
    rng = np.random.default_rng(0)
    for part, size in (("train", 30_000), ("test", 10_000)):
        noise = rng.integers(0, 256, size).astype(np.uint8)
        task.parts[part] = TokenizedPart(noise, np.array([size]))
    train_blocks, test_blocks = task.blocks("train", 32), task.blocks("test", 32)
    model = task.build_model(sites(attention))
    batches = [task.collate([train_blocks[8 * i + j] for j in range(8)]) for i in range(100)]
    train(task, model, batches, learning_rate=1e-2)
    loss = task.metrics["loss"].value(evaluate(task, model.eval(), test_blocks, 64))
    assert math.log(256) - 0.01 < loss < math.log(256) + 0.3
    assert all(row["loss"] > math.log(256) - 0.01 for row in task.curves(model)["loss_by_length"])


def test_loss_is_normalised_by_tokens_and_not_by_blocks(data_root, make_task, sites):
    task = make_task(data_root)
    model = task.build_model(sites())
    examples = [task.splits.test[0], task.splits.test[len(task.splits.test) - 1]]
    whole = task.loss(model, task.collate(examples))
    parts = [task.loss(model, task.collate([example])) for example in examples]
    assert int(whole.num_terms) == sum(int(part.num_terms) for part in parts)
    torch.testing.assert_close(whole.total, sum(part.total for part in parts))


def test_curves_score_every_token_once_at_every_length(data_root, make_task, sites):
    task = make_task(data_root)
    model = task.build_model(sites("lavo", window=8)).eval()
    curves = task.curves(model)
    size = sum(len(path.read_bytes()) for path in (data_root / "lm" / "test").iterdir())
    assert [(row["length"], row["n"]) for row in curves["loss_by_length"]] == [(32, size), (64, size), (128, size)]
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    assert (curves["training_length"], curves["positions"]) == (32, "attention")
    positions = curves["loss_by_position"]
    assert positions["edges"] == [0, 1, 2, 4, 8, 16, 32, 64, 128]
    assert sum(positions["n"]) == size
    assert all(low <= loss <= high for low, loss, high in _with_intervals(positions))
    total = sum(loss * n for loss, n in zip(positions["loss"], positions["n"], strict=True))
    assert total / size == pytest.approx(curves["loss_by_length"][-1]["loss"])


def _with_intervals(positions):
    rows = zip(positions["low"], positions["loss"], positions["high"], strict=True)
    return [row for row in rows if row[0] is not None]


def test_intervals_by_position_are_a_bootstrap_over_documents():
    nats, num_tokens = np.array([[2.0, 8.0], [9.0, 4.0], [4.0, 0.0]]), np.array([[2, 2], [3, 2], [4, 0]])
    curve = position_curve(2, LengthLoss(np.array([0, 1, 2]), nats, num_tokens, 1, 0))
    assert (curve["loss"], curve["n"], curve["documents"]) == ([15 / 9, 3.0], [9, 4], [3, 2])
    draws = np.random.default_rng(7).integers(0, 3, (20_000, 3))
    expected = np.quantile(nats[draws, 0].sum(1) / num_tokens[draws, 0].sum(1), [0.025, 0.975])
    assert [curve["low"][0], curve["high"][0]] == pytest.approx(expected, abs=0.05)
    assert (curve["low"][1], curve["high"][1]) == (2.0, 4.0)
    alone = position_curve(2, LengthLoss(np.array([0, 1, 2]), nats[:1], num_tokens[:1], 1, 0))
    assert alone["low"] == alone["high"] == [None, None]


def test_the_curve_at_the_training_length_is_the_headline(data_root, make_task, sites):
    task = make_task(data_root)
    for attention in ("softmax", "lavo"):
        model = task.build_model(sites(attention)).eval()
        columns = evaluate(task, model, task.splits.test, 16)
        first = task.curves(model)["loss_by_length"][0]
        assert first["loss"] == pytest.approx(task.metrics["loss"].value(columns), rel=1e-5)
        assert first["bits_per_byte"] == pytest.approx(task.metrics["bits_per_byte"].value(columns), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"chunk_size": 11, "tokens_at_once": 50}, {"chunk_size": 50, "tokens_at_once": 700}]
)
def test_chunks_and_rows_change_no_curve(data_root, make_task, sites, options):
    expected = make_task(data_root)
    other = make_task(data_root, eval=options)
    model = expected.build_model(sites("lavo", window=8)).eval()
    for a, b in zip(expected.curves(model)["loss_by_length"], other.curves(model)["loss_by_length"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_curves_are_taken_without_dropout_and_leave_the_model_as_it_was(data_root, make_task, sites):
    task = make_task(data_root, model={"dropout": 0.5})
    model = task.build_model(sites()).train()
    assert task.curves(model) == task.curves(model)
    assert model.training


def test_learned_positions_are_not_asked_for_more_than_they_were_trained_on(data_root, make_task, sites):
    task = make_task(data_root, model={"positions": "learned"})
    rows = task.curves(task.build_model(sites()))["loss_by_length"]
    assert [row["length"] for row in rows] == [32]
    rows = task.curves(task.build_model(sites("lavo")))["loss_by_length"]
    assert [row["length"] for row in rows] == [32, 64, 128]


def test_the_layers_are_told_the_longest_length_that_they_will_meet(data_root, make_task):
    asked = []

    class Sites(AttentionSites):
        def __call__(self, pattern, *, max_length, **options):
            asked.append((pattern, max_length))
            return super().__call__(pattern, max_length=max_length, **options)

    make_task(data_root).build_model(Sites("softmax", "causal_self", {}))
    assert asked == [("causal_self", 128)] * 2


def test_controls_give_the_columns_of_score_and_get_better_with_context(data_root, make_task, sites):
    task = make_task(data_root)
    columns = evaluate(task, task.build_model(sites()), task.splits.test, 16)
    controls = task.controls()
    assert list(controls) == ["uniform", "unigram", "bigram", "order_2", "order_3"]
    figures = {}
    for name, values in controls.items():
        assert set(values) == set(columns)
        np.testing.assert_array_equal(values["num_tokens"], columns["num_tokens"])
        np.testing.assert_array_equal(values["num_words"], columns["num_words"])
        figures[name] = task.metrics["bits_per_byte"].value(values)
    assert figures["uniform"] == pytest.approx(8)
    assert figures["uniform"] > figures["unigram"] > figures["bigram"] > figures["order_2"]


def test_a_short_training_beats_the_unigram_control(data_root, make_task, sites):
    task = make_task(data_root, model={"embed_dim": 32})
    model = task.build_model(sites("lavo"))
    rng = np.random.default_rng(0)
    batches = [
        task.collate([task.splits.train[i] for i in rng.integers(0, len(task.splits.train), 8)]) for _ in range(200)
    ]
    train(task, model, batches, learning_rate=1e-2)
    loss = task.metrics["loss"].value(evaluate(task, model.eval(), task.splits.test, 16))
    assert loss < task.metrics["loss"].value(task.controls()["unigram"])


def test_a_record_tells_how_blocks_begin_and_which_text_was_used(data_root, make_task):
    details = make_task(data_root, data={"max_test_bytes": 640, "excerpt_bytes": 320}).splits.details
    assert "begin token" in details["blocks"]
    assert (details["tokens"], details["vocab_size"], details["context_length"]) == ("bytes", 257, 32)
    assert details["parts"]["test"]["whole"] is False
    assert details["parts"]["train"]["whole"] is True
    assert 600 < details["parts"]["test"]["bytes"] <= 640
    assert str(data_root) not in json.dumps(details)


def test_embedded_data_needs_no_root_and_names_the_interpreter(tmp_path):
    settings = LanguageModelingSettings(
        data={"context_length": 64, "max_train_bytes": 100_000, "max_validation_bytes": 4096, "max_test_bytes": 4096,
              "excerpt_bytes": 2048},
        model={"embed_dim": 16, "num_layers": 1, "num_heads": 2},
    )  # fmt: skip
    first, second = (LanguageModeling(settings).load_data(None, tmp_path / folder) for folder in ("a", "b"))
    assert (first.name, first.embedded, first.fingerprint) == ("embedded", True, second.fingerprint)
    assert [len(part) for part in first[:3]] == [len(part) for part in second[:3]]
    np.testing.assert_array_equal(first.test[3].tokens, second.test[3].tokens)
    assert first.details["python"].startswith("3.")


@pytest.mark.parametrize(
    ("model", "options", "fault"),
    [
        (
            ModelSettings,
            {"embed_dim": 10, "num_layers": 1, "num_heads": 3},
            "embed_dim 10 is not a multiple of num_heads 3",
        ),
        (ModelSettings, {"embed_dim": 9, "num_layers": 1, "num_heads": 3}, "embed_dim 9 is odd"),
        (
            ModelSettings,
            {"embed_dim": 6, "num_layers": 1, "num_heads": 2, "positions": "rotary"},
            "embed_dim / num_heads is 3",
        ),
        (EvalSettings, {"lengths": [4, 2]}, r"lengths \[4, 2\]: growing multiples"),
        (EvalSettings, {"lengths": []}, r"lengths \[\]: growing multiples"),
    ],
)
def test_settings_that_fit_no_model_are_refused(model, options, fault):
    with pytest.raises(ValueError, match=fault):
        model(**options)
