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
from benchmark.report.aggregate import averaged
from benchmark.report.cards import Card
from benchmark.report.costs import cost_table
from benchmark.report.degenerate import fault_of
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
    table = overview_table(groups, {id(group): against_exact(group) for group in groups}, {}, costs)
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
    table = overview_table(groups, {id(group): against_exact(group) for group in groups}, {}, costs)
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
    failed = replace(completed(training={"loss": rising}), status="failed")
    assert fault_of(failed) is None  # it says so itself


def test_a_degenerate_cell_is_marked_and_leaves_the_averages(tmp_path):
    def write(unstopped: float) -> Path:
        folder = tmp_path / str(unstopped)
        for attention in believable.ATTENTIONS:
            for seed in believable.SEEDS:
                for task, backbone in (("forecasting", "informer"), ("language_modeling", "gpt")):
                    believable.write_cell(folder, task, backbone, "causal_self", attention, seed)
        for file in folder.glob("forecasting/*.lavo.s1.*.json"):
            record = json.loads(file.read_text())
            record["metrics"]["unstopped"] = {"value": unstopped, "n": 12, "higher_is_better": False, "unit": ""}
            file.write_text(json.dumps(record))
        assert list(records([folder]))
        return folder

    some, all_of_them = (build_report([write(count)], tmp_path / f"report-{count}") for count in (11.0, 12.0))
    assert "All resolved sites together" in some.markdown.read_text()
    assert "‡" not in some.markdown.read_text()
    text = all_of_them.markdown.read_text()
    assert "All resolved sites together" not in text  # one table is left, which is no average
    assert "‡ lavo, seed 1: degenerate, no utterance stopped by itself" in text
    assert re.search(r"^\| lavo \| 3 \| [^|]*‡ \|", text, re.MULTILINE)


def test_averages_are_over_resolved_sites_without_every_and_without_a_broken_control(tmp_path):
    """``every`` contains the sites of its backbone; a broken ``none`` is no zero for a score."""
    for pattern in ("noncausal_self", "causal_self", "noncausal_cross", "every"):
        for attention in believable.ATTENTIONS:
            for seed in believable.SEEDS:
                believable.write_cell(tmp_path, "forecasting", "informer", pattern, attention, seed)
    (broken,) = tmp_path.glob("forecasting/*.noncausal_cross.none.s1.*.json")
    record = json.loads(broken.read_text())
    record["metrics"]["unstopped"] = {"value": 12.0, "n": 12, "higher_is_better": False, "unit": ""}
    broken.write_text(json.dumps(record))
    groups = group_records(records([tmp_path]))
    found = averaged((group, Card("redundant" if group.pattern == "causal_self" else "resolved")) for group in groups)
    assert [group.pattern for group in found.groups] == ["noncausal_self"]
    assert [group.pattern for group in found.broken] == ["noncausal_cross"]


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
