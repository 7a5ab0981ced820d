"""The figures show what the records say."""

from __future__ import annotations

import believable
import numpy as np
import pytest

from tasks.recall.ceilings import state_ceiling
from tasks.recall.figures import figures


def row(family, pairs, length, accuracy, **changes):
    one = {"family": family, "pairs": pairs, "length": length, "is_trained": (pairs, length) == (4, 32)}
    ceilings = {"state_bytes": 512, "window": None, "state": 100.0, "guess": 100 / 64, "bag": 100 / pairs}
    return one | ceilings | {"accuracy": accuracy} | changes


def record(attention, seed, shift=0.0, **changes):
    rows = [
        row("mqar", 4, 32, 90 - shift, **changes),
        row("mqar", 8, 32, 80 - shift, **changes),
        row("mqar", 8, 64, 10, **changes),
        row("mqar", 4, 128, 70 - shift, **changes),
        row("fused", 4, 32, 60 - shift, **changes),
    ]
    return believable.with_curves({"recall": rows}, attention=attention, seed=seed)


def lines(axes, label):
    return [line for line in axes.get_lines() if line.get_label() == label]


def test_pairs_take_the_shortest_text_and_lengths_the_trained_pairs():
    drawn = figures([record("softmax", 0), record("softmax", 1, shift=4.0), record("cosformer", 0, shift=30.0)])
    assert sorted(drawn) == ["accuracy_by_length", "accuracy_by_pairs", "accuracy_by_state"]
    (by_pairs,) = drawn["accuracy_by_pairs"].axes  # `fused` has one difficulty, which is no curve
    (line,) = lines(by_pairs, "softmax")
    np.testing.assert_allclose(line.get_xydata(), [(4, 88), (8, 78)])
    (by_length,) = drawn["accuracy_by_length"].axes
    np.testing.assert_allclose(lines(by_length, "cosformer")[0].get_xydata(), [(32, 60), (128, 40)])
    assert len(by_pairs.collections) == 1  # a band needs two seeds
    assert [text.get_text() for text in by_pairs.get_legend().get_texts()] == ["softmax", "cosformer"]


def test_the_ceiling_of_a_window_is_a_dashed_line_beside_its_attention():
    (axes,) = figures([record("lavo", 0, window=55.0), record("softmax", 0)])["accuracy_by_pairs"].axes
    line, ceiling = lines(axes, "lavo")
    assert (line.get_linestyle(), ceiling.get_linestyle()) == ("-", "--")
    assert ceiling.get_ydata().tolist() == [55, 55]
    assert ceiling.get_color() == line.get_color()
    assert len(lines(axes, "softmax")) == 1
    (bag,) = lines(axes, "_bag")
    assert bag.get_ydata().tolist() == [25, 12.5]
    assert len(axes.get_legend().get_texts()) == 2


def test_accuracy_by_state_has_the_hardest_texts_and_the_ceiling_of_every_size():
    drawn = figures([record("softmax", 0), record("none", 0, shift=80.0, state_bytes=0)])
    mqar, fused = drawn["accuracy_by_state"].axes
    assert mqar.get_title() == "mqar, 8 pairs, 64 words"
    assert fused.get_title() == "fused, 4 pairs, 32 words"
    assert lines(mqar, "softmax")[0].get_xydata().tolist() == [[512, 10]]
    assert lines(fused, "none")[0].get_xydata().tolist() == [[0, -20]]
    (ceiling,) = lines(fused, "_ceiling")
    for size, value in ceiling.get_xydata():
        assert value == pytest.approx(state_ceiling(8 * int(size), 4, 64))


def test_patterns_without_a_state_have_no_such_figure():
    assert "accuracy_by_state" not in figures([record("softmax", 0, state_bytes=None)])
    assert figures([]) == {}
    assert figures([believable.with_curves({})]) == {}


def test_figures_can_be_drawn():
    for figure in figures([record("lavo", 0, window=55.0), record("none", 0, state_bytes=0)]).values():
        figure.canvas.draw()
