"""The report: its tables by hand, its escapes, what goes wrong, and its axes."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import believable
import numpy as np
import pytest

from benchmark.interface import Exhibit, Sound
from benchmark.measuring.peaks import Peaks
from benchmark.measuring.points import Point, write_points
from benchmark.report import build_report, compare, comparison_table, numbers, page
from benchmark.report.crossing import crossing, fitted_length
from benchmark.report.document import Shown, inline_svg, render_html, render_markdown
from benchmark.report.figures import time_and_memory
from benchmark.report.groups import floors, group_records
from benchmark.report.latex import escape, to_latex
from benchmark.report.scaling import Reach, reach, reach_figure, roofline, share_table, slope
from benchmark.report.speed import crossing_table, read_sweeps
from benchmark.report.style import length_axis, log_ticks, style_of, value_axis
from benchmark.report.summary import summary_table
from benchmark.report.tables import Cell, Row, Table, cost_table, metric_tables, to_csv, to_markdown
from benchmark.results import records, write_record
from benchmark.statistics import Summary

pytestmark = pytest.mark.filterwarnings("error:Glyph")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    believable.write_results(folder)
    believable.write_sweep(folder)
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "quick"
    assert build_report([results], output).faults == []
    return output


@pytest.fixture(scope="module")
def groups(results):
    return group_records(records([results]))


def group_of(groups, task, pattern):
    return next(group for group in groups if (group.task, group.pattern) == (task, pattern))


def row_of(table, label):
    return next(row for row in table.rows if row.label == label)


def values_of(group, attention, metric):
    entry = next(entry for entry in group.entries if entry.label == attention)
    return [record["metrics"][metric]["value"] for record in entry.completed]


def test_the_words_and_tables_of_a_report_stay(report, golden):
    golden("report.md", (report / "report.md").read_text())


def test_report_holds_everything_in_one_page(report):
    html = (report / "report.html").read_text()
    assert html.count("<svg") == len(list((report / "figures").glob("*.svg"))) > 4
    assert not re.search(r'(src|href)="(?!#)', html.replace('xmlns:xlink="', ""))  # nothing is fetched
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    for figure in (report / "figures").glob("*.svg"):
        assert figure.with_suffix(".pdf").stat().st_size > 1000
        assert figure.with_suffix(".png").stat().st_size > 1000


def test_report_says_what_its_figures_are_not(report):
    markdown = (report / "report.md").read_text()
    assert "is **embedded**" in markdown
    assert "not reproductions of published ones" in markdown
    assert "3f2a91c0" in markdown
    assert "Positions: sinusoidal" in markdown
    assert "lavo-bench run forecasting --backbone informer --pattern causal_self" in markdown


def test_report_names_no_folder_of_this_machine(report, results):
    for file in (report / "report.md", report / "report.html", report / "inputs.json"):
        assert str(results.parent) not in file.read_text()
        assert str(Path.home()) + "/" not in file.read_text()


def test_reasons_stand_in_the_report_as_text(report):
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert "it has &lt;no&gt; such form &amp; says_so" in html
    assert "not supported: cosformer" in markdown
    assert "FloatingPointError: the loss is not finite at step 12" in markdown
    assert "NaN" not in html
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL))


def test_table_is_the_hand_computed_one(groups):
    group = group_of(groups, "forecasting", "noncausal_self")
    (table,) = metric_tables(group)
    assert table.columns == ["attention", "seeds", "mse ↓", "mae ↓", "mse − softmax"]
    assert [row.label for row in table.rows] == [
        *("softmax", "flash", "lavo", "performer", "cosformer", "my_att"),
        *("none", "repeat", "dlinear"),
    ]
    values = values_of(group, "lavo", "mse")
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert row_of(table, "lavo").cells[0].text == "3"
    assert row_of(table, "lavo").cells[1].text == f"{mean:.3f} ± {deviation:.3f}"
    assert [row.is_control for row in table.rows] == [False] * 6 + [True] * 3
    assert row_of(table, "repeat").cells[1].text == "1.294"
    assert row_of(table, "cosformer").message.startswith("not supported: cosformer can't do")
    differences = np.subtract(values, values_of(group, "softmax", "mse"))
    assert row_of(table, "lavo").cells[3].text.startswith(numbers.signed(differences.mean(), 3) + " [")


def test_csv_holds_the_plain_values(groups):
    group = group_of(groups, "language_modeling", "causal_self")
    rows = {row["attention"]: row for row in csv.DictReader(io.StringIO(to_csv(metric_tables(group)[0])))}
    assert float(rows["lavo"]["loss_mean"]) == np.mean(values_of(group, "lavo", "loss"))
    assert rows["lavo"]["word_perplexity_mean"] == ""
    assert rows["performer"]["seeds"] == "2"
    assert rows["performer"]["status"] == "failed"
    assert rows["unigram"]["kind"] == "control"


def test_a_failed_seed_is_counted_and_told(groups):
    table = metric_tables(group_of(groups, "language_modeling", "causal_self"))[0]
    assert row_of(table, "performer").cells[0].text == "2 of 3"
    assert any("performer, seed 2: failed" in note for note in table.notes)


def test_noise_floor_and_learning_rate_are_stated(groups):
    group = group_of(groups, "forecasting", "causal_self")
    notes = " ".join(metric_tables(group)[0].notes)
    floor = np.abs(np.subtract(values_of(group, "flash", "mse"), values_of(group, "softmax", "mse"))).mean()
    assert f"mse {numbers.significant(floor, 2)}" in notes
    assert "All at one learning rate, 0.0003" in notes


def two_attentions(tmp_path, first, second, **changes):
    for attention, values in (("softmax", first), ("lavo", second)):
        for seed, value in enumerate(values):
            metrics = {"mse": {"value": value, "higher_is_better": False, "unit": "", "n": 200}}
            believable.write_cell(
                tmp_path, "forecasting", "informer", "causal_self", attention, seed, metrics=metrics, **changes
            )
    (group,) = group_records(records([tmp_path]))
    return metric_tables(group)[0]


def bold(table):
    return [row.label for row in table.rows if any(cell.bold for cell in row.cells)]


def test_bold_is_the_best_outside_the_others_spread(tmp_path):
    assert bold(two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.5, 0.6, 0.7])) == ["lavo"]


def test_nothing_is_bold_within_the_spread(tmp_path):
    assert bold(two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.9, 1.0, 1.1])) == []


def test_nothing_is_bold_with_one_seed_and_the_table_says_so(tmp_path):
    table = two_attentions(tmp_path, [1.0], [0.1])
    assert bold(table) == []
    assert any("with one seed the spread is unknown" in note for note in table.notes)
    assert row_of(table, "lavo").cells[1].text == "0.100"


def test_a_missing_value_marks_the_mean_of_the_others(tmp_path):
    table = two_attentions(tmp_path, [1.0, 1.1, 1.2], [0.5, None, 0.7])
    assert row_of(table, "lavo").cells[1].text.endswith("†")
    assert any("† lavo" in note for note in table.notes)


def test_cells_of_other_settings_never_share_a_mean(tmp_path):
    for horizon in (96, 192):
        config = {"data": {"horizon": horizon}, "model": {}, "eval": {}, "train": {}, "options": {}, "limit": None}
        believable.write_cell(
            tmp_path / str(horizon), "forecasting", "informer", "causal_self", "softmax", 0, config=config
        )
    groups = group_records(records([tmp_path / "96", tmp_path / "192"]))
    assert sorted(group.difference for group in groups) == ["data.horizon 192", "data.horizon 96"]
    assert len({group.slug for group in groups}) == 2


def test_variants_by_option_are_rows_of_their_own(tmp_path):
    for window in (32, 64):
        config = {"data": {}, "model": {}, "eval": {}, "train": {}, "options": {"window": window}, "limit": None}
        believable.write_cell(
            tmp_path / str(window), "forecasting", "informer", "causal_self", "lavo", 0, config=config
        )
    (group,) = group_records(records([tmp_path / "32", tmp_path / "64"]))
    assert [entry.label for entry in group.entries] == ["lavo (window 32)", "lavo (window 64)"]


def test_the_same_cell_found_twice_counts_once(results):
    once, twice = group_records(records([results])), group_records(records([results, results]))
    assert [len(group.records) for group in once] == [len(group.records) for group in twice]


def test_costs_have_kernels_and_the_share_of_extra_parameters(groups):
    table = cost_table(group_of(groups, "forecasting", "causal_self"))
    assert row_of(table, "flash").cells[0].text == "cpu_flash"
    extra = table.columns.index("extra") - 1
    assert row_of(table, "lavo").cells[extra].text == "12,800 (6.0 %)"


def test_summary_ranks_only_what_finished_everywhere(groups):
    table = summary_table(groups)
    last = table.rows[-1]
    by_label = dict(zip(table.columns[1:], (cell.text for cell in last.cells), strict=True))
    assert by_label["cosformer"] == numbers.MISSING
    assert 1 <= float(by_label["softmax"]) <= 5


SPECIAL = r"my_att 50 % R&D #1 $x {a} ~b ^c \d <e> |f|"


def special_table():
    rows = [
        Row("my_att", (Cell("0.50 ± 0.01", bold=True), Cell("12 %"))),
        Row(SPECIAL, message=SPECIAL),
        Row("control", (Cell("−1.0"), Cell("–")), is_control=True),
    ]
    return Table(
        "special", f"R&D: {SPECIAL} (2.85 ± 0.35)·10⁻¹⁴", ["attention", "F-score@1 % ↑", "extra (B − A)"], rows
    )


def test_latex_escapes_every_special_character():
    assert escape("_%&#${}~^\\") == (r"\_\%\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}")
    text = to_latex(special_table())
    assert r"my\_att & \textbf{0.50 $\pm$ 0.01} & 12 \%" in text
    assert r"F-score@1 \% $\uparrow$" in text
    assert r"R\&D" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(report, tmp_path):
    (tmp_path / "special.tex").write_text(to_latex(special_table()))
    tables = [tmp_path / "special.tex", *sorted((report / "tables").glob("*.tex"))]
    body = "\n".join(f"\\input{{{table.as_posix()}}}" for table in tables)
    document = (
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,textcomp}\n\\extrafloats{100}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    (tmp_path / "main.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "main.log").read_text(errors="replace")


def test_markdown_escapes_what_would_break_a_table():
    lines = to_markdown(special_table()).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_a_failing_figure_loses_nothing_else(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no <ink> left")

    results, output = tmp_path / "results", tmp_path / "report"
    for attention in ("softmax", "lavo"):
        believable.write_cell(results, "forecasting", "informer", "causal_self", attention, 0)
    monkeypatch.setattr("benchmark.report.figures.overview", broken)
    assert build_report([results], output).faults == ["overview: RuntimeError: no <ink> left"]
    markdown, html = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert "could not be drawn" in markdown
    assert "To repeat: `lavo-bench report" in markdown
    assert "no &lt;ink&gt; left" in html
    assert html.count("<svg") == 1  # the training curves
    assert (output / "tables" / "forecasting-informer-causal_self.tex").exists()
    monkeypatch.undo()
    again = build_report([results], output)  # the same inputs, but the last one wasn't whole
    assert again.changed
    assert again.faults == []


def test_tables_are_written_before_any_figure(results, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(page.Gallery, "_save", killed)
    with pytest.raises(Killed):
        build_report([results], tmp_path)
    assert (tmp_path / "tables" / "forecasting-informer-causal_self.csv").exists()


def test_nothing_is_built_where_nothing_changed(tmp_path):
    source = tmp_path / "results"
    believable.write_cell(source, "forecasting", "informer", "causal_self", "softmax", 0)
    output = tmp_path / "report"
    assert build_report([source], output).changed
    before = (output / "report.html").stat().st_mtime_ns
    assert not build_report([source], output).changed
    assert (output / "report.html").stat().st_mtime_ns == before
    believable.write_cell(source, "forecasting", "informer", "causal_self", "lavo", 0)
    assert build_report([source], output).changed
    assert build_report([source], output, force=True).changed


def test_unchanged_report_needs_neither_torch_nor_matplotlib(report, results):
    code = (
        "import sys; from pathlib import Path; from benchmark.report import build_report;"
        f"build_report([Path({str(results)!r})], Path({str(report)!r}));"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys(), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_missing_folder_and_broken_record_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        build_report([tmp_path / "nowhere"], tmp_path / "report")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json"):
        build_report([tmp_path], tmp_path / "report")


def test_inputs_are_strict_json(report):
    def refuse(constant):
        raise AssertionError(constant)

    state = json.loads((report / "inputs.json").read_text(), parse_constant=refuse)
    assert state["inputs"]["version of lavo-bench"]


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
    assert row_of(table, "my_att: causal self, forward").cells[1].text == "not reached up to 2K"


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
    cells = [cell.text for cell in row_of(table, "flash").cells]
    assert cells[0] == "8K"
    assert cells[2] == f"{100 * last.flops / last.seconds / 1e12:.0f} %"
    assert cells[4] == f"{100 * last.moved_bytes / last.seconds / 1e10:.1f} %"
    assert roofline(sweep, Peaks("cpu", "float32", 2, 1e12, 1e10)) is not None
    assert reach_figure(sweep) is not None


def test_inlined_figures_share_no_id():
    text = '<?xml version="1.0"?><svg><path id="a" clip-path="url(#b)"/><use xlink:href="#a"/></svg>'
    assert inline_svg(text, "f") == '<svg><path id="f-a" clip-path="url(#f-b)"/><use xlink:href="#f-a"/></svg>'


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


def test_comparison_tests_over_seeds_and_examples(results, tmp_path):
    shutil.copytree(results, tmp_path / "b")
    for file in (tmp_path / "b" / "forecasting").glob("informer.causal_self.lavo.*.json"):
        file.unlink()
    for seed in believable.SEEDS:
        record, columns = believable.make_record("forecasting", "informer", "causal_self", "lavo", seed)
        shift = 0.05 + 0.001 * seed
        record["metrics"]["mse"]["value"] += shift
        columns["mse"] = columns["mse"] + shift
        name = f"informer.causal_self.lavo.s{seed}.{record['cell']['hash']}.json"
        write_record(tmp_path / "b" / "forecasting" / name, record, columns)
    frame = compare([results], [tmp_path / "b"])
    cell = frame[(frame.task == "forecasting") & (frame.pattern == "causal_self") & (frame.metric == "mse")]
    row = cell[cell.attention == "lavo"].iloc[0]
    assert row.difference == pytest.approx(0.051)
    assert row.seeds == 3
    assert row.p_seeds < 0.001
    assert row.examples == 200
    assert row.p_examples < 0.01
    same = cell[cell.attention == "softmax"].iloc[0]
    assert (same.difference, same.p_seeds, same.p_examples) == (0, 1, 1)
    assert "B − A" in to_markdown(comparison_table(frame))


def test_comparison_says_what_only_one_side_has(results, tmp_path):
    believable.write_cell(tmp_path, "forecasting", "informer", "causal_self", "softmax", 0)
    frame = compare([results], [tmp_path])
    assert "only in A" in set(frame.note)
    assert math.isnan(frame[frame.note == "only in A"].difference.iloc[0])


def exhibited():
    rows = (
        ("truth", "One line.\nA second | one, with <b> and *stars*.", Sound("truth", b"\xff\xfbsound", "audio/mpeg")),
        ("lavo", "", Sound("lavo", b"OggSsound", "audio/ogg")),
    )
    return Exhibit("Utterance 7.", "What was read out.", ("attention", "text", "sound"), rows)


def test_exhibits_are_tables_with_players(tmp_path):
    shown = Shown("tts-1", exhibited())
    html = render_html("title", [shown], tmp_path)
    sources = re.findall(r'<audio controls preload="metadata" src="data:([a-z/]+);base64,([^"]+)"', html)
    assert [(kind, base64.b64decode(content)) for kind, content in sources] == [
        ("audio/mpeg", b"\xff\xfbsound"),
        ("audio/ogg", b"OggSsound"),
    ]
    assert "A second | one, with &lt;b&gt; and *stars*." in html
    markdown = render_markdown("title", [shown])
    assert "[listen](sounds/tts-1-truth.mp3)" in markdown
    assert "[listen](sounds/tts-1-lavo.ogg)" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}


@pytest.fixture
def exhibits_of_forecasting(monkeypatch):
    """A module ``tasks.forecasting.exhibits`` with this function in it, found as a file's would be."""

    def add(function):
        module = ModuleType("tasks.forecasting.exhibits")
        module.exhibits = function
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return add


