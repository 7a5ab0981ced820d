"""The study in which gpt reads a long text: its bins, budgets and table.  No test compares times."""

import csv

import pytest

from studies.long_context import Bin, Budget, bins, figure, main, spread, stream

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bins_cover_every_position_once():
    assert bins(8192) == [(0, 8192)]
    assert bins(20_000) == [(0, 8192), (8192, 16384), (16384, 20_000)]
    assert bins(2**20)[-1] == (2**19, 2**20)


def test_a_linear_state_does_not_grow_and_a_cache_does():
    plenty = Budget(600.0, 2**30)
    linear = stream("lavo", 10_000, 2048, "smoke", "cpu", plenty)
    assert [(row.start, row.stop, row.status) for row in linear] == [
        (0, 8192, "completed"),
        (8192, 10_000, "completed"),
    ]
    assert linear[0].state_bytes == linear[1].state_bytes
    exact = stream("flash", 10_000, 2048, "smoke", "cpu", plenty)
    assert [row.state_bytes // 8 for row in exact] == [32 * 8192, 32 * 10_000]  # keys and values, 32 wide, float32
    for row in (*linear, *exact):
        assert 0 < row.seconds_low <= row.seconds_per_token <= row.seconds_high
        assert row.peak_bytes > row.state_bytes


def test_a_budget_ends_an_attention_with_its_reason():
    (row,) = stream("flash", 10_000, 2048, "smoke", "cpu", Budget(600.0, 300_000))
    assert (row.status, row.seconds_per_token) == ("over_budget", None)
    assert row.reason == "after 2048 tokens its state has 524288 bytes; the limit is 300000"
    (row,) = stream("lavo", 10_000, 2048, "smoke", "cpu", Budget(0.0, 2**30))
    assert "after 2048 tokens" in row.reason
    assert "the limit for an attention is 0 s" in row.reason


def test_spread_is_against_the_first_bin():
    rows = [Bin("lavo", 0, 1, 1.0, 1.0, 1.0, 100, 5), Bin("lavo", 1, 2, 0.9, 0.9, 0.9, 101, 5)]
    assert spread(rows) == (pytest.approx(0.01), pytest.approx(0.1))
    assert spread(rows[:1]) is None


def test_table_and_figure_are_written(tmp_path):
    rows = [
        Bin("lavo", 0, 8192, 1e-5, 1e-5, 2e-5, 2**20, 5),
        Bin("flash", 0, 8192, status="over_budget", reason="slow"),
    ]
    assert len(figure(rows).axes) == 2
    main("lavo", 300, 128, "smoke", "cpu", 60.0, 2**30, tmp_path)
    with (tmp_path / "long_context.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["attention"], row["stop"], row["status"]) == ("lavo", "300", "completed")
    assert (tmp_path / "long_context.pdf").stat().st_size > 1000
