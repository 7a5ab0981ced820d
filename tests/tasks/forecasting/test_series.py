"""Files: the variants that are read, and the faults that are refused with line and column."""

import gzip
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tasks.forecasting.data import DataSettings, load_forecast_data, time_features
from tasks.forecasting.series import describe_step, parse_step, read_series

from .conftest import csv_lines


def with_line(number: int, line: str | None) -> list[str]:
    """The good file with one line replaced, or left out if ``line`` is None.  Line 1 is the header."""
    lines = csv_lines()
    if line is None:
        del lines[number - 1]
    else:
        lines[number - 1] = line
    return lines


def cells(number: int) -> list[str]:
    """The cells of a line of the good file."""
    return csv_lines()[number - 1].split(",")


def with_cell(number: int, column: int, cell: str) -> list[str]:
    """The good file with one cell replaced."""
    changed = cells(number)
    changed[column] = cell
    return with_line(number, ",".join(changed))


def swapped() -> list[str]:
    """The good file with lines 21 and 22 exchanged."""
    lines = csv_lines()
    lines[20], lines[21] = lines[21], lines[20]
    return lines


def monthly() -> list[str]:
    """A file with a row for each calendar month."""
    return ["date,a", *(f"{2000 + m // 12}-{m % 12 + 1:02d}-01,{m}" for m in range(120))]


def irregular() -> list[str]:
    """A file whose time stamps have growing distances."""
    start, lines = datetime(2017, 1, 1), ["date,a"]
    for i in range(60):
        lines.append(f"{start + timedelta(minutes=i * i * 7)},{i}")
    return lines


# name -> (lines of the file, parts of the message)
BAD_TEXT: dict[str, tuple[list[str], list[str]]] = {
    "empty file": ([], ["empty", "'date'"]),
    "header alone": (csv_lines(0), ["0 rows", "at least 3"]),
    "two rows": (csv_lines(2), ["2 rows", "at least 3"]),
    "no date column": (["time,a,b", *csv_lines()[1:]], ["line 1", "'date'", "time, a, b"]),
    "misspelt date column": (["Date,a,b", *csv_lines()[1:]], ["did you mean 'Date'"]),
    "date column alone": (["date", "2017-01-01", "2017-01-02", "2017-01-03"], ["no column of numbers"]),
    "column without a name": (["date,,b", *csv_lines()[1:]], ["line 1", "column 2 has no name"]),
    "a column name twice": (["date,a,a", *csv_lines()[1:]], ["line 1", "two columns", "'a'"]),
    "semicolons": ([line.replace(",", ";") for line in csv_lines()], ["line 1", "';'", "comma"]),
    "tabs": ([line.replace(",", "\t") for line in csv_lines()], ["line 1", "comma"]),
    "a cell too few": (with_line(7, "2017-03-01 05:00:00,1.0"), ["line 7", "2 cells", "3 columns"]),
    "a cell too many": (with_line(7, "2017-03-01 05:00:00,1.0,2.0,3.0"), ["line 7", "4 cells", "3 columns"]),
    "an empty cell": (with_cell(9, 1, ""), ["line 9", "'a'", "empty", "data.missing=interpolate"]),
    "a cell of spaces": (with_cell(9, 2, "  "), ["line 9", "'b'", "empty"]),
    "NaN": (with_cell(10, 2, "NaN"), ["line 10", "'b'", "'NaN'", "data.missing"]),
    "NA": (with_cell(10, 2, "N/A"), ["line 10", "'b'", "'N/A'", "data.missing"]),
    "infinity": (with_cell(11, 1, "inf"), ["line 11", "'a'", "'inf'", "finite"]),
    "a number too large": (with_cell(11, 1, "1e999"), ["line 11", "'a'", "finite"]),
    "text in a column of numbers": (with_cell(12, 1, "high"), ["line 12", "'a'", "'high'", "data.columns"]),
    "a decimal comma": (with_cell(12, 1, '"1,5"'), ["line 12", "'a'", "'1,5'", "decimal point"]),
    "a thousands sign": (with_cell(12, 1, "1_000"), ["line 12", "'a'", "'1_000'"]),
    "an open quotation mark": (with_cell(300, 2, '"1.0'), ["line 301", "unexpected end"]),
    "an empty time stamp": (with_cell(13, 0, ""), ["line 13", "'date'", "an existing date like"]),
    "a word as time stamp": (with_cell(13, 0, "noon"), ["line 13", "'date'", "'noon'"]),
    "a day that doesn't exist": (
        with_cell(13, 0, "2017-02-30 10:00:00"),
        ["line 13", "'date'", "not an existing date"],
    ),
    "an hour that doesn't exist": (
        with_cell(13, 0, "2017-03-01 25:00:00"),
        ["line 13", "'date'", "not an existing date"],
    ),
    "another order of day and month": (with_cell(2, 0, "31/03/2017"), ["line 2", "'date'", "data.date_format"]),
    "parts of a second": (with_cell(13, 0, "2017-03-01 11:00:00.5"), ["line 13", "'date'", "second"]),
    "an offset from UTC in one row": (with_cell(13, 0, "2017-03-01 11:00:00+01:00"), ["line 13", "offset"]),
    "a missing time stamp": (
        with_line(14, None),
        ["line 14", "2017-03-01 12:00:00 is missing", "1 hour", "data.missing=interpolate"],
    ),
    "the hour skipped in spring": (
        [line for line in csv_lines(900) if "2017-03-26 02:" not in line],
        ["2017-03-26 03:00:00 follows 2017-03-26 01:00:00", "summer time begins", "1 hour"],
    ),
    "a time stamp twice": (
        with_cell(15, 0, cells(14)[0]),
        ["line 15", "2017-03-01 12:00:00", "line 14", "1 hour", "data.duplicates=first"],
    ),
    "rows out of order": (swapped(), ["line 22", "2017-03-01 19:00:00", "2017-03-01 20:00:00", "line 21", "order"]),
    "a time stamp between two steps": (
        with_cell(16, 0, "2017-03-01 14:10:00"),
        ["line 16", "between two steps", "1 hour"],
    ),
    "calendar months": (monthly(), ["no regular step", "31 days", "months differ"]),
    "no regular step": (irregular(), ["no regular step", "1 second to 27 days"]),
    "too few rows for a window": (csv_lines(70), ["49 rows in the training part", "at least 60", "70"]),
    "too few rows for validation": (csv_lines(100), ["10 rows in the validation part", "at least 12"]),
}


