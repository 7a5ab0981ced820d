"""Ceilings by counting, against exhaustive searches at tiny sizes, constructed attentions and short trainings."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from lavo import LAVOAttention
from tasks.recall.ceilings import bag_ceiling, state_ceiling, visible, window_ceiling

from .conftest import loaded, trained


def best_of_all_memories(texts, num_states, questions, num_answers):
    """The most right answers, over every way to write these texts into so many states and every way to answer from one.

    For fixed answers of each state, a text is best written as the state whose answers fit it best.
    """
    answers = list(product(range(num_answers), repeat=questions))
    right = np.array([[sum(a == b for a, b in zip(text, answer, strict=True)) for answer in answers] for text in texts])
    best = 0
    for chosen in product(range(len(answers)), repeat=num_states):
        best = max(best, right[:, chosen].max(1).sum())
    return 100 * best / (len(texts) * questions)


@pytest.mark.parametrize(
    ("bits", "pairs", "num_answers", "repeated"),
    [
        *((0, 1, 4, True), (1, 1, 4, True), (0, 2, 3, True), (1, 2, 3, True), (1, 2, 4, True), (2, 2, 2, True)),
        *((0, 2, 3, False), (1, 2, 3, False), (1, 2, 4, False), (0, 3, 3, False), (1, 3, 3, False), (2, 2, 3, False)),
    ],
)
def test_no_memory_of_so_many_bits_beats_its_ceiling(bits, pairs, num_answers, repeated):
    texts = list(product(range(num_answers), repeat=pairs) if repeated else permutations(range(num_answers), pairs))
    best = best_of_all_memories(texts, 2**bits, pairs, num_answers)
    ceiling = state_ceiling(bits, pairs, num_answers, repeated=repeated)
    assert best <= ceiling + 1e-9
    if pairs == 1:  # one value, and 2^bits answers to choose from: counting is exact
        assert ceiling == pytest.approx(min(100, 100 * 2**bits / num_answers))


def test_a_state_ceiling_rises_with_bits_and_falls_with_pairs():
    by_bits = [state_ceiling(bits, 4, 64) for bits in range(0, 30, 3)]
    assert by_bits == sorted(by_bits)
    assert by_bits[0] < 2
    assert by_bits[-1] == 100
    by_pairs = [state_ceiling(12, pairs, 64) for pairs in (1, 2, 4, 8, 16)]
    assert by_pairs == sorted(by_pairs, reverse=True)
    assert state_ceiling(8 * 10**9, 16, 64) == 100  # at once, and not by a power of two with a billion digits


@pytest.mark.parametrize("window", [1, 3, 4, 7])
@pytest.mark.parametrize("is_causal", [True, False])
def test_visible_places_are_those_of_the_same_block(window, is_causal):
    length = 15
    evidence, asked = (x.reshape(1, -1) for x in np.meshgrid(range(-1, length), range(length)))
    found = visible(evidence, asked, window=window, is_causal=is_causal)
    for j, t, seen in zip(evidence[0], asked[0], found[0], strict=True):
        block = [place for place in range(length) if place // window == t // window]
        assert seen == (j in block and (j <= t or not is_causal))


@pytest.mark.parametrize("options", [{"window": 6}, {"window": 6, "window_overlap": True}, {"window": 5}])
@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self"])
def test_visible_places_are_those_that_reach_the_output_of_windows_alone(pattern, options):
    """Which values move an output is measured on the attention itself, by its gradient."""
    length = 19
    torch.manual_seed(0)
    attention = LAVOAttention(pattern=pattern, num_heads=1, head_dim=4, basis="none", **options)
    q, k, v = torch.randn(3, 1, 1, length, 4)
    moved = (
        torch.autograd.functional.jacobian(lambda v: attention(q, k, v).sum((0, 1, 3)), v)[:, 0, 0].abs().sum(-1) > 0
    )
    asked, evidence = np.meshgrid(range(length), range(length), indexing="ij")
    found = visible(
        evidence,
        asked,
        window=options["window"],
        is_causal=pattern == "causal_self",
        overlap=options.get("window_overlap", False),
    )
    assert (found == moved.numpy()).all()


def test_window_and_bag_ceilings_are_shares_of_right_answers():
    assert window_ceiling(1.0, 64) == 100
    assert window_ceiling(0.0, 64) == pytest.approx(100 / 64)
    assert window_ceiling(0.5, 2) == 75
    assert bag_ceiling(0.25, 4) == pytest.approx(100 * (0.25 + 0.75 / 4))


SIZES = {"num_train": 2048, "num_test": 256, "fused": {"train": [[4, 12]], "test": [[4, 12]]}}
WIDE = {"embed_dim": 32, "feed_forward_dim": 64}


@pytest.mark.parametrize("pattern", ["noncausal_self", "causal_self"])
def test_windows_alone_stay_below_their_ceiling_and_reach_softmax_if_they_hold_all(pattern):
    """A window of 6 cuts 12 places into pairs with fillers, and questions; a window of 12 holds everything."""
    task = loaded(["fused"], pattern, data=SIZES, model=WIDE)
    (one,) = task.splits.test.sets
    causal = pattern == "causal_self"
    seen = visible(one.texts.evidence, one.texts.asked, window=10, is_causal=causal).mean()
    assert 0.3 < seen < 0.7  # two of the four questions are in the block of the pairs
    model, figures = trained(task, "lavo", steps=130, window=10, basis="none")
    error = 100 * (seen * (1 - seen) / one.texts.answers.size) ** 0.5
    assert figures["fused"] <= window_ceiling(seen, 20 - 3) + 3 * error
    assert figures["fused"] > window_ceiling(seen, 20) - 12  # the ceiling is near: it says something
    (row,) = task.curves(model)["recall"]
    assert row["window"] == pytest.approx(window_ceiling(seen, 20 - 3))
    assert trained(task, "lavo", steps=130, window=12)[1]["fused"] > 97
    assert trained(task, "softmax", steps=130)[1]["fused"] > 97


@pytest.mark.parametrize("pattern", ["noncausal_cross", "causal_cross"])
def test_a_mean_of_the_source_stays_below_the_ceiling_of_a_bag(pattern):
    """Keys and values are summed at a place, and a mean over places forgets which were summed together."""
    sizes = {**SIZES, "fused": {"train": [[4, 4]], "test": [[4, 4]]}}
    task = loaded(["fused"], pattern, data=sizes, model=WIDE)
    _, figures = trained(task, "lavo", steps=130)
    error = 100 * (0.25 * 0.75 / 1024) ** 0.5
    assert figures["fused"] <= bag_ceiling(0.0, 4) + 3 * error
    assert trained(task, "softmax", steps=130)[1]["fused"] > 97
