"""Parquet files of a report say what the records and the CSV files say, and a missing library is named."""

from __future__ import annotations

import importlib.util

import believable
import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmark.cli.commands import app
from benchmark.report import parquet
from benchmark.report.tables import Table
from benchmark.results import records

needs_pyarrow = pytest.mark.skipif(not parquet.is_available(), reason="no pyarrow here: the extra [parquet] brings it")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    for attention in ("softmax", "lavo", "performer"):
        believable.write_cell(folder, "language_modeling", "gpt", "causal_self", attention, 2)
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "quick"
    done = CliRunner().invoke(app, ["report", str(results), "-o", str(output)])
    assert done.exit_code == 0, done.output
    return output


@needs_pyarrow
def test_records_have_one_row_a_cell_and_metric(results, report):
    frame = pd.read_parquet(report / "records.parquet").set_index(["attention", "metric"])
    found = list(records([results]))
    measured = [(record, name) for record in found for name in record.metrics]
    assert len(frame) == len(measured) + 1  # the failed cell has a row without a metric
    for record, name in measured:
        row, metric = frame.loc[(record.cell.attention, name)], record.metrics[name]
        assert pd.isna(row["value"]) if metric.value is None else row["value"] == metric.value
        assert (row["n"], row["unit"], row["higher_is_better"]) == (metric.n, metric.unit, metric.higher_is_better)
        assert (row["seed"], row["hash"], row["device"]) == (record.cell.seed, record.cell.hash, "Some CPU")
        assert row["parameters"] == record.efficiency.parameters
    lost = frame.xs("performer").iloc[0]
    assert (lost["status"], lost["reason"]) == ("failed", "FloatingPointError: the loss is not finite at step 12")
    assert str(frame["value"].dtype) == "Float64"


@needs_pyarrow
def test_each_table_has_the_values_of_its_csv_file(report):
    files = sorted((report / "tables").glob("*.parquet"))
    assert {file.stem for file in files} == {file.stem for file in (report / "tables").glob("*.csv")}
    for file in files:
        frame, csv = pd.read_parquet(file).replace("", pd.NA), pd.read_csv(file.with_suffix(".csv"))
        assert list(frame.columns) == list(csv.columns)
        pd.testing.assert_frame_equal(frame.astype(csv.dtypes), csv, check_exact=False, rtol=1e-12)


@needs_pyarrow
def test_a_column_of_texts_and_numbers_is_written(tmp_path):
    table = Table("t", "c", [], [], [{"a": 1, "b": "x", "c": None}, {"a": "y", "b": "z"}])
    parquet.write_table(tmp_path, table)
    parquet.write_table(tmp_path, Table("empty", "c", [], []))
    parquet.write_records(tmp_path, [])
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["records.parquet", "t.parquet"]
    assert pd.read_parquet(tmp_path / "t.parquet")["a"].tolist() == ["1", "y"]
    assert len(pd.read_parquet(tmp_path / "records.parquet")) == 0


def test_a_missing_library_is_named_each_time_and_written_once_it_is_there(results, tmp_path, monkeypatch):
    command = ["report", str(results), "-o", str(tmp_path / "report")]
    found = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "find_spec", lambda name: None if name == "pyarrow" else found(name))
        for _ in range(2):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0
            assert "lavo-bench[parquet]" in done.output
        assert "up to date" in done.output
        assert not list((tmp_path / "report").rglob("*.parquet"))
    if parquet.is_available():
        done = CliRunner().invoke(app, command)
        assert "lavo-bench[parquet]" not in done.output
        assert (tmp_path / "report" / "records.parquet").exists()