def load(path: Path, **settings):
    """The data of a file in small windows."""
    lengths = {"seq_len": 48, "label_len": 24, "pred_len": 12}
    return load_forecast_data(DataSettings.model_validate({"file": str(path), **lengths, **settings}), None)


@pytest.mark.parametrize("name", BAD_TEXT)
def test_a_bad_file_is_refused_in_one_line_that_says_where(name, write_csv):
    lines, said = BAD_TEXT[name]
    path = write_csv(lines)
    if not lines:
        path.write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("series", *said):
        assert part in message


BAD_BYTES = {
    "latin-1": (
        "series.csv",
        "\n".join(csv_lines()).replace("a,b", "a,b").encode() + b"\n# caf\xe9",
        ["line 302", "0xe9", "UTF-8"],
    ),
    "UTF-16": ("series.csv", "\n".join(csv_lines()).encode("utf-16"), ["line 1", "0xff", "UTF-8"]),
    "not gzip": ("series.csv.gz", b"date,a\n", ["not a whole gzip file"]),
    "half a gzip": ("series.csv.gz", gzip.compress("\n".join(csv_lines()).encode())[:200], ["not a whole gzip file"]),
    "a spreadsheet": ("series.xlsx", b"PK\x03\x04", ["read from .csv", ".xlsx"]),
    "undated rows of unequal length": ("series.txt", b"1,2\n3,4\n5\n", ["line 3", "1 cells", "has 2"]),
    "undated text": ("series.txt", b"1,2\n3,x\n5,6\n", ["line 2", "'c2'", "'x'"]),
    "undated and empty": ("series.txt", b"", ["0 rows"]),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes_are_refused_in_one_line(name, tmp_path):
    file, content, said = BAD_BYTES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load(tmp_path / file)
    message = str(caught.value)
    assert "\n" not in message
    for part in (file, *said):
        assert part in message


def test_a_missing_file_names_what_is_there(write_csv, tmp_path):
    write_csv(csv_lines())
    with pytest.raises(ValueError, match=r"other\.csv: no such file; its folder has series\.csv"):
        load(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": "c"}, "data.target 'c': series has no such column; there are a, b"),
        ({"columns": ["a", "bb"]}, "no column 'bb' (did you mean 'b'?)"),
        ({"split": "months"}, "300 rows, data.split=months needs 14400"),
        ({"seq_len": None, "label_len": None}, "no published lengths for series"),
        ({"seq_len": 400, "label_len": 24}, "at least 412 are needed"),
        ({"pred_len": 31}, "30 rows in the validation part, at least 31"),
        ({"step": "30min", "missing": "refuse"}, "2017-03-01 00:30:00 is missing"),
        ({"step": "2h"}, "between two steps"),
        ({"date_format": "%d.%m.%Y"}, "not an existing date of the format '%d.%m.%Y'"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(settings, said, write_csv):
    with pytest.raises(ValueError) as caught:
        load(write_csv(csv_lines()), **settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"seq_len": 24, "label_len": 48},
        {"seq_len": 24},
        {"step": "1month"},
        {"step": "5w"},
        {"ratio": [0.5, 0.5, 0.5]},
        {"missing": "drop"},
        {"features": "MS"},
        {"pred_len": 0},
        {"unknown": 1},
    ],
)
def test_bad_settings_are_refused_before_any_file_is_read(settings):
    with pytest.raises(ValueError, match="validation error"):
        DataSettings.model_validate(settings)


def test_byte_order_mark_blank_lines_crlf_and_quotes_are_read(tmp_path):
    lines = csv_lines(100)
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    plain.write_text("\n".join(lines))
    quoted = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
    odd.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*quoted[:50], "", *quoted[50:], "", ""]).encode())
    np.testing.assert_array_equal(read_series(plain).values, read_series(odd).values)
    assert read_series(odd).columns == ("a", "b")
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_series(plain).values, read_series(tmp_path / "packed.csv.gz").values)


