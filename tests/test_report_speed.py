"""The report on efficiency: crossings, slopes and reach of known laws, axes, and how numbers are written."""

from __future__ import annotations

import math

import believable
import numpy as np
import pytest

from benchmark.measuring.peaks import Peaks
from benchmark.measuring.points import Point, write_points
from benchmark.report import numbers
from benchmark.report.crossing import crossing, fitted_length
from benchmark.report.figures import time_and_memory
from benchmark.report.scaling import Reach, reach, reach_figure, roofline, share_table, slope
from benchmark.report.speed import crossing_table, read_sweeps
from benchmark.report.style import length_axis, log_ticks, style_of, value_axis
from benchmark.statistics import Summary

pytestmark = pytest.mark.filterwarnings("error:Glyph")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    believable.write_sweep(folder)
    return folder


def row_of(table, label):
    return next(row for row in table.rows if row.label == label)


@pytest.mark.parametrize(
    ("low", "high"), [(1e-3, 1e-1), (2e-3, 3e-3), (4.1e-3, 4.9e-3), (1.01e-3, 1.02e-3), (1e-6, 1e2), (7, 13)]
)
def test_log_ticks_are_two_at_least_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert all(low <= tick <= high for tick in ticks)


def drawn_labels(axis):
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    return [
        label.get_text()
        for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= tick <= high and label.get_text()
    ]


@pytest.mark.parametrize("values", [[2e-3, 2.5e-3], [3e-3], [1e-4, 2.0], [0.011, 0.012]])
def test_log_axes_have_two_labels_even_under_one_decade(values):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot([256] * len(values), values)
    value_axis(axes.yaxis, values, numbers.duration)
    labels = drawn_labels(axes.yaxis)
    assert len(labels) >= 2
    assert len(set(labels)) == len(labels)


def test_lengths_read_256_512_1K():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot([256, 512, 1024], [1, 2, 3])
    length_axis(axes.xaxis, [256, 512, 1024])
    assert drawn_labels(axes.xaxis) == ["256", "512", "1K"]
    assert [numbers.length(n) for n in (131072, 2**20, 1536)] == ["128K", "1M", "1.5K"]


def test_efficiency_figure_has_every_attention_with_its_own_style(results):
    (sweep,) = [sweep for sweep in read_sweeps([results]) if sweep.mode == "forward"]
    figure = time_and_memory(sweep.points)
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(sweep.attentions)


def test_styles_are_stable_and_strangers_are_dashed():
    assert style_of("lavo") == style_of("lavo")
    assert style_of("lavo").linestyle == "-"
    assert style_of("my_att").linestyle == "--"
    assert style_of("my_att").color != style_of("lavo").color


def line(attention, seconds_by_length, spread=0.02):
    return [
        Point(
            *("forward", "causal_self", 1, length, 8, 64, attention, "float32", "cpu"),
            seconds=seconds,
            seconds_low=seconds * (1 - spread),
            seconds_high=seconds * (1 + spread),
        )
        for length, seconds in seconds_by_length.items()
    ]


LENGTHS = (256, 512, 1024, 2048)
QUADRATIC = line("flash", {n: n * n for n in LENGTHS})


def test_crossing_lies_between_measured_neighbours():
    found = crossing(line("lavo", {n: 700 * n for n in LENGTHS}), QUADRATIC)
    assert (found.low, found.high) == (512, 1024)
    assert found.estimate == pytest.approx(700, rel=0.01)  # straight lines in the logarithms
    assert str(found) == "near 700 (between 512 and 1K)"


def test_crossing_beyond_the_range_is_not_extrapolated():
    assert str(crossing(line("lavo", {n: 5000 * n for n in LENGTHS}), QUADRATIC)) == "not reached up to 2K"
    found = crossing(line("lavo", {n: 10 * n for n in LENGTHS}), QUADRATIC)
    assert str(found) == "faster from the shortest length measured, 256"


def test_crossing_widens_where_intervals_touch():
    found = crossing(line("lavo", {n: 700 * n for n in LENGTHS}, spread=0.5), QUADRATIC)
    assert (found.low, found.high) == (256, 2048)
    touching = line("lavo", {256: 256**2, 512: 512**2, 1024: 1024**2 / 9, 2048: 2048**2 / 9})
    assert str(crossing(touching, QUADRATIC)) == "at 1K at the latest; not told apart at shorter lengths"


def test_a_later_slow_length_undoes_a_crossing():
    seconds = {256: 100.0, 512: 100.0, 1024: 100.0, 2048: 9e9}
    assert str(crossing(line("lavo", seconds), QUADRATIC)) == "not reached up to 2K"


def test_crossing_ends_where_the_reference_does():
    seconds = {n: 5000 * n for n in (*LENGTHS, 4096, 8192)}
    assert str(crossing(line("lavo", seconds), QUADRATIC)) == "not reached up to 2K"
    assert crossing(line("lavo", {64: 1.0}), QUADRATIC) is None


def test_the_fitted_length_is_the_root_of_the_two_fits():
    lengths = (256, 512, 1024, 2048, 4096, 8192, 16384)
    exact = line("softmax", {n: 1e-9 * n * n + 1e-6 * n + 2e-4 for n in lengths})
    linear = line("lavo", {n: 5e-6 * n + 1e-4 for n in lengths})
    root = (4e-6 + math.sqrt(16e-12 - 4e-13)) / 2e-9  # of 1e-9 n^2 - 4e-6 n + 1e-4
    assert fitted_length(linear, exact) == pytest.approx(root)
    # Neither 256 nor what is beyond 8,192 has a part in it.
    bent = [p._replace(seconds=1.0) if p.length in (256, 16384) else p for p in linear]
    assert fitted_length(bent, exact) == pytest.approx(root)
    assert fitted_length(linear, exact[:4]) is None
    assert fitted_length(line("lavo", {n: 1e-12 * n for n in lengths}), exact) is None


