"""What every task must keep; a new line in the table is tested without a new test."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmark.interface import PATTERNS, Splits, state_tensors
from benchmark.multihead import AttentionSites
from benchmark.registry import TASKS, check_name, load_task, make_task, task_declarations, task_folder
from benchmark.running.runner import validation_as_test
from benchmark.running.trainer import evaluate, measured_metrics
from benchmark.settings.models import AttentionSpec
from benchmark.settings.plan import site_shapes
from benchmark.settings.resolve import resolve

BACKBONES = [
    pytest.param(task, backbone, id=f"{task}-{backbone}")
    for task in TASKS
    for backbone in task_declarations(task)["backbones"]
]


class Loaded(NamedTuple):
    """A task with the data of its smoke preset."""

    task: Any
    splits: Splits


def load(name: str, backbone: str) -> Loaded:
    """The task of this name, with data made anew."""
    settings = resolve(name, backbone, "smoke", AttentionSpec(name="softmax"), []).settings
    task = load_task(name)(settings, backbone=backbone)
    return Loaded(task, task.load_data(None, Path(tempfile.mkdtemp())))


loaded_once = functools.cache(load)


def model_of(task: Any) -> torch.nn.Module:
    """The task's model with exact softmax at every site."""
    torch.manual_seed(0)
    return task.build_model(AttentionSites("softmax", "causal_self", {}))


def check_embedded_data_are_reproducible(name: str, backbone: str) -> None:
    (first, a), (second, b) = loaded_once(name, backbone), load(name, backbone)
    assert a.embedded
    assert a.name == "embedded"
    assert a.fingerprint == b.fingerprint
    assert len(a.fingerprint) == 64
    for one, other in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)):
        assert len(one) == len(other) > 0
        for index in {0, len(one) // 2, len(one) - 1}:
            batches = (first.collate([one[index]]), second.collate([other[index]]))
            left, right = (state_tensors(batch) for batch in batches)
            assert len(left) == len(right) > 0
            assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def check_no_batch_size_changes_a_figure(name: str, backbone: str) -> None:
    task, splits = loaded_once(name, backbone)
    model, count = model_of(task), min(len(splits.test), 41)
    found = []
    for batch_size in (1, 7, 32):
        columns = evaluate(task, model, splits.test, batch_size=batch_size, limit=count)
        assert {len(column) for column in columns.values()} == {count}
        found.append(measured_metrics(task.metrics, columns))
    for figures in found[1:]:
        for metric, figure in figures.items():
            assert figure.n == found[0][metric].n
            assert figure.value == pytest.approx(found[0][metric].value, rel=1e-6), metric


def check_four_examples_are_learnt_by_heart(name: str, backbone: str) -> None:
    task, splits = loaded_once(name, backbone)
    model = model_of(task)
    batch = task.collate([splits.train[index] for index in range(4)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        total, num_terms = task.loss(model, batch)
        loss = total / num_terms
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses[-10:]) < 0.5 * losses[0], (losses[0], losses[-10:])


def check_controls_cover_every_metric(name: str, backbone: str) -> None:
    task, splits = loaded_once(name, backbone)
    controls = task.controls()
    assert controls
    headline = next(iter(task.metrics))
    for columns in controls.values():
        assert {len(column) for column in columns.values()} == {len(splits.test)}
        figures = measured_metrics(task.metrics, columns)
        assert figures[headline].n > 0
        assert np.isfinite(figures[headline].value)
    columns = evaluate(task, model_of(task), splits.test, batch_size=4, limit=4)
    assert all(set(columns) == set(control) for control in controls.values())


def check_sums_over_examples_give_the_metric(name: str, backbone: str) -> None:
    """Tests over examples resample these sums."""
    task, splits = loaded_once(name, backbone)
    columns = evaluate(task, model_of(task), splits.test, batch_size=8, limit=12)
    for metric, figure in task.metrics.items():
        if figure.sums is not None:
            terms = figure.sums.terms(columns)
            assert terms.shape[0] == min(12, len(splits.test))
            assert terms.dtype == np.float64
            both = np.stack([terms.sum(0), 2 * terms.sum(0)])
            value = figure.value(columns)
            assert figure.sums.value(terms.sum(0)) == pytest.approx(value, rel=1e-5, nan_ok=True), metric
            assert figure.sums.value(both).shape == (2,)


def check_validation_examples_are_judged_like_test_examples(name: str, backbone: str) -> None:
    """``lavo-bench tune`` relies on it."""
    task, splits = loaded_once(name, backbone)
    model, part = model_of(task), validation_as_test(task, splits)
    assert len(part) == len(splits.validation)
    found = [evaluate(task, model, one, batch_size=4, limit=4) for one in (part, splits.test)]
    assert found[0].keys() == found[1].keys()
    assert measured_metrics(task.metrics, found[0]).keys() == task.metrics.keys()


def check_every_declared_pattern_has_a_layer(name: str, backbone: str) -> None:
    task, _ = loaded_once(name, backbone)
    declared = task_declarations(name)["backbones"][backbone]
    assert set(declared) <= set(PATTERNS)
    separate = getattr(task, "separate_models", False)
    if not separate:
        assert {shape.pattern for shape in site_shapes(task)} == set(declared)
    for pattern in declared:
        if separate:
            task = make_task(name, task.settings, backbone=backbone, pattern=pattern)
            task.load_data(None, Path(tempfile.mkdtemp()))
            assert {shape.pattern for shape in site_shapes(task)} == {pattern}
        sites = AttentionSites("none", pattern, {})
        task.build_model(sites)
        assert sites.replaced, pattern


def check_its_card_is_whole(name: str, backbone: str) -> None:
    task, _ = loaded_once(name, backbone)
    assert check_name(task.name, "task") == name
    assert isinstance(task.version, int)
    assert task.selection in task.metrics
    assert all(metric.card for metric in task.metrics.values())
    assert len((task_folder(name) / "PROTOCOL.md").read_text(encoding="utf-8")) > 0


BATTERY = [value for key, value in list(globals().items()) if key.startswith("check_") and value is not check_name]


@pytest.mark.parametrize("check", BATTERY, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_every_task_keeps_its_promises(name, backbone, check):
    check(name, backbone)
