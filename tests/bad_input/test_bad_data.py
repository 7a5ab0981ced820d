"""Data roots whose series, books or manifests are wrong."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from command_line import Answer, lavo_bench
from refused import assert_refused, cases, write

from benchmark.fetching.manifest import read_manifest


def series(num_rows: int = 400) -> list[str]:
    """The lines of a right file: hourly, with two columns of numbers."""
    start = datetime.datetime(2016, 7, 1)
    rows = (f"{start + datetime.timedelta(hours=i)},{i * 7 % 24 / 3:.3f},{i * 5 % 24 / 3:.3f}" for i in range(num_rows))
    return ["date,load,temperature", *rows]


def with_cell(text: str) -> list[str]:
    """The same lines, with this text (its comma included) for the last cell of line 6."""
    rows = series()
    return [*rows[:5], f"{rows[5].rsplit(',', 1)[0]}{text}", *rows[6:]]


ROWS = series()
SERIES = {
    "empty": ("", "the file is empty", "header"),
    "header alone": (ROWS[:1], "0 rows", "at least 3"),
    "too few rows for the lengths": (ROWS[:60], "41 rows in the training part", "at least 60"),
    "Latin-1": ("\n".join(ROWS).replace("load", "l\xe4d").encode("latin-1"), "line 1", "0xe4", "UTF-8"),
    "UTF-16": ("\n".join(ROWS).encode("utf-16"), "line 1", "0xff", "UTF-8"),
    "bytes that are no text": (bytes(range(256)) * 20, "not UTF-8"),
    "text in a column of numbers": (with_cell(",abc"), "line 6, column 'temperature'", "'abc'", "a number"),
    "NaN": (with_cell(",nan"), "line 6, column 'temperature'", "'nan'", "data.missing"),
    "infinity": (with_cell(",inf"), "line 6, column 'temperature'", "'inf'", "finite"),
    "empty cell": (with_cell(","), "line 6, column 'temperature'", "empty", "data.missing"),
    "comma for a decimal point": (with_cell(',"1,5"'), "line 6", "'1,5'", "decimal point"),
    "number beyond any scale": (with_cell(",1e300"), "'temperature'", "1e+300"),
    "row that ends early": (with_cell(""), "line 6", "2 cells", "3 columns"),
    "row with a cell too many": (with_cell(",1,2"), "line 6", "4 cells", "3 columns"),
    "gap": ([*ROWS[:50], *ROWS[55:]], "line 51", "2016-07-03 01:00:00 is missing", "1 hour", "data.missing"),
    "time stamp twice": ([*ROWS[:51], *ROWS[50:]], "line 52", "is already on line 51", "data.duplicates"),
    "rows out of order": ([*ROWS[:50], ROWS[51], ROWS[50], *ROWS[52:]], "line 52", "comes after", "in order"),
    "time stamp between two steps": (
        [*ROWS[:50], ROWS[50].replace(":00:00", ":30:00"), *ROWS[51:]],
        "line 51",
        "between two steps",
        "1 hour",
    ),
    "date that doesn't exist": (
        [*ROWS[:5], "2016-13-45 00:00:00,1,2", *ROWS[6:]],
        "line 6, column 'date'",
        "'2016-13-45 00:00:00'",
        "2016-07-01",
    ),
    "no column of dates": (["x,load,temperature", *ROWS[1:]], "line 1", "no column 'date'", "load, temperature"),
    "two columns of one name": (["date,load,load", *ROWS[1:]], "line 1", "'load'"),
    "column without a name": (["date,,load", *ROWS[1:]], "line 1", "column 2 has no name"),
    "dates alone": ([row.split(",")[0] for row in ROWS], "line 1", "no column of numbers"),
    "semicolons for commas": ([row.replace(",", ";") for row in ROWS], "line 1", "';'", "comma"),
}


def run_series(root: Path, file: str, *settings: str) -> Answer:
    """``lavo-bench run`` on this file of the data root."""
    assignments = [part for text in (f"data.file={file}", *settings) for part in ("--set", text)]
    return lavo_bench("run", "lstf", "--preset", "smoke", "-a", "none", "-o", "out", "--data-root", root, *assignments)


@cases(SERIES)
def test_a_wrong_series_is_refused(case, tmp_path):
    content, *words = case
    write(tmp_path / "root" / "lstf" / "s.csv", content)
    assert_refused(run_series(tmp_path / "root", "s.csv"), ["forecasting", *words])


SERIES_OPTIONS = {
    "file that isn't there": ("data.file=gone.csv", "gone.csv", "no such file", "s.csv"),
    "file of another kind": ("data.file=s.xlsx", "s.xlsx", ".csv"),
    "gzip that is none": ("data.file=s.csv.gz", "s.csv.gz", "gzip"),
    "unknown target": ("data.target=zz", "data.target 'zz'", "load, temperature"),
    "unknown column": ("data.columns=[zz]", "'zz'", "load, temperature"),
    "text for columns": ("data.columns=load", "'load'", "must be a list"),
    "step that is a month": ("data.step=1month", "'1month'", "1h or 15min"),
    "shares that don't sum to one": ("data.ratio=[0.5,0.5,0.5]", "ratio", "sum to 1"),
    "horizon longer than the data": ("data.pred_len=1000", "at least 1048", "rows"),
    "label longer than the history": ("data.label_len=99", "label_len 99", "seq_len 48"),
    "one of two lengths": ("data.seq_len=null", "seq_len and label_len"),
    "months of too short a file": ("data.split=months", "400 rows", "14400", "data.split=ratio"),
    "no test window left": ("eval.drop_last=10000", "eval.drop_last 10000"),
}


@cases(SERIES_OPTIONS)
def test_an_option_that_the_series_cannot_meet_is_refused(case, tmp_path):
    setting, *words = case
    folder = tmp_path / "root" / "lstf"
    write(folder / "s.csv", ROWS)
    write(folder / "s.xlsx", "x")
    write(folder / "s.csv.gz", "x")
    assert_refused(run_series(tmp_path / "root", "s.csv", setting), words)


def test_a_byte_order_mark_is_ignored(tmp_path):
    write(tmp_path / "root" / "lstf" / "s.csv", "\ufeff" + "\n".join(ROWS))
    assert "cells were started" in run_series(tmp_path / "root", "s.csv").err


def test_a_data_root_without_series_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    assert_refused(run_series(tmp_path / "root", "s.csv"), ["s.csv", "no such file"])


TEXT = "the cat sat on the mat. " * 400
BOOKS = {"train/a.txt": TEXT + "1", "validation/b.txt": TEXT + "2", "test/c.txt": TEXT + "3"}

BOOK_FAULTS = {
    "no books": (dict.fromkeys(BOOKS), "lm/train", "no such folder"),
    "no test books": ({"test/c.txt": None}, "lm/test", "no such folder"),
    "no text files": ({"test/c.txt": None, "test/c.md": TEXT}, "lm/test", "no .txt file"),
    "empty book": ({"train/a.txt": ""}, "lm/train/a.txt", "empty"),
    "book in Latin-1": (
        {"train/a.txt": "caf\xe9 ".encode("latin-1") * 500},
        "lm/train/a.txt",
        "byte 3",
        "0xe9",
        "UTF-8",
    ),
    "book in UTF-16": ({"train/a.txt": TEXT.encode("utf-16")}, "lm/train/a.txt", "byte 0", "UTF-8"),
    "one book in two parts": ({"test/c.txt": TEXT + "1"}, "lm/test/c.txt", "lm/train/a.txt"),
    "test book shorter than the longest block": ({"test/c.txt": "abc"}, "lm/test", "3 tokens", "1024"),
    "book that is a folder": ({"train/a.txt": None, "train/a.txt/x": "1"}, "a.txt", "directory"),
}


@cases(BOOK_FAULTS)
def test_a_wrong_folder_of_books_is_refused(case, tmp_path):
    changes, *words = case
    (tmp_path / "root").mkdir()
    for name, content in {**BOOKS, **changes}.items():
        if content is not None:
            write(tmp_path / "root" / "lm" / name, content)
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", "-o", "out", "--data-root", tmp_path / "root")
    assert_refused(answer, words)


SHA = "0" * 64
MANIFESTS = {
    "manifest with a path that leaves": (
        f"name: ../x, urls: ['https://x/'], sha256: '{SHA}'",
        "'../x'",
        "below the data root",
    ),
    "manifest with an absolute path": (
        f"name: /x, urls: ['https://x/'], sha256: '{SHA}'",
        "'/x'",
        "below the data root",
    ),
    "manifest without encryption": (f"name: x, urls: ['http://x/'], sha256: '{SHA}'", "'http://x/'", "https"),
    "manifest with half a digest": ("name: x, urls: ['https://x/'], sha256: abc", "'abc'", "sha256"),
    "manifest with an unknown key": (f"name: x, urls: ['https://x/'], sha: '{SHA}'", "'sha'", "did you mean sha256?"),
}


@cases(MANIFESTS)
def test_a_wrong_manifest_is_refused(case, tmp_path):
    content, *words = case
    made = "name: s, title: S, makes: [lstf/x], licence: none, cite: nobody, home: x"
    path = write(tmp_path / "sources.yaml", f"sets: [{{{made}, files: [{{{content}}}]}}]\n")
    with pytest.raises(ValueError, match=r"sources\.yaml") as caught:
        read_manifest(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
