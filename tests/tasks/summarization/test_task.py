"""The task, called as the engine calls it."""

from collections import Counter

import believable
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmark.interface import PRESETS
from benchmark.multihead import AttentionSites
from benchmark.running.trainer import evaluate, measured_metrics
from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve
from tasks.cross_entropy import PADDED
from tasks.summarization.exhibits import exhibits
from tasks.summarization.metrics import TYPES
from tasks.summarization.task import Summarization, lead, most_typical

from .conftest import ATTENTIONS, settings

ROWS = [
    ("one two three four. five six.", "one two"),
    ("", "an empty source"),
    ("seven eight nine", ""),
    ("ten. eleven. twelve.", ["ten eleven", "twelve"]),
    ("the quick brown fox jumps over it", "a fox"),
]


def model_of(task, attention="softmax", pattern="causal_cross"):
    """The task's model in float64, the same weights each time."""
    torch.manual_seed(0)
    return task.build_model(AttentionSites(attention, pattern, {})).double()


def test_a_batch_is_its_examples(own_task):
    task = own_task(ROWS)
    batch = task.collate(task.data.splits.test[:3])
    begin, end = task.data.tokenizer.begin, task.data.end
    assert batch.inputs[:, 0].tolist() == [begin] * 3
    for row, example in enumerate(task.data.splits.test[:3]):
        count = len(example.target)
        assert batch.targets[row, :count].tolist() == example.target.tolist()
        assert batch.inputs[row, 1:count].tolist() == example.target[:-1].tolist()
        assert set(batch.targets[row, count:].tolist()) <= {PADDED}
        assert batch.source[row][~batch.source_padding[row]].tolist() == example.source.tolist()
    assert batch.source[1][0] == end  # an empty source is its end mark
    assert batch.targets[2][0] == end
    assert task.collate(task.data.splits.train[:2]).references == ()
    assert task.collate(task.data.splits.test[:1]).source_padding is None


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_example_counts_and_no_batch_size_changes_a_figure(own_task, attention):
    task = own_task(ROWS)
    model = model_of(task, attention)
    found = [evaluate(task, model, task.data.splits.test, batch_size=size) for size in (1, 3, 8)]
    for columns in found:
        assert {len(column) for column in columns.values()} == {5}
        for name, column in columns.items():
            assert column == pytest.approx(found[0][name], rel=1e-6), name
    assert {figure.n for figure in measured_metrics(task.metrics, found[0]).values()} == {5}


def test_validation_computes_the_loss_alone(own_task):
    task = own_task(ROWS)
    columns = evaluate(task, model_of(task), task.data.splits.validation, batch_size=2)
    assert set(columns) == {"nats", "num_tokens"}
    assert np.isfinite(task.metrics[task.selection].value(columns))


def test_the_loss_is_a_sum_and_its_count(own_task):
    task = own_task(ROWS, model={"label_smoothing": 0.0})
    model = model_of(task).eval()
    whole = task.loss(model, task.collate(task.data.splits.train[:5]))
    parts = [task.loss(model, task.collate([example])) for example in task.data.splits.train[:5]]
    assert int(whole.num_terms) == sum(int(part.num_terms) for part in parts)
    assert float(whole.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in parts), rel=1e-5)
    columns = evaluate(task, model, task.data.splits.test, batch_size=5)
    assert columns["nats"].sum() == pytest.approx(float(whole.total.detach()), rel=1e-5)


def test_forced_summaries_have_their_minimum(own_task):
    task = own_task(ROWS, eval={"forced_min_tokens": 12})
    columns = evaluate(task, model_of(task), task.data.splits.test, batch_size=5)
    assert columns["length_forced"].min() >= 12
    assert columns["length_forced"].max() <= 16
    assert columns["length"].max() <= 16


def test_lead_takes_the_first_sentences_of_each_document(own_task):
    rows = [(["One cat. Two dogs. Three.", "Four hens. Five pigs."], "One cat.")]
    task = own_task(rows, eval={"lead_sentences": 2})
    assert lead(task.data.splits.test[0].pair, 2) == "One cat.\nTwo dogs.\nFour hens.\nFive pigs."
    controls = task.controls()
    assert set(controls) == {"lead_2", "constant"}
    figures = measured_metrics(task.metrics, controls["lead_2"])
    assert figures["rouge1"].value == pytest.approx(100 * 2 * (2 / 8) * 1 / (2 / 8 + 1))
    assert {f"{name}_forced" for name in TYPES} <= set(controls["lead_2"])
    assert np.isnan(controls["lead_2"]["nats"]).all()