def test_a_tasks_exhibits_stand_in_its_report(tmp_path, exhibits_of_forecasting):
    exhibits_of_forecasting(lambda records: [exhibited()] if records else [])
    believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    assert build_report([tmp_path / "a"], tmp_path / "report").faults == []
    files = {file.name: file.read_bytes() for file in (tmp_path / "report" / "sounds").iterdir()}
    assert files == {
        "forecasting-informer-causal_self-1-truth.mp3": b"\xff\xfbsound",
        "forecasting-informer-causal_self-1-lavo.ogg": b"OggSsound",
    }
    assert (tmp_path / "report" / "report.html").read_text().count("<audio") == 2


def test_failing_exhibits_lose_nothing_else(tmp_path, exhibits_of_forecasting):
    exhibits_of_forecasting(lambda records: records[0]["curves"]["no such"])
    believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    built = build_report([tmp_path / "a"], tmp_path / "report")
    assert built.faults == ["forecasting-informer-causal_self-exhibits: KeyError: 'no such'"]
    assert "mse" in built.markdown.read_text()


def test_the_margin_over_the_best_control_is_stated(groups):
    group = group_of(groups, "forecasting", "noncausal_self")
    (table,) = metric_tables(group)
    exact = np.mean(values_of(group, "softmax", "mse"))
    controls = {name: values["mse"][0] for name, values in group.controls().items()}
    controls["none"] = float(np.mean(values_of(group, "none", "mse")))
    best = min(controls, key=controls.get)
    ahead = controls[best] - exact
    words = f"softmax is {'better' if ahead > 0 else 'worse'} by {numbers.significant(abs(ahead))}"
    assert f"Against the best control, {best} " in table.notes[0]
    assert words in table.notes[0]


def test_a_floor_is_no_rule_to_be_beaten(tmp_path, monkeypatch):
    believable.write_cell(tmp_path, "forecasting", "informer", "causal_self", "softmax", 0)
    (group,) = group_records(records([tmp_path]))
    assert set(group.rules()) == {"repeat", "dlinear"}
    monkeypatch.setattr("benchmark.report.groups.floors", lambda task: ("dlinear",))
    assert set(group.rules()) == {"repeat"}
    assert "Against the best control, repeat" in metric_tables(group)[0].notes[0]
    monkeypatch.undo()
    assert floors("text_to_speech") == ("vocoded_truth",)
    assert floors("forecasting") == floors("no_such_task") == ()
