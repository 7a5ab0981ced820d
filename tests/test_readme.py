"""The README's figures are the records', and its table is the writer's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.measuring.points import read_points
from benchmark.report import numbers
from benchmark.report.readme import BEGIN, END, fill, results_table

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "real-quick"


@pytest.mark.skipif(not RECORDS.is_dir(), reason="no committed records")
def test_the_readme_table_is_what_the_records_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert written == results_table(RECORDS)


def test_the_readme_quotes_the_speeds_that_were_printed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"\d+\.\d+", text.partition("**Speed on a CPU**")[2].partition("\n\n")[0])
    printed = (ROOT / "results" / "speed" / "versus_exact.txt").read_text(encoding="utf-8")
    training = (ROOT / "results" / "speed" / "training_speed.txt").read_text(encoding="utf-8")
    learned = re.findall(r"lavo  .* (\S+) times", printed)
    folded = re.findall(r"lavo, folded .* (\S+) times", printed)
    trained = re.findall(r"lavo \S+ tokens/s \((\S+)\)", training)
    assert quoted == [*learned[:4], *folded[:4], *learned[4:], *folded[4:], *trained]


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the marks"):
        fill("no marks", "| a |")


def test_only_what_stands_between_the_marks_is_replaced():
    assert fill(f"before {BEGIN}old{END} after", "new") == f"before {BEGIN}\nnew\n{END} after"


def test_the_page_on_efficiency_quotes_what_was_printed():
    text = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
    printed = (ROOT / "results" / "speed" / "versus_exact.txt").read_text(encoding="utf-8")
    for mode, words in (("forward", "forward"), ("forward+backward", "forward and backward")):
        for name, form in (("lavo", "learned basis"), ("lavo, folded", "folded")):
            (row,) = re.findall(rf"^\| {words}, {form} \|(.*)\|$", text, re.MULTILINE)
            found = re.findall(rf"^{re.escape(mode)} .*  {name} .* (\S+) times", printed, re.MULTILINE)
            assert re.findall(r"\d+\.\d+", row) == found
    profile = (ROOT / "results" / "speed" / "profile.txt").read_text(encoding="utf-8")
    rates = re.findall(r"at (\d+) GFLOP/s, (\d+) %", profile)
    assert re.findall(r"(\d+) GFLOP/s, (\d+) % \|", text) == rates


def test_the_page_on_efficiency_quotes_the_points():
    text = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
    points = {
        (p.mode, p.pattern, p.attention, p.length): p for p in read_points(ROOT / "results/efficiency/efficiency.csv")
    }
    tables = re.findall(r"^\| attention \| 256 .*?\n\n", text, re.MULTILINE | re.DOTALL)
    shown = [
        ("forward", "causal_self"),
        ("backward", "causal_self"),
        ("forward", "noncausal_self"),
        ("forward", "noncausal_cross"),
    ]
    for (mode, pattern), table in zip(shown, tables, strict=True):
        for line in table.splitlines()[2:]:
            name, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
            for length, cell in zip((256, 1024, 4096, 16384, 131072), cells, strict=False):
                point = points[mode, pattern, name, length]
                assert cell == (numbers.MISSING if point.seconds is None else numbers.duration(point.seconds))
