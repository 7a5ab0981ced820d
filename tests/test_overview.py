"""The first view: its front and costs by hand, degenerate cells, and a report whose cost grows as the records do."""

from __future__ import annotations

import cProfile
import json
import pstats
import re
from dataclasses import replace
from pathlib import Path

import believable
import many_records
import numpy as np
import pytest

from benchmark.measuring.points import Point
from benchmark.report import build_report
from benchmark.report.aggregate import averaged, score_intervals, scores_of
from benchmark.report.cards import Card
from benchmark.report.costs import cost_table
from benchmark.report.degenerate import MARK, fault_of, notes
from benchmark.report.differences import against_exact
from benchmark.report.groups import group_records
from benchmark.report.overview import costs_of, overview_table, pareto
from benchmark.report.repeat import run_commands
from benchmark.report.sections import matrix
from benchmark.report.speed import read_sweeps
from benchmark.report.summary import summary_table
from benchmark.report.tables import metric_tables
from benchmark.results import MetricValue, records


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    believable.write_results(folder)
    believable.write_sweep(folder)
    return folder


def test_the_front_has_what_no_other_point_beats_in_both():
    generator = np.random.default_rng(5)
    for count in (1, 2, 7, 30):
        points = [(float(x), float(y)) for x, y in generator.integers(0, 12, (count, 2))]
        beaten = {
            one for one in points for other in points if other != one and other[0] <= one[0] and other[1] >= one[1]
        }
        assert pareto(points) == sorted(set(points) - beaten)


def test_costs_are_those_of_records_and_sweep(results):
    groups, sweeps = group_records(records([results])), read_sweeps([results])
    costs = costs_of(groups, sweeps)
    (sweep,) = [sweep for sweep in sweeps if sweep.mode == "backward"]
    assert costs.memory_length == 8192  # softmax ran out of memory there, which is an answer
    assert costs.by_label["softmax"].memory_status == "out of memory"
    point: Point = next(p for p in sweep.of("lavo") if p.length == 8192)
    assert costs.by_label["lavo"].memory_bytes == point.peak_bytes - point.base_bytes
    shared = [(group, next(e for e in group.entries if e.label == "performer")) for group in groups]
    ratios = []
    for group, entry in shared:
        own, exact = (
            np.median([record.efficiency.tokens_per_second for record in one.completed])
            for one in (entry, group.reference)
        )
        ratios.append(own / exact)
    assert costs.by_label["performer"].speed == pytest.approx(float(np.prod(ratios)) ** (1 / len(ratios)))
    assert costs.by_label["lavo"].decode_seconds is None
    table = overview_table(groups, [against_exact(group) for group in groups], {}, costs)
    rows = {row.label: [one.text for one in row.printed] for row in table.rows}
    assert rows["softmax"][0] == "reference"
    assert sum(map(int, rows["lavo"][0].split(" · "))) == len(groups)
    assert rows["softmax"][-1] == "out of memory"
    assert rows["lavo"][2] == "–"


def test_a_decoding_time_that_is_missing_says_why(results):
    groups, sweeps = group_records(records([results])), read_sweeps([results])
    (sweep,) = [sweep for sweep in sweeps if sweep.mode == "backward"]
    statuses = {"softmax": "over_budget"}
    points = tuple(
        point._replace(mode="decode", seconds=1e-3, status="completed")
        if point.attention not in statuses
        else point._replace(mode="decode", seconds=None, status=statuses[point.attention])
        for point in sweep.points
        if point.length == 8192
    )
    costs = costs_of(groups, [sweep._replace(mode="decode", points=points)])
    table = overview_table(groups, [against_exact(group) for group in groups], {}, costs)
    column = table.columns.index("decoding a token at 8K") - 1
    shown = {row.label: row.printed[column].text for row in table.rows}
    assert shown["softmax"] == "over budget"
    assert shown["lavo"] == "1.00 ms"