def test_columns_can_be_chosen_so_that_text_is_left_out(write_csv):
    lines = [f"{line},{'station' if i == 0 else 'north'}" for i, line in enumerate(csv_lines(50))]
    path = write_csv(lines)
    with pytest.raises(ValueError, match="line 2, column 'station': 'north' is not a finite number"):
        read_series(path)
    assert read_series(path, columns=["b", "a"]).columns == ("b", "a")


def test_other_date_formats_and_offsets(write_csv):
    lines = csv_lines(50)
    european = [lines[0]] + [
        f"{datetime.fromisoformat(line.split(',')[0]):%d.%m.%Y %H:%M},{line.split(',', 1)[1]}" for line in lines[1:]
    ]
    assert read_series(write_csv(european), date_format="%d.%m.%Y %H:%M").dates[1] == np.datetime64(
        "2017-03-01T01:00:00"
    )
    # With offsets, the hour that summer time skips is no gap.
    berlin = ["date,a"] + [
        f"2017-03-26T{hour:02d}:00:00{'+01:00' if hour < 2 else '+02:00'},{hour}" for hour in (0, 1, 3, 4, 5)
    ]
    series = read_series(write_csv(berlin))
    assert series.notes["converted_to_utc"] is True
    assert len(series.values) == 5
    assert series.dates[0] == np.datetime64("2017-03-25T23:00:00")


def test_missing_cells_and_rows_are_filled_as_the_option_says(write_csv):
    lines = csv_lines(300)
    for row, value in ((100, "10"), (101, ""), (102, "nan"), (104, "50")):
        lines[row + 1] = f"{lines[row + 1].split(',')[0]},{value},0"
    del lines[104]  # row 103
    path = write_csv(lines)
    series = read_series(path, missing="interpolate")
    assert series.notes == {"rows_inserted": 1, "rows_merged": 0, "cells_filled": 4}
    for option, expected in (("interpolate", [10, 20, 30, 40, 50]), ("forward_fill", [10, 10, 10, 10, 50])):
        data = load(path, missing=option)
        values = data.splits.train.values.double().numpy()[:, 0] * data.deviation[0] + data.mean[0]
        np.testing.assert_allclose(values[100:105], expected, atol=1e-4)
        assert data.splits.details["missing"] == option
        assert data.splits.details["cells_filled"] == 4


def test_interpolation_never_looks_from_a_part_into_a_later_one(write_csv):
    lines = csv_lines(300)  # the training part is rows 0 to 209
    for row in (208, 209, 210):
        lines[row + 1] = f"{lines[row + 1].split(',')[0]},,1"
    first = load(write_csv(lines), missing="interpolate").splits.train.values[:210]
    lines[212] = f"{lines[212].split(',')[0]},9999,1"
    second = load(write_csv(lines), missing="interpolate").splits.train.values[:210]
    assert first.equal(second)
    assert first[208, 0] == first[207, 0]


