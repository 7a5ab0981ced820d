"""Wrong arguments in Python raise ValueError with the argument, its value and what is allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refused import assert_raises_with, cases
from torch import nn

from benchmark import build_attention, registry, results
from benchmark.multihead import MultiHeadAttention
from lavo import LAVOAttention, lavo_attention, lavo_cross_attention
from tasks.forecasting.metrics import mae, mse

HEADS = torch.zeros(2, 2, 8, 4)
WIDE = torch.zeros(2, 2, 8, 5)
SHORT = torch.zeros(2, 2, 5, 4)
NONE_PADDED = torch.zeros(2, 8, dtype=torch.bool)
BASIS = torch.eye(4).expand(2, 4, 4)


def built(name: str = "lavo", pattern: str = "causal_self", **options) -> nn.Module:
    """An attention of two heads of width 4."""
    if registry.takes_max_length(registry.load_attention(name)):
        options = {"max_length": 16, **options}
    return build_attention(name, **{"pattern": pattern, "num_heads": 2, "head_dim": 4, **options})


def layer(pattern: str = "causal_self", name: str = "softmax", **options) -> MultiHeadAttention:
    """A layer of width 8 with two heads."""
    return MultiHeadAttention(8, 2, name, pattern=pattern, **options)


TENSORS = {
    "q of three axes": (lambda a: a(HEADS[0], HEADS[0], HEADS[0]), "q", "(2, 8, 4)", "head_dim"),
    "other number of heads": (lambda a: a(*[torch.zeros(2, 3, 8, 4)] * 3), "q", "(2, 3, 8, 4)", "head_dim"),
    "other head_dim": (lambda a: a(WIDE, WIDE, WIDE), "q", "(2, 2, 8, 5)", "head_dim"),
    "whole numbers": (lambda a: a(*[HEADS.long()] * 3), "q", "torch.int64", "floating"),
    "q and k of two precisions": (lambda a: a(HEADS, HEADS.double(), HEADS.double()), "k", "torch.float64"),
    "k shorter than q": (lambda a: a(HEADS, SHORT, SHORT), "q", "k", "8", "5"),
    "v shorter than k": (lambda a: a(HEADS, HEADS, SHORT), "v", "8", "5"),
    "k of another batch": (lambda a: a(HEADS, HEADS[:1], HEADS[:1]), "k", "2", "1"),
    "mask of numbers": (lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.float()), "key_padding_mask", "float32", "bool"),
    "mask of whole numbers": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.long()),
        "key_padding_mask",
        "int64",
        "True",
    ),
    "mask of another length": (lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED[:, :7]), "key_padding_mask", "(2, 7)"),
    "mask the wrong way round": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.T),
        "key_padding_mask",
        "(8, 2)",
        "(2, 8)",
    ),
    "mask for scores": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED[:, None, None]),
        "key_padding_mask",
        "(2, 1, 1, 8)",
    ),
}


def able(pattern: str) -> list[str]:
    """The attentions of the table that can do this pattern."""
    return [name for name in registry.ATTENTIONS if pattern not in registry.attention_declarations(name)["unsupported"]]


@pytest.mark.parametrize("name", able("noncausal_self"))
@cases(TENSORS)
def test_wrong_tensors_are_refused_by_every_attention(case, name):
    call, *words = case
    attention = built(name, "noncausal_self")
    assert_raises_with(lambda: call(attention), words)


def test_a_mask_of_the_length_of_the_target_is_refused_by_every_cross_attention():
    for name in able("noncausal_cross"):
        with pytest.raises(ValueError, match=r"key_padding_mask.*\(2, 5\)"):
            built(name, "noncausal_cross")(HEADS, SHORT, SHORT, NONE_PADDED)


IN_PYTHON = {
    "window of nothing": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=0), "window", "at least 1", "0"),
    "window that is true": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=True), "window", "True"),
    "window that is text": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window="64"), "window", "'64'"),
    "unknown output": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, output="both"),
        "output",
        "joint, sum",
        "both",
    ),
    "unknown backend": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, backend="x"), "backend", "auto", "'x'"),
    "basis of one matrix": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS[0]), "basis", "(4, 4)", "rank"),
    "basis of too few heads": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS[:1]), "basis", "(1, 4, 4)"),
    "basis of too high a rank": (lambda: lavo_attention(HEADS, HEADS, HEADS, torch.zeros(2, 5, 4)), "basis", "1 to 4"),
    "basis of whole numbers": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS.long()), "basis", "int64"),
    "bias of another window": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=4, bias=torch.zeros(2, 4)),
        "bias",
        "(2, 7)",
        "(2, 4)",
    ),
    "bias for another direction": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=4, causal=True, bias=torch.zeros(2, 7)),
        "bias",
        "causal=True",
        "(2, 4)",
    ),
    "source of another batch": (lambda: lavo_cross_attention(HEADS, SHORT[:1], BASIS), "q and v", "(1, 2, 5, 4)"),
    "source of another width": (lambda: lavo_cross_attention(HEADS, WIDE, BASIS), "v", "head_dim"),
    "mask of the target": (
        lambda: lavo_cross_attention(HEADS, SHORT, BASIS, key_padding_mask=NONE_PADDED),
        "key_padding_mask",
        "(2, 5)",
    ),
    "unknown pattern in Python": (
        lambda: LAVOAttention(pattern="causal", num_heads=2, head_dim=4),
        "pattern",
        "causal_self",
        "'causal'",
    ),
    "rank in Python": (
        lambda: LAVOAttention(pattern="causal_self", num_heads=2, head_dim=4, rank=5),
        "rank",
        "head_dim = 4",
        "5",
    ),
    "unknown name in Python": (lambda: built("lavvo"), "'lavvo'", "did you mean lavo?"),
    "pattern misspelt in Python": (lambda: built(pattern="causal"), "'causal'", "did you mean causal_self?"),
    "unknown option in Python": (lambda: built(windw=3), "'windw'", "did you mean window?"),
    "no heads": (lambda: built(num_heads=0), "num_heads is 0", "from 1"),
    "width that is true": (lambda: built(head_dim=True), "head_dim is True", "from 1"),
    "features of nothing": (lambda: built("performer", num_features=0), "num_features", "0", "from 1"),
    "longest length of nothing": (lambda: built("cosformer", max_length=0), "max_length", "0", "from 1"),
    "sequence beyond the longest length": (
        lambda: built("cosformer", max_length=4)(HEADS, HEADS, HEADS),
        "max_length 4",
        "8 tokens",
    ),
    "new tokens for another batch": (
        lambda: built().extend(*[HEADS] * 3, built().init_state(3, dtype=HEADS.dtype)),
        "batch",
        "3",
        "2",
    ),
    "new queries without their keys": (
        lambda: built().extend(HEADS, SHORT, SHORT, built().init_state(2, dtype=HEADS.dtype)),
        "q and k",
        "8",
        "5",
    ),
    "stream of what doesn't stream": (
        lambda: built(pattern="noncausal_self").init_state(2),
        "init_state",
        "causal_self",
    ),
    "source for self-attention": (lambda: built().init_cross(HEADS, HEADS), "init_cross", "causal_cross"),
    "layer that heads don't divide": (
        lambda: MultiHeadAttention(10, 3, "lavo", pattern="causal_self"),
        "embed_dim 10",
        "num_heads 3",
    ),
    "layer without a pattern": (lambda: MultiHeadAttention(8, 2, "lavo"), "'lavo'", "pattern="),
    "options for a built attention": (lambda: MultiHeadAttention(8, 2, built(), window=3), "window", "built already"),
    "rotation of an odd width": (
        lambda: MultiHeadAttention(6, 2, "softmax", pattern="causal_self", rotary=True),
        "rotary",
        "head_dim",
        "3",
    ),
    "prompts of unequal length": (
        lambda: layer().extend(
            torch.zeros(2, 3, 8),
            layer().init_state(2),
            key_padding_mask=torch.tensor([[False, False, True], [False, False, False]]),
        ),
        "key_padding_mask",
        "[2, 3]",
        "unequal",
    ),
    "source for a layer of self-attention": (
        lambda: layer("noncausal_self")(torch.zeros(2, 5, 8), torch.zeros(2, 6, 8)),
        "equal lengths",
        "5",
        "6",
    ),
    "forecast of another length": (lambda: mse(np.zeros(3), np.zeros(4)), "(3,)", "(4,)", "one shape"),
    "forecast that would broadcast": (lambda: mae(np.zeros((3, 1)), np.zeros(3)), "(3, 1)", "one shape"),
    "forecast of four axes": (lambda: mse(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))), "(1, 1, 1, 1)", "steps"),
    "results that aren't there": (lambda: results.load("gone"), "gone", "no such folder"),
}


@cases(IN_PYTHON)
def test_a_wrong_argument_in_python_is_refused(case):
    call, *words = case
    assert_raises_with(call, words)


@pytest.mark.parametrize("pattern", ["causal_self", "causal_cross"])
def test_a_pattern_that_an_attention_cannot_do_is_refused_with_the_reason(pattern, monkeypatch):
    cls = registry.load_attention("none")
    monkeypatch.setattr(cls, "unsupported", {pattern: "has no memory"})
    with pytest.raises(registry.UnsupportedPattern, match=f"none can't do {pattern}: has no memory"):
        built("none", pattern)