def test_the_constant_summary_is_the_training_summary_most_like_the_others(own_task):
    texts = [np.array(row) for row in ([7, 7, 7], [1, 2, 3], [1, 2], [4, 1, 2, 5, 6])]
    by_hand = [
        [2 * sum((Counter(a) & Counter(b)).values()) / (len(a) + len(b)) for b in map(list, texts)]
        for a in map(list, texts)
    ]
    assert most_typical(texts) == int(np.mean(by_hand, axis=1).argmax()) == 2
    assert most_typical([np.array([], dtype=np.int64), np.array([3])]) in (0, 1)
    task = own_task(ROWS)
    train = [example.pair.references[0] for example in task.data.splits.train]
    scores = [
        measured_metrics(task.metrics, task._control([text] * len(task.data.splits.test)))["rouge1"].value
        for text in train
    ]
    constant = measured_metrics(task.metrics, task.controls()["constant"])["rouge1"].value
    assert min(abs(constant - score) for score in scores) < 1e-9


def test_exhibits_put_summaries_beside_references(own_task):
    task = own_task(ROWS)
    records = [
        believable.with_curves(task.curves(model_of(task, name)), attention=name) for name in ("softmax", "lavo")
    ]
    (exhibit,) = exhibits([*records, believable.with_curves({}, attention="softmax")])
    assert len(exhibit.columns) == len(exhibit.rows[0]) == 4
    by = [row[1] for row in exhibit.rows]
    assert by[:2] == ["source", "reference"]
    assert {"softmax", "lavo"} <= set(by)
    assert exhibits([]) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name):
    resolved = resolve("summarization", "transformer", name, AttentionSpec(name="softmax"), [])
    data, model = resolved.settings.data, resolved.settings.model
    if name == "paper":
        assert (data.max_source_tokens, data.max_target_tokens, data.vocab_size) == (4096, 400, 50265)
        assert (model.embed_dim, model.num_heads, model.num_target_positions) == (512, 8, 512)
        assert (resolved.train.steps, resolved.train.batch_size, resolved.train.learning_rate) == (50_000, 64, 5e-4)
        assert resolved.settings.eval.forced_min_tokens == 200


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"model": {"num_heads": 3}}, "embed_dim 16 is not a multiple of num_heads 3"),
        ({"model": {"num_target_positions": 4}}, "num_target_positions 4 is less than data.max_target_tokens 16"),
        ({"eval": {"forced_min_tokens": 17}}, "forced_min_tokens 17 is more than data.max_target_tokens 16"),
        ({"data": {"vocab_size": 100}}, "greater than or equal to 259"),
    ],
)
def test_settings_that_do_not_fit_are_refused(groups, message):
    with pytest.raises(ValidationError, match=message):
        settings(**groups)


def test_another_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone 'gpt': summarization has transformer"):
        Summarization(settings(), backbone="gpt")


def test_the_loss_is_the_cross_entropy_of_the_first_reference_by_hand(own_task):
    task = own_task(ROWS, model={"label_smoothing": 0.1})
    model = model_of(task).eval()
    columns = evaluate(task, model, task.data.splits.test, batch_size=5)
    nats, counts = [], []
    for example in task.data.splits.test:
        target = [task.data.tokenizer.begin, *example.target.tolist()]
        with torch.no_grad():
            logits = model(torch.from_numpy(example.source)[None], torch.tensor(target[:-1])[None])[0].numpy()
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        nats.append(-sum(np.log(share[token]) for share, token in zip(shares, target[1:], strict=True)))
        counts.append(len(example.target))
    assert columns["nats"] == pytest.approx(nats, rel=1e-5)
    figure = measured_metrics(task.metrics, columns)["loss"]
    assert figure.value == pytest.approx(sum(nats) / sum(counts), rel=1e-5)
    assert (figure.unit, figure.higher_is_better, figure.n) == ("nats/token", False, 5)


def test_a_minimum_that_changes_nothing_is_searched_once(own_task):
    task = own_task(ROWS, eval={"min_tokens": 4, "forced_min_tokens": 2})
    columns = evaluate(task, model_of(task), task.data.splits.test, batch_size=5)
    for name in (*TYPES, "length", "cut"):
        assert columns[name].tolist() == columns[f"{name}_forced"].tolist()
    assert columns["length_forced"].min() >= 4