def test_a_gap_at_the_beginning_cannot_be_filled(write_csv):
    with pytest.raises(ValueError, match=r"column 'a': no value on the first row.*no earlier value to fill with"):
        load(write_csv(with_cell(2, 1, "")), missing="interpolate")


def test_more_missing_rows_than_rows_are_refused(write_csv):
    lines = csv_lines(50)
    lines[-1] = "2099-01-01 00:00:00,1,2"
    with pytest.raises(ValueError, match=r"line 51: .* rows are missing.*2099-01-01"):
        read_series(write_csv(lines), missing="forward_fill")


def test_doubled_time_stamps_are_merged_as_the_option_says(write_csv):
    lines = csv_lines(300)
    lines[51] = f"{lines[50].split(',')[0]},30,7"
    lines[50] = f"{lines[50].split(',')[0]},10,5"
    del lines[52]  # so row 50 is missing
    path = write_csv(lines)
    for option, expected in (("first", [10, 5]), ("mean", [20, 6])):
        series = read_series(path, duplicates=option, missing="interpolate")
        np.testing.assert_array_equal(series.values[49], expected)
        assert series.notes["rows_merged"] == 1


def test_the_hour_repeated_in_autumn_is_a_repeat_and_not_disorder(write_csv):
    stamps = ["01:00", "01:30", "02:00", "02:30", "02:00", "02:30", "03:00", "03:30"]
    path = write_csv(["date,a", *(f"2017-10-29 {stamp},{i}" for i, stamp in enumerate(stamps))])
    with pytest.raises(
        ValueError, match=r"line 6: time stamp 2017-10-29 02:00:00 is already on line 4.*summer time ends"
    ):
        read_series(path)
    np.testing.assert_array_equal(read_series(path, duplicates="mean").values[:, 0], [0, 1, 3, 4, 6, 7])
    np.testing.assert_array_equal(read_series(path, duplicates="first").values[:, 0], [0, 1, 2, 3, 6, 7])


@pytest.mark.parametrize(
    ("step", "text", "num_features", "season"),
    [
        (timedelta(seconds=10), "10 seconds", 6, 8640),
        (timedelta(minutes=1), "1 minute", 5, 1440),
        (timedelta(minutes=10), "10 minutes", 5, 144),
        (timedelta(minutes=15), "15 minutes", 5, 96),
        (timedelta(hours=1), "1 hour", 4, 24),
        (timedelta(hours=6), "6 hours", 4, 4),
        (timedelta(days=1), "1 day", 3, 7),
        (timedelta(weeks=1), "1 week", 2, 52),
    ],
)
def test_steps_other_than_an_hour_work(step, text, num_features, season, write_csv):
    data = load(write_csv(csv_lines(300, step)))
    assert data.splits.details["step"] == text
    assert data.num_time_features == num_features
    assert data.season == season
    times = data.splits.train.times
    assert times.shape == (300, num_features)
    assert times.min() >= -0.5
    assert times.max() <= 0.5


def test_time_features_by_hand():
    dates = np.array(["2016-12-31T23:59:00", "2017-01-01T00:00:00"], dtype="datetime64[s]")
    last, first = time_features(dates, 60)
    np.testing.assert_allclose(last, [0.5, 0.5, 5 / 6 - 0.5, 0.5, 0.5], atol=1e-7)  # Saturday, day 366
    np.testing.assert_allclose(first, [-0.5, -0.5, 0.5, -0.5, -0.5], atol=1e-7)  # Sunday
    np.testing.assert_allclose(time_features(dates, 604_800)[1], [-0.5, 51 / 52 - 0.5], atol=1e-7)  # week 52 of 2016


def test_steps_in_words():
    assert [parse_step(text) for text in ("30s", "15min", "1h", "1d", "2w")] == [30, 900, 3600, 86_400, 1_209_600]
    assert describe_step(1_209_600) == "2 weeks"
    assert describe_step(5400) == "90 minutes"


def test_undated_numbers_get_days_from_1990(tmp_path):
    path = tmp_path / "rates.txt"
    path.write_text("\n".join(f"{i % 7 / 10},{i}" for i in range(300)))
    series = read_series(path)
    assert series.columns == ("c1", "c2")
    assert str(series.dates[1]) == "1990-01-02T00:00:00"
    assert load(path, step="1h").splits.details["step"] == "1 hour"
