"""The README's figures are the records', and its table is the writer's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
