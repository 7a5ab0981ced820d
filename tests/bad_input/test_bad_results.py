"""Records, folders of results and sweeps that can't be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import lavo_bench
from refused import assert_refused, cases, write

from benchmark import results
from benchmark.measuring.points import FIRST_COLUMNS

CELL = {**dict.fromkeys(("task", "backbone", "pattern", "attention", "preset"), "x"), "seed": 0, "hash": "0123456789ab"}
RECORD = {"schema_version": results.SCHEMA_VERSION, "cell": CELL, "status": "completed", "metrics": {}}
PEAKS = {"device": "cpu", "dtype": "float32", "threads": 1, "flops_per_second": 1e9, "bytes_per_second": 1e9}
NAME = "gpt.causal_self.lavo.s0.0123456789ab.json"
RECORDS = {
    "record that breaks off": ("{", "not a record"),
    "empty record": ("", "not a record"),
    "record that is a list": ("[]", "'cell'"),
    "record that isn't UTF-8": (b"\xff\xfe{}", "not a record", "0xff"),
    "record of another version": (json.dumps({**RECORD, "schema_version": 99}), "schema_version '99'", "reads 1, 2"),
    "record without a status": (json.dumps({"schema_version": 2, "cell": CELL}), "'status'"),
    "record of an unknown status": (json.dumps({**RECORD, "status": "fine"}), "'fine'", "'completed', 'failed'"),
    "record without its cell's names": (json.dumps({**RECORD, "cell": {"task": "lm"}}), "cell.backbone", "required"),
    "record whose cell is a number": (json.dumps({**RECORD, "cell": 3}), "cell = 3", "object"),
    "record with NaN": (json.dumps({**RECORD, "seconds": float("nan")}), "NaN", "null"),
    "record with half a metric": (
        json.dumps({**RECORD, "metrics": {"loss": {"value": 1}}}),
        "metrics.loss.n",
        "required",
    ),
    "record with a text for a number": (json.dumps({**RECORD, "seconds": "3"}), "seconds = '3'", "number"),
    "record whose settings are a number": (
        json.dumps({**RECORD, "config": {"train": 3}}),
        "config.train = 3",
        "object",
    ),
    "record with kernels in one text": (json.dumps({**RECORD, "efficiency": {"kernels": "a"}}), "efficiency.kernels"),
    "record whose examples lie elsewhere": (
        json.dumps({**RECORD, "examples": "../../b.csv.gz"}),
        "examples",
        "pattern",
    ),
    "record that never ends": ("[" * 100_000, "not a record"),
}


@pytest.mark.parametrize("command", ["report", "compare", "list"])
@cases(RECORDS)
def test_a_wrong_record_is_named_and_left_out(case, command, tmp_path):
    content, *words = case
    write(tmp_path / "runs" / "lm" / NAME, content)
    arguments = {
        "report": ("report", "runs", "-o", "report"),
        "compare": ("compare", "runs", "runs"),
        "list": ("list", "results", "-o", "runs"),
    }
    answer = lavo_bench(*arguments[command])
    assert answer.err.startswith("left out: "), answer
    assert answer.err.count("\n") == 1, answer
    for word in (str(Path("runs/lm") / NAME), *words):
        assert word in answer.err
    assert answer.status == 1


FOLDERS = {
    "report of no folder": (["report", "gone"], "gone", "no such folder"),
    "comparison with no folder": (["compare", "gone", "bare"], "gone", "no such folder"),
    "list of a file": (["list", "results", "-o", "plain"], "plain", "is a file"),
    "report of a file": (["report", "plain"], "plain", "no such folder"),
    "report of an empty folder": (["report", "bare"], "bare", "no records"),
    "comparison of empty folders": (["compare", "bare", "bare"], "bare", "no records"),
    "report of the folder above": (["report", "above"], "above", "no records", "quick"),
    "report with a table that is none": (["report", "sweep"], "efficiency.csv", "columns a, b", "mode, pattern"),
}


@cases(FOLDERS)
def test_a_folder_without_results_is_refused(case, tmp_path):
    arguments, *words = case
    (tmp_path / "bare").mkdir()
    write(tmp_path / "plain", "x")
    write(tmp_path / "above" / "quick" / "lm" / "a.json", "{}")
    write(tmp_path / "sweep" / "efficiency.csv", "a,b\n1,2\n")
    assert_refused(lavo_bench(*arguments), words)


EFFICIENCY = {
    "no length": ("--lengths ,", "lengths", "FROM:TO"),
    "length that is text": ("--lengths abc", "'abc'", "FROM:TO"),
    "range without an end": ("--lengths 256:", "'256:'", "FROM:TO"),
    "range backwards": ("--lengths 1024:256", "'1024:256'", "at most TO"),
    "range of three": ("--lengths 256:512:1024", "'256:512:1024'", "FROM:TO"),
    "length of nothing": ("--lengths 0", "[0]", "at least 1"),
    "length with a fraction": ("--lengths 1.5", "'1.5'", "FROM:TO"),
    "unknown mode": ("--mode forwad", "mode 'forwad'", "forward, backward, prefill, decode"),
    "no mode": ("--mode ,", "--mode ','"),
    "unknown pattern to measure": ("--pattern causal", "'causal'", "did you mean causal_self?"),
    "unknown number format": ("--dtype float8", "dtype 'float8'", "float32"),
    "too few rounds": ("--rounds 2", "rounds 2", "at least 5"),
    "batch of nothing": ("--batch 0", "--batch 0", "greater than or equal to 1"),
    "time below zero": ("--budget=-1", "--budget -1", "greater than or equal to 0.1"),
    "tokens of nothing": ("--tokens 0", "--tokens 0", "greater than or equal to 1"),
    "option without a value": ("--option lavo.window", "--option lavo.window", "key=value"),
    "option of no attention": ("--option window=3", "--option window=3", "ATTENTION.OPTION=VALUE"),
    "option of one that isn't measured": ("--option flash.window=3", "--option flash.window=3", "that is measured"),
    "option that it doesn't have": ("--option lavo.windw=3", "'windw'", "did you mean window?"),
    "unknown attention to measure": ("-a lavoo", "'lavoo'", "did you mean lavo?"),
    "table of another program in the folder": ("-o sweep", "efficiency.csv", "columns a, b"),
}


@cases(EFFICIENCY)
def test_a_wrong_sweep_is_refused(case, tmp_path):
    options, *words = case
    write(tmp_path / "sweep" / "efficiency.csv", "a,b\n1,2\n")
    given = options.split(" ")
    base = ["efficiency", "-o", "out", "-a", "lavo", "--lengths", "64"]
    assert_refused(lavo_bench(*base, *given), words)


HEADER = ",".join(FIRST_COLUMNS)
ROW = "forward,causal_self,1,64,2,16,lavo,float32,cpu,matmul,7,0.1,0.1,0.2,,1,2,3,4,completed,"
SWEEPS = {
    "table of nothing": ("", "columns none", "expected mode"),
    "table that isn't UTF-8": (b"\xff\xfe", "not a table of points"),
    "row that breaks off": (f"{HEADER}\n{ROW[:40]}", "line 2", "columns; 21 are wanted"),
    "length that is text": (f"{HEADER}\n{ROW.replace(',64,', ',x,')}", "line 2", "length = 'x'", "whole number"),
    "length below zero": (f"{HEADER}\n{ROW.replace(',64,', ',-64,')}", "length = '-64'", "from 0"),
    "length of 5,000 digits": (f"{HEADER}\n{ROW.replace(',64,', f',{9:0>5000},')}", "length = '000", "whole number"),
    "length left out": (f"{HEADER}\n{ROW.replace(',64,', ',,')}", "length = ''", "is empty"),
    "seconds that are no number": (
        f"{HEADER}\n{ROW.replace(',0.2,', ',nan,')}",
        "seconds_high = 'nan'",
        "number from 0",
    ),
    "seconds without end": (f"{HEADER}\n{ROW.replace(',0.2,', ',inf,')}", "seconds_high = 'inf'", "number from 0"),
    "seconds left out": (f"{HEADER}\n{ROW.replace('7,0.1,', '7,,')}", "seconds is empty", "completed"),
    "status that isn't one": (
        f"{HEADER}\n{ROW.replace('completed', 'fine')}",
        "status = 'fine'",
        "completed, unsupported",
    ),
    "attention with markup": (f"{HEADER}\n{ROW.replace('lavo', '<script>')}", "attention = '<script>'", "lower-case"),
    "device with control signs": (f"{HEADER}\n{ROW.replace('cpu', chr(27))}", "device = ", "printable"),
    "field that never ends": (f'{HEADER}\n"{"x" * 200_000}', "not a table of points", "field"),
}
MACHINES = {
    "machine that breaks off": "[{",
    "machine that is a number": "3",
    "machine that is a mapping": "{}",
    "machine with a text for a number": json.dumps([{**PEAKS, "flops_per_second": "fast"}]),
    "machine without a number": json.dumps([{**PEAKS, "flops_per_second": None}]),
    "machine with NaN": json.dumps([{**PEAKS, "bytes_per_second": float("nan")}]),
    "machine of no speed": json.dumps([{**PEAKS, "bytes_per_second": 0}]),
    "machine with a key more": json.dumps([{**PEAKS, "watts": 3}]),
    "machine with a key less": json.dumps([{"device": "cpu"}]),
    "machine whose device is a list": json.dumps([{**PEAKS, "device": []}]),
    "machine that never ends": "[" * 100_000,
}


@cases(SWEEPS)
def test_a_wrong_table_of_a_sweep_is_refused(case, tmp_path):
    content, *words = case
    write(tmp_path / "sweep" / "efficiency.csv", content)
    answer = lavo_bench("report", "sweep", "-o", "report")
    assert_refused(answer, [str(Path("sweep/efficiency.csv")), *words])
    assert len(answer.err) <= 320


@cases(MACHINES)
def test_wrong_peaks_of_a_machine_are_refused(case, tmp_path):
    write(tmp_path / "sweep" / "efficiency.csv", f"{HEADER}\n{ROW}\n")
    write(tmp_path / "sweep" / "machine.json", case)
    answer = lavo_bench("report", "sweep", "-o", "report")
    assert_refused(answer, [str(Path("sweep/machine.json")), "not the measured peaks"])
    assert len(answer.err) <= 320
