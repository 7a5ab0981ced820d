"""Every preset can be drawn in every pattern, and its families are those that its comments promise."""

from __future__ import annotations

import pytest

from benchmark.interface import PATTERNS, PRESETS
from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve
from tasks.recall.data import check_difficulty
from tasks.recall.families import FAMILIES
from tasks.recall.task import Recall


def settings_of(preset, pattern):
    return resolve("recall", "probe", preset, AttentionSpec(name="softmax"), [], pattern).settings


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_difficulty_of_a_preset_is_one_that_texts_can_have(preset, pattern):
    settings = settings_of(preset, pattern)
    task = Recall(settings, pattern=pattern)
    assert len(task.families) >= 3
    for family in task.families:
        sizes = getattr(settings.data, family)
        for difficulty in (*sizes.train, *sizes.test):
            check_difficulty(family, difficulty, settings.data.vocab_size, pattern)


@pytest.mark.parametrize("preset", ["smoke", "quick"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_small_presets_are_drawn_at_once(preset, pattern):
    task = Recall(settings_of(preset, pattern), pattern=pattern)
    splits = task.load_data(None, None)
    assert len(splits.train) == settings_of(preset, pattern).data.num_train
    assert {one.family for one in splits.test.sets} == set(task.families)


def test_small_has_zoologys_published_small_size():
    data = settings_of("small", "causal_self").data
    assert (data.vocab_size, data.num_train, data.num_test) == (256, 10_000, 1_000)
    assert data.mqar.train == ((4, 64),)
    assert set(data.families) == set(FAMILIES)


def test_fillers_of_fused_far_are_longer_than_a_default_window():
    """No question shares a block of 64 places with a pair."""
    for preset in ("quick", "small", "gpu"):
        data = settings_of(preset, "causal_self").data
        for pairs, length in data.fused_far.test:
            assert pairs <= 64 <= length - pairs
