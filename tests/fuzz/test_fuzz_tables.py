"""``efficiency.csv``, ``machine.json`` and what nvidia-smi says, of any content."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fuzzing import MARKUP, ODD_TEXTS, answer_of, assert_told, examples, json_values
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_records import assert_dead

from benchmark.measuring.clocks import COLUMNS as CLOCKS
from benchmark.measuring.clocks import record_clocks
from benchmark.measuring.peaks import Peaks, read_peaks
from benchmark.measuring.points import COLUMNS, Point, read_points

TABLE, MACHINE = "sweep/efficiency.csv", "sweep/machine.json"
WHOLE = [
    Point("forward", "causal_self", 1, length, 2, 16, attention, "float32", "cpu", "matmul", 7, seconds * length, seconds, 1.0, None,
          1000, 2000 * length, 4096, 512)._asdict()
    for attention, seconds in (("lavo", 1e-4), ("softmax", 2e-4)) for length in (64, 128, 256)
]  # fmt: skip
PEAKS = [Peaks("cpu", "float32", 1, 1e10, 1e9)._asdict()]
odd = st.sampled_from(ODD_TEXTS + MARKUP) | st.text(max_size=10) | st.integers() | st.floats()
odd = odd.map(lambda value: str(value).encode("utf-8", "replace").decode())


def write(rows: list[dict[str, Any]], peaks: Any = PEAKS) -> None:
    shutil.rmtree("sweep", ignore_errors=True)
    Path("sweep").mkdir()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if value is None else value for value in row.values()] for row in rows)
    Path(TABLE).write_text(text.getvalue(), encoding="utf-8")
    Path(MACHINE).write_text(json.dumps(peaks), encoding="utf-8")


def assert_read_or_refused(read: Any, path: str) -> bool:
    fault = None
    try:
        read()
    except ValueError as error:
        fault = str(error)
    assert fault is None or (fault.startswith(path) and len(fault) <= 300), fault
    return fault is None


changes = st.lists(
    st.tuples(st.integers(0, len(WHOLE) - 1), st.sampled_from(COLUMNS), odd | st.none()), min_size=1, max_size=2
)


def changed(cells: list[tuple[int, str, Any]]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in WHOLE]
    for number, column, value in cells:
        rows[number][column] = value
    return rows


@examples(300)
@given(changes)
def test_any_table_is_read_or_refused(cells):
    write(changed(cells))
    assert_read_or_refused(lambda: read_points(Path(TABLE)), TABLE)


@examples(100)
@given(
    st.binary(max_size=100)
    | st.text(max_size=100).map(lambda text: f"{','.join(COLUMNS)}\n{text}".encode("utf-8", "replace"))
)
def test_any_bytes_are_read_or_refused(content):
    write([])
    Path(TABLE).write_bytes(content)
    assert_read_or_refused(lambda: read_points(Path(TABLE)), TABLE)
    Path(MACHINE).write_bytes(content)
    assert_read_or_refused(lambda: read_peaks([Path("sweep")]), MACHINE)


@examples(150)
@given(
    json_values | st.dictionaries(st.sampled_from(Peaks._fields), json_values).map(lambda row: [{**PEAKS[0], **row}])
)
def test_any_peaks_are_read_or_refused(content):
    write([])
    Path(MACHINE).write_text(json.dumps(content), encoding="utf-8")
    assert_read_or_refused(lambda: read_peaks([Path("sweep")]), MACHINE)


@examples(6)
@given(changes, st.dictionaries(st.sampled_from(Peaks._fields), json_values))
def test_any_sweep_makes_a_report_or_is_refused(cells, peaks):
    write(changed(cells), [{**PEAKS[0], **peaks}])
    fine = assert_read_or_refused(lambda: read_points(Path(TABLE)), TABLE)
    fine = assert_read_or_refused(lambda: read_peaks([Path("sweep")]), MACHINE) and fine
    shutil.rmtree("report", ignore_errors=True)
    answer = answer_of("report", "sweep", "-o", "report")
    if fine:
        assert answer.status == 0, answer
        assert_dead(Path("report"))
    else:
        assert_told(answer, "sweep/")


@examples(4)
@given(st.binary(max_size=60))
def test_whatever_nvidia_smi_says(said):
    folder = Path("smi")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "said").write_bytes(said)
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nexec cat {(folder / 'said').resolve()}\n")
    tool.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder.resolve()}{os.pathsep}{before}"
    try:
        record_clocks(folder, "forward", "causal_self", 64, 0)
        record_clocks(folder, "forward", "causal_self", 128, 0)
    finally:
        os.environ["PATH"] = before
    path = folder / "clocks.csv"
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert [len(row) for row in rows] == [len(CLOCKS)] * 3
