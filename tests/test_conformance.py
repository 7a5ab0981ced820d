"""The battery catches each saboteur, lets right attentions pass, and holds every attention in the registry to it."""

from __future__ import annotations

import inspect

import pytest
import torch
from broken import SABOTEURS, Linear, Softmax

from benchmark.conformance import CHECKS, check_attention, check_class
from benchmark.interface import PATTERNS
from benchmark.registry import ATTENTIONS, attention_declarations, build_attention

BY_NAME = {check.__name__: check for check in CHECKS}


def failures(results):
    return [row for row in results if row.outcome == "failed"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("control", [Softmax, Linear])
def test_a_right_attention_passes_every_check(control, pattern):
    results = check_class(control, patterns=[pattern])
    assert failures(results) == []
    assert [row.check for row in results] == list(BY_NAME)


def test_every_check_applies_to_some_control():
    passed = {row.check for control in (Softmax, Linear) for row in check_class(control) if row.outcome == "passed"}
    assert passed == set(BY_NAME)


@pytest.mark.parametrize(
    ("check", "pattern", "saboteur"),
    SABOTEURS,
    ids=[f"{check}-{saboteur.__name__}-{pattern}" for check, pattern, saboteur in SABOTEURS],
)
def test_the_check_catches_its_saboteur(check, pattern, saboteur):
    (row,) = check_class(saboteur, patterns=[pattern], checks=[BY_NAME[check]])
    assert row.outcome == "failed", row.detail
    assert row.detail


def test_every_check_has_a_saboteur():
    assert {check for check, _, _ in SABOTEURS} == set(BY_NAME)