def completed(**curves):
    record = believable.with_curves(curves)
    return replace(record, metrics={"rouge1": MetricValue(0.0, 3)})


def test_a_cell_that_shows_nothing_is_degenerate():
    falling, rising = np.linspace(3, 1, 40).tolist(), np.linspace(3, 9, 40).tolist()
    assert fault_of(completed(training={"loss": falling})) is None
    assert (
        fault_of(completed(training={"loss": rising})) == "the training loss is higher at the end than at the beginning"
    )
    assert fault_of(completed(training={"loss": [*falling, None]})) == "the training loss is not finite at the end"
    assert fault_of(completed(training={"loss": rising[:5]})) is None  # too short to tell
    assert fault_of(completed(examples=[{"summary": ""}, {"summary": " "}])) == "every summary is empty"
    assert fault_of(completed(examples=[{"summary": ""}, {"summary": "a"}])) is None
    for unstopped, is_degenerate in ((11.0, False), (12.0, True)):
        spoken = replace(completed(), metrics={"unstopped": MetricValue(unstopped, 12)})
        assert fault_of(spoken) == ("no utterance stopped by itself" if is_degenerate else None)
    failed = replace(completed(training={"loss": rising}), status="failed")
    assert fault_of(failed) is None  # it says so itself


def make_degenerate(folder: Path, pattern: str) -> None:
    """No utterance stops in the cells whose files match the pattern."""
    files = list(folder.glob(f"{pattern}.*.json"))
    assert files
    for file in files:
        record = json.loads(file.read_text())
        record["metrics"]["unstopped"] = {"value": 12.0, "n": 12, "higher_is_better": False, "unit": ""}
        file.write_text(json.dumps(record))


def write_sites(folder: Path, *sites: tuple[str, str, str], attentions=believable.ATTENTIONS) -> Path:
    for site in sites:
        for attention in attentions:
            for seed in believable.SEEDS:
                believable.write_cell(folder, *site, attention, seed)
    return folder


def all_resolved(groups):
    return averaged((group, Card("resolved")) for group in groups)


def test_a_degenerate_cell_is_marked_and_only_an_end_of_the_scale_takes_its_table_out(tmp_path):
    sites = ("forecasting", "informer", "causal_self"), ("language_modeling", "gpt", "causal_self")
    every = ("forecasting", "informer", "every")
    texts = {}
    for attention in ("lavo", "softmax"):
        folder = write_sites(tmp_path / attention, *sites)
        write_sites(folder, every, attentions=("softmax", "lavo", "none"))
        make_degenerate(folder, f"forecasting/informer.causal_self.{attention}.s1")
        texts[attention] = build_report([folder], tmp_path / f"report-{attention}").markdown.read_text()
        assert f"‡ {attention}, seed 1: degenerate, no utterance stopped by itself" in texts[attention]
    assert re.search(r"^\| lavo \| 3 \| [^|]*‡ \|", texts["lavo"], re.MULTILINE)
    assert "All resolved sites together" in texts["lavo"]
    assert "its figure enters averages across tables as it stands" in texts["lavo"]
    counts = re.search(r"^\| lavo \| [^|]* \| (\d) · (\d) · (\d) \|", texts["lavo"], re.MULTILINE)
    assert sum(map(int, counts.groups())) == 2  # every, which contains the other sites, is not counted
    assert "All resolved sites together" not in texts["softmax"]  # one table is left, which is no average
    assert "its scale is undefined" in texts["softmax"]


