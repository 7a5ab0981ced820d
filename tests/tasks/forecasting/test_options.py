"""Options act on every kind of series or are refused; columns that are constant but for rounding; names in messages."""

import gzip

import numpy as np
import pytest

from tasks.forecasting.data import DataSettings, fit_scaler, load_forecast_data
from tasks.forecasting.series import read_series
from tasks.forecasting.task import Forecasting, ForecastingSettings

from .conftest import csv_lines

LENGTHS = {"seq_len": 24, "label_len": 12, "pred_len": 12}


def load(path, data_root=None, **settings):
    content = LENGTHS | {"file": None if path is None else str(path)} | settings
    return load_forecast_data(DataSettings.model_validate(content), data_root)


@pytest.fixture(params=["x.txt", "x.txt.gz", "X.TXT", "X.TXT.GZ"])
def undated(request, tmp_path):
    """A file of three columns without header and dates."""
    content = "".join(f"{i % 5},{2 * i},{3 * i}\n" for i in range(300)).encode()
    path = tmp_path / request.param
    path.write_bytes(gzip.compress(content) if request.param.lower().endswith("gz") else content)
    return path


def test_columns_of_a_file_without_header_are_chosen_by_number(undated):
    series = read_series(undated, columns=("c3", "c1"))
    assert series.columns == ("c3", "c1")
    np.testing.assert_array_equal(series.values[7], [21, 2])
    assert load(undated, columns=["c2", "c3"], features="S", target="c2").splits.details["columns"] == ["c2"]
    assert load(undated).splits.name == undated.name.split(".")[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": ["zzz"]}, "no column 'zzz'; there are c1, c2, c3"),
        ({"columns": ["c1", "c4"]}, "no column 'c4'"),
        ({"columns": ["c1"], "target": "c2"}, "data.target 'c2': x has no such column; there are c1"),
        ({"date": "time"}, "has no dates, so data.date and data.date_format can't be given"),
        ({"date_format": "%Y"}, "has no dates, so data.date and data.date_format can't be given"),
    ],
)
def test_an_option_that_a_file_without_header_has_no_use_for_is_refused(settings, said, tmp_path):
    (tmp_path / "x.txt").write_text("".join(f"{i % 5},{2 * i},{3 * i}\n" for i in range(300)))
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "x.txt", **settings)
    assert said in str(caught.value)


def test_options_act_on_the_embedded_series_too():
    whole, some = load(None, num_rows=600), load(None, num_rows=600, columns=["target", "c2"])
    assert whole.splits.details["columns"] == ["c1", "c2", "c3", "c4", "target"]
    assert some.splits.details["columns"] == ["target", "c2"]
    assert some.parts[0].values.equal(whole.parts[0].values[:, [4, 1]])
    with pytest.raises(ValueError, match=r"data\.columns: the embedded series: no column 'c9'"):
        load(None, num_rows=600, columns=["c9"])
    for settings in ({"date": "time"}, {"date_format": "%Y"}, {"step": "1d"}):
        with pytest.raises(ValueError, match="are for a file: the embedded series has an hour a row"):
            load(None, num_rows=600, **settings)
    assert load(None, num_rows=600, step="1h").splits.details["step"] == "1 hour"


@pytest.mark.parametrize("columns", [[], ["a", "a"]])
def test_columns_are_named_once(columns):
    with pytest.raises(ValueError, match="names of columns are needed, each once"):
        DataSettings.model_validate({"columns": columns})


def test_an_index_without_a_name_is_read_over_and_the_record_says_so(write_csv):
    """pandas' to_csv writes its index as a first column without a name."""
    lines = csv_lines(300)
    indexed = [f"{'' if i == 0 else i - 1},{line}" for i, line in enumerate(lines)]
    plain, odd = load(write_csv(lines, "a.csv")), load(write_csv(indexed, "b.csv"))
    assert odd.splits.details["columns"] == ["a", "b"]
    assert odd.parts[0].values.equal(plain.parts[0].values)
    assert "first column" in odd.splits.details["left_out"]
    assert "left_out" not in plain.splits.details


def alternating(first, second):
    """420 rows that change between two numbers."""
    return np.array([[first if i % 2 else second] for i in range(420)])


@pytest.mark.parametrize(
    ("column", "is_constant"),
    [
        (alternating(3.0, (0.1 + 0.1 + 0.1) * 10), True),
        (alternating(0.3, 0.1 + 0.1 + 0.1), True),
        (alternating(-1e9, -1e9 * (1 + 1e-15)), True),
        (np.array([[sum([0.1] * 1000) - 99.9 if i % 3 else 0.1] for i in range(420)]) + 100, True),
        (alternating(0.0, 0.0), True),
        (alternating(0.0, 1e-100), False),
        (alternating(1e9, 1e9 + 0.5), False),
        (alternating(101_325.0, 101_325.001), False),
    ],
)
def test_a_column_that_differs_by_rounding_alone_is_constant(column, is_constant):
    mean, deviation, constant = fit_scaler(column, ["a"], "x")
    assert constant == (["a"] if is_constant else [])
    if is_constant:
        assert deviation[0] == 1
        assert abs((column[0, 0] + 0.5 - mean[0]) / deviation[0]) == pytest.approx(0.5, abs=1e-5)


def test_a_step_after_a_nearly_constant_training_part_is_refused(write_csv):
    lines = csv_lines(300)
    flat = [lines[0], *(f"{line.split(',')[0]},1,{3.0 if i % 2 else 3.0000002!r}" for i, line in enumerate(lines[1:]))]
    flat[-1] = f"{lines[-1].split(',')[0]},1,3.5"
    with pytest.raises(ValueError, match=r"series, column 'b': a value lies 5e\+06 deviations .* more than 1e\+06"):
        load(write_csv(flat))


def test_messages_name_the_file_below_the_data_root(tmp_path):
    root, bad = tmp_path / "root", "date,a\n2020-01-01,1\nnoon,2\n"
    (root / "lstf" / "mine").mkdir(parents=True)
    (root / "lstf" / "mine" / "s.csv").write_text(bad)
    (tmp_path / "s.csv").write_text(bad)
    for file, data_root, name in (
        ("mine/s.csv", root, "lstf/mine/s.csv"),
        (tmp_path / "s.csv", root, "s.csv"),
        (tmp_path / "s.csv", None, "s.csv"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}, line 3, column 'date': 'noon'"):
            load(file, data_root)
    with pytest.raises(ValueError, match=r"^lstf/nowhere\.csv: no such file; its folder has no file$") as caught:
        load("nowhere.csv", root)
    assert str(tmp_path) not in str(caught.value)


def test_a_header_of_many_long_names_gives_a_short_message(write_csv):
    names = [f"a_column_with_a_long_name_{i}" for i in range(200)]
    path = write_csv([",".join(["date", *names]), *(f"2020-01-{d:02d}," + ",".join(["1"] * 200) for d in range(1, 9))])
    with pytest.raises(ValueError, match="no column 'b'") as caught:
        read_series(path, columns=["b"])
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("file", "wanted"),
    [(None, "lstf/ETTh1.csv"), ("ETTh2.csv", "lstf/ETTh2.csv"), ("/elsewhere/e.csv", "lstf//elsewhere/e.csv")],
)
def test_the_task_says_which_file_its_settings_read(file, wanted, tmp_path):
    task = Forecasting(ForecastingSettings.model_validate({"data": LENGTHS | {"file": file}}), backbone="informer")
    assert set(task.sources(tmp_path)) == {wanted}