def test_crossings_are_against_every_exact_attention(results):
    table = crossing_table(read_sweeps([results]))
    assert table.columns == [
        "attention",
        "faster than softmax",
        "faster than flash",
        "fitted, softmax",
        "fitted, flash",
    ]
    assert row_of(table, "my_att: causal self, forward").printed[1].text == "not reached up to 2K"


def test_slopes_are_those_of_known_laws():
    lengths = tuple(2**power for power in range(8, 15))
    (quadratic, linear) = (slope(line("flash", {n: 3e-9 * n**p for n in lengths})) for p in (2, 1))
    assert quadratic.value == pytest.approx(2)
    assert linear.value == pytest.approx(1)
    assert (linear.shortest, linear.longest) == (4096, 16384)
    from scipy.stats import linregress, t

    noisy = {n: n * factor for n, factor in zip((4096, 8192, 16384, 32768), (1.0, 1.1, 0.95, 1.02), strict=True)}
    found, expected = slope(line("lavo", noisy)), linregress(np.log(list(noisy)), np.log(list(noisy.values())))
    half = t.ppf(0.975, 2) * expected.stderr
    assert found.value == pytest.approx(expected.slope)
    assert (found.low, found.high) == pytest.approx((expected.slope - half, expected.slope + half))
    assert slope(line("lavo", {4096: 1.0})) is None
    assert str(slope(line("lavo", {4096: 1.0, 8192: 2.0}))) == "1.00"
    assert "[" not in str(slope(line("lavo", {4096: 1.0, 8192: 2.1, 16384: 4.0})))  # one degree of freedom
    assert "[" in str(found)


def test_slopes_are_per_row_of_the_batch():
    points = [point._replace(batch=16384 // point.length) for point in line("lavo", {4096: 1.0, 8192: 1.0, 16384: 1.0})]
    assert slope(points).value == pytest.approx(1)


def test_reach_tells_memory_from_time():
    points = [point._replace(peak_bytes=point.length * 1024) for point in line("lavo", dict.fromkeys(LENGTHS, 1.0))]
    assert reach(points, 512 * 1024) == Reach(512, by_memory=True)
    assert reach(points, 2**30) == Reach(2048, by_memory=False)
    assert reach(points, 1) == Reach(None, by_memory=True)
    late = [*points, points[-1]._replace(length=4096, peak_bytes=None, status="over_budget", reason="by time")]
    assert reach(late, 2**30) == Reach(2048, by_memory=False)
    full = [*points, points[-1]._replace(length=4096, peak_bytes=None, status="out_of_memory", reason="full")]
    assert reach(full, 2**30) == Reach(2048, by_memory=True)


def test_fixed_tokens_are_one_sweep(tmp_path):
    points = [point._replace(batch=2048 // point.length) for point in line("lavo", dict.fromkeys(LENGTHS, 1.0))]
    write_points(tmp_path / "efficiency.csv", points)
    (sweep,) = read_sweeps([tmp_path])
    assert sweep.conditions.startswith("2,048 tokens a batch")
    write_points(tmp_path / "efficiency.csv", [point._replace(batch=batch) for point in points for batch in (1, 4)])
    assert [sweep.batch for sweep in read_sweeps([tmp_path])] == [1, 4]


def test_rates_are_held_against_the_machine(results):
    (sweep,) = [sweep for sweep in read_sweeps([results]) if sweep.mode == "forward"]
    table = share_table(sweep, Peaks("cpu", "float32", 2, 1e12, 1e10))
    last = sweep.of("flash")[-1]
    cells = [one.text for one in row_of(table, "flash").printed]
    assert cells[0] == "8K"
    assert cells[2] == f"{100 * last.flops / last.seconds / 1e12:.0f} %"
    assert cells[4] == f"{100 * last.moved_bytes / last.seconds / 1e10:.1f} %"
    assert roofline(sweep, Peaks("cpu", "float32", 2, 1e12, 1e10)) is not None
    assert reach_figure(sweep) is not None


@pytest.mark.parametrize(
    ("summaries", "places"),
    [
        ([Summary(3, 0.7321, 0.0042), Summary(3, 0.71, 0.011)], 3),
        ([Summary(3, 152.3, 4.2), Summary(3, 149.0, 3.1)], 1),
        ([Summary(3, 0.5, 0.00001), Summary(3, 0.6, 0.01)], 5),  # a small deviation never reads ± 0
        ([Summary(1, 0.5, None)], 4),
        ([Summary(3, 12345.0, 0.001)], 1),  # six digits at most
    ],
)
def test_decimals_follow_the_deviation(summaries, places):
    assert numbers.decimals(summaries) == places


def test_numbers_read_as_a_reader_expects():
    assert numbers.mean_and_deviation(Summary(3, -0.5, 0.012), 3) == "−0.500 ± 0.012"
    assert [numbers.duration(s) for s in (2.5e-6, 0.0123, 3.0, 3700.0)] == [
        "2.50 µs",
        "12.3 ms",
        "3.00 s",
        "1 h 01 min",
    ]
    assert [numbers.size(b) for b in (512, 2048, 3 * 2**30)] == ["512 B", "2.00 KiB", "3.00 GiB"]
    assert numbers.signed(0.0001, 2) == "0.00"
    assert numbers.mean_and_deviation(Summary(2, 2.85e14, 3.5e13), 0) == "(2.85 ± 0.35)·10¹⁴"
    assert numbers.significant(1.62e-9, 2) == "1.6·10⁻⁹"
