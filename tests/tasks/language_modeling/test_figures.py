"""The figures show what the records say."""

import believable
import numpy as np
import pytest

from tasks.language_modeling.figures import figures, length_name, mean_and_deviation


def record(attention, seed, shift, variant=None, last=2.0):
    lengths = [256, 512, 1024]
    curves = {
        "training_length": 256,
        "positions": "attention",
        "loss_by_length": [{"length": n, "loss": shift + 1 / n, "bits_per_byte": 1.0, "n": 9} for n in lengths],
        "loss_by_position": {"length": 1024, "edges": [0, 1, 512, 1024], "loss": [3.0, shift, last], "n": [1, 2, 3]},
    }
    return believable.with_curves(curves, attention=attention, variant=variant, seed=seed)


def test_a_line_an_attention_is_the_mean_over_seeds():
    drawn = figures([record("lavo", 0, 2.0), record("lavo", 1, 3.0), record("softmax", 0, 5.0)])
    assert sorted(drawn) == ["loss_by_length", "loss_by_position"]
    lavo, softmax = drawn["loss_by_length"].axes[0].get_lines()[:2]
    assert (lavo.get_label(), softmax.get_label()) == ("lavo", "softmax")
    np.testing.assert_allclose(lavo.get_ydata(), [2.5 + 1 / n for n in (256, 512, 1024)])
    assert len(drawn["loss_by_length"].axes[0].collections) == 1  # a band needs two seeds


def test_variants_are_lines_of_their_own():
    lines = (
        figures([record("lavo", 0, 2.0), record("lavo", 0, 3.0, "lavo_rank_8")])["loss_by_position"].axes[0].get_lines()
    )
    assert [line.get_label() for line in lines[:2]] == ["lavo", "lavo_rank_8"]


def test_lengths_are_labelled_256_512_1k():
    for figure in figures([record("lavo", 0, 2.0)]).values():
        figure.canvas.draw()
        assert figure.axes[0].get_xscale() == "log"
    labels = [tick.get_text() for tick in figures([record("lavo", 0, 2.0)])["loss_by_length"].axes[0].get_xticklabels()]
    assert labels == ["256", "512", "1K"]
    assert [length_name(n) for n in (1, 1023, 1536, 131_072, 2**20)] == ["1", "1023", "1.5K", "128K", "1M"]


def test_one_length_alone_still_has_its_neighbours_labelled():
    one = record("lavo", 0, 2.0)
    shorter = {**one.curves, "loss_by_length": one.curves["loss_by_length"][:1]}
    axes = figures([believable.with_curves(shorter)])["loss_by_length"].axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["128", "256", "512"]


def test_a_missing_value_is_a_gap_and_not_a_zero():
    line = figures([record("lavo", 0, 2.0, last=None)])["loss_by_position"].axes[0].get_lines()[0]
    assert np.isnan(line.get_ydata()[-1])


def test_records_without_curves_draw_nothing():
    assert figures([]) == {}
    assert figures([believable.with_curves({})]) == {}


def test_seeds_are_compared_at_the_lengths_they_share():
    x, mean, deviation = mean_and_deviation(
        [(np.array([1, 2, 4]), np.array([1.0, 2, 3])), (np.array([2, 4]), np.array([4.0, 3]))]
    )
    np.testing.assert_array_equal(x, [2, 4])
    np.testing.assert_allclose(mean, [3, 3])
    assert deviation.tolist() == pytest.approx([2**0.5, 0])