def test_an_attention_gains_nothing_by_diverging_where_it_is_weak(tmp_path):
    """Leaving its weak tables out for everybody would make LAVO the best."""
    patterns = ("noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
    sites = [("forecasting", "informer", pattern) for pattern in patterns]
    write_sites(tmp_path, *sites, attentions=("softmax", "performer", "my_att", "none"))
    for site in sites:
        for seed in believable.SEEDS:
            error = 0.6 + 0.01 * seed if site[2].endswith("cross") else 0.39 + 0.001 * seed
            believable.write_cell(tmp_path, *site, "lavo", seed, metrics={"mse": MetricValue(error, 200)})
    healthy = scores_of(all_resolved(group_records(records([tmp_path]))).groups)
    make_degenerate(tmp_path, "forecasting/informer.*_cross.lavo.s*")
    groups = group_records(records([tmp_path]))
    assert sum(len(notes(group.entries)) for group in groups) == 2
    diverged = scores_of(all_resolved(groups).groups)
    assert diverged.tables == healthy.tables
    assert len(diverged.tables) == 4
    assert score_intervals(diverged) == score_intervals(healthy)
    strong = scores_of([group for group in groups if group.pattern.endswith("self")])
    best = {label: found.value for label, found in score_intervals(strong).items()}
    assert max(best, key=best.get) == "lavo"  # what it would be without its weak tables


@pytest.mark.parametrize("end", ["none", "softmax"])
def test_averages_are_over_resolved_sites_without_every_and_without_a_broken_scale(tmp_path, end):
    """``every`` contains the sites of its backbone; a broken ``none`` is no zero for a score, nor is a broken softmax a one."""
    patterns = ("noncausal_self", "causal_self", "noncausal_cross", "every")
    write_sites(tmp_path, *(("forecasting", "informer", pattern) for pattern in patterns))
    make_degenerate(tmp_path, f"forecasting/informer.noncausal_cross.{end}.s1")
    groups = group_records(records([tmp_path]))
    found = averaged((group, Card("redundant" if group.pattern == "causal_self" else "resolved")) for group in groups)
    assert [group.pattern for group in found.groups] == ["noncausal_self"]
    assert [group.pattern for group in found.broken] == ["noncausal_cross"]
    assert any(MARK in note and "its scale is undefined" in note for note in notes(found.broken[0].entries))


def test_verdicts_are_counted_where_there_was_a_test(tmp_path):
    """flash has one seed, so there is no test of it, which is not the same as an open difference."""
    patterns = ("noncausal_self", "causal_self")
    write_sites(
        tmp_path,
        *(("forecasting", "informer", pattern) for pattern in patterns),
        attentions=("softmax", "lavo", "none"),
    )
    for pattern in patterns:
        believable.write_cell(tmp_path, "forecasting", "informer", pattern, "flash", 0)
    groups = group_records(records([tmp_path]))
    table = overview_table(groups, [against_exact(groups[0])], {}, costs_of(groups, []))
    rows = {row.label: row.printed[0].text for row in table.rows}
    assert rows["softmax"] == "reference"
    assert rows["flash"] == "–"
    assert sum(map(int, rows["lavo"].split(" · "))) == 1
    values = {row["attention"]: row for row in table.values}
    assert values["flash"]["open"] is None
    assert "of 1, without every" in table.notes[0]


def calls(folder: Path) -> int:
    """The number of function calls that the tables of a report take, which no other program on the machine changes."""
    found = list(records([folder]))
    profile = cProfile.Profile()
    profile.enable()
    groups = group_records(found)
    differences = {id(group): against_exact(group) for group in groups}
    for group in groups:
        metric_tables(group, differences[id(group)])
        cost_table(group)
    summary_table(groups, differences, {})
    matrix(groups)
    run_commands(groups)
    profile.disable()
    return pstats.Stats(profile).total_calls


def test_the_cost_of_a_report_grows_as_the_records_do(tmp_path):
    table = len(believable.ATTENTIONS) * len(many_records.SEEDS)
    counts = [3 * table, 6 * table]
    for count in counts:
        assert many_records.write_many(tmp_path / str(count), count) == count
    few, many = (calls(tmp_path / str(count)) for count in counts)
    few, many = (calls(tmp_path / str(count)) for count in counts)  # the first time something is read once
    assert many < 2.4 * few
