"""Windows, split, scaler and the embedded series."""

import numpy as np
import pytest
import torch

from tasks.forecasting.data import LENGTHS, DataSettings, Lengths, Windows, fit_scaler, load_forecast_data
from tasks.forecasting.synthetic import make_series

from .conftest import csv_lines

SMALL = {"seq_len": 48, "label_len": 24, "pred_len": 12}


def load(path=None, root=None, **settings):
    """The data of a file, or the embedded ones, in small windows."""
    file = {} if path is None else {"file": str(path)}
    return load_forecast_data(DataSettings.model_validate({**file, **SMALL, **settings}), root)


def test_windows_by_hand():
    values = torch.arange(20.0)[:, None]
    windows = Windows(values, values, first=10, stop=16, lengths=Lengths(4, 2, 3))
    assert len(windows) == 4  # rows - pred_len + 1
    history, history_times, decoder_times, future = (part[:, 0].tolist() for part in windows[0])
    assert history == [6, 7, 8, 9]  # before the part begins
    assert history_times == history
    assert decoder_times == [8, 9, 10, 11, 12]
    assert future == [10, 11, 12]
    assert windows[-1].future[:, 0].tolist() == [13, 14, 15]
    with pytest.raises(IndexError):
        windows[4]
    assert len(windows[1:3]) == 2


def test_windows_whose_futures_begin_within_one_window_are_a_cluster():
    values = torch.arange(60.0)[:, None]
    windows = Windows(values, values, first=10, stop=34, lengths=Lengths(5, 2, 3), stride=3)
    assert list(windows.forecast_starts) == [10, 13, 16, 19, 22, 25, 28, 31]
    assert windows.clusters.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]  # stretches of 5 + 3 rows


@pytest.mark.parametrize("stride", [1, 3])
def test_all_windows_at_once_are_the_windows_one_by_one(stride):
    values = torch.randn(40, 2)
    windows = Windows(values, values, first=10, stop=31, lengths=Lengths(7, 3, 4), stride=stride)
    assert torch.equal(windows.histories(), torch.stack([w.history for w in windows]))
    assert torch.equal(windows.futures(), torch.stack([w.future for w in windows]))


def test_the_parts_follow_each_other_and_every_window_is_there(write_csv):
    data = load(write_csv(csv_lines(300)))
    train, validation, test = data.parts
    assert (len(train), len(validation), len(test)) == (210 - 48 - 12 + 1, 30 - 12 + 1, 60 - 12 + 1)
    assert (train.forecast_starts[0], train.forecast_starts[-1] + 12) == (48, 210)
    assert (validation.forecast_starts[0], validation.forecast_starts[-1] + 12) == (210, 240)
    assert (test.forecast_starts[0], test.forecast_starts[-1] + 12) == (240, 300)
    assert data.splits.details["windows_by_part"] == {"train": 151, "validation": 19, "test": 49}


def test_the_scaler_sees_the_training_part_alone(write_csv):
    lines = csv_lines(300)
    first = load(write_csv(lines))
    later = [f"{d},{10 * float(a)!r},{10 * float(b)!r}" for d, a, b in (line.split(",") for line in lines[211:])]
    second = load(write_csv([*lines[:211], *later]))
    assert first.parts[0].values[:210].equal(second.parts[0].values[:210])
    assert not first.parts[2].values[210:].equal(second.parts[2].values[210:])
    training = first.parts[0].values[:210].double()
    torch.testing.assert_close(training.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(training.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_unit_of_a_column_changes_no_standardised_value(write_csv):
    lines = csv_lines(300)
    first = load(write_csv(lines)).parts[2].values
    second = load(
        write_csv([lines[0], *(f"{d},{1000 * float(a)!r},{b}" for d, a, b in (x.split(",") for x in lines[1:]))])
    )
    torch.testing.assert_close(first, second.parts[2].values, atol=1e-6, rtol=0)


def test_a_constant_column_is_zero_and_named(write_csv):
    lines = csv_lines(300)
    constant = [lines[0], *(f"{line.rsplit(',', 1)[0]},0.1" for line in lines[1:])]
    data = load(write_csv(constant))
    assert data.splits.details["constant_columns"] == ["b"]
    assert data.parts[0].values[:, 1].abs().max() == 0
    assert torch.isfinite(data.parts[0].values).all()


def test_numbers_too_large_to_square_are_refused_by_column():
    with pytest.raises(ValueError, match="f, column 'b': its mean or deviation"):
        fit_scaler(np.array([[1.0, 1e200], [2.0, -1e200], [3.0, 1e200]]), ["a", "b"], "f")


def test_a_value_far_beyond_the_training_part_is_refused_by_column(write_csv):
    lines = csv_lines(300)
    lines[-1] = f"{lines[-1].split(',')[0]},1,1e60"
    with pytest.raises(ValueError, match=r"series, column 'b': a value lies .* deviations .* more than 1e\+06"):
        load(write_csv(lines))


def test_univariate_data_are_the_target_alone(write_csv):
    path = write_csv(csv_lines(300))
    both, one = load(path), load(path, features="S", target="a")
    assert one.splits.details["columns"] == ["a"]
    assert one.parts[0].values.equal(both.parts[0].values[:, :1])
    assert (both.target_index, one.target_index) == (1, 0)


def test_embedded_data_are_the_same_bytes_for_a_seed():
    first, second, other = (load(num_rows=600, seed=seed) for seed in (3, 3, 4))
    assert first.splits.embedded
    assert first.splits.name == "embedded"
    assert first.splits.fingerprint == second.splits.fingerprint != other.splits.fingerprint
    assert make_series(50, 2, 0).tobytes() == make_series(50, 2, 0).tobytes()
    # If the generator makes other values, the task's version must be raised.
    assert make_series(3, 2, 0).round(3).tolist() == [[28.21, 19.17], [32.206, 18.098], [25.836, 17.206]]


def test_the_embedded_series_has_what_its_docstring_says():
    values = make_series(8000, 3, 0)
    values = (values - values.mean(0)) / values.std(0)
    power = np.abs(np.fft.rfft(values, axis=0)) ** 2
    day = round(8000 / 24)
    assert (power[day - 2 : day + 3].sum(0) / power[1:].sum(0) > 0.2).all()  # a season of a day
    noise = values - np.mean([np.roll(values, 24 * k, axis=0) for k in (-1, 1)], axis=0)
    lagged = [
        max(abs(np.corrcoef(noise[:-lag, c], noise[lag:, c + 1])[0, 1]) for lag in range(24, 49)) for c in range(2)
    ]
    unlagged = [abs(np.corrcoef(noise[:, c], noise[:, c + 1])[0, 1]) for c in range(2)]
    assert min(lagged) > 2 * max(unlagged)  # a column follows the one before


def test_lengths_by_horizon_are_found_by_name(write_csv):
    path = write_csv(csv_lines(14_400), "ETTh1.csv")
    null = {"seq_len": None, "label_len": None}
    data = load(path, **null, features="S", pred_len=24)
    assert data.lengths == (720, 168, 24)
    assert data.splits.name == "ETTh1"
    assert [len(part) for part in data.parts] == [8640 - 744 + 1, 2880 - 24 + 1, 2880 - 24 + 1]
    with pytest.raises(ValueError, match=r"at this horizon; it has 24, 48, 168, 336, 720; give data\.seq_len"):
        load(path, **null, features="S", pred_len=96)
    assert load(None, **null, features="M", pred_len=24).lengths == (48, 48, 24)
    assert all(label <= seq for table in LENGTHS.values() for seq, label in table.values())


def test_stride_and_drop_last_are_counted_in_the_details(write_csv):
    settings = DataSettings.model_validate({"file": str(write_csv(csv_lines(300))), **SMALL})
    strided = load_forecast_data(settings, None, stride=5)
    assert [len(part) for part in strided.parts] == [151, 4, 10]
    dropped = load_forecast_data(settings, None, drop_last=32)
    assert [len(part) for part in dropped.parts] == [151, 19, 32]
    assert dropped.splits.details["evaluation_drop_last"] == 32
    with pytest.raises(ValueError, match="drop_last 64 leaves none of 49 test windows"):
        load_forecast_data(settings, None, drop_last=64)


def test_etth1_has_the_published_windows(real_data):
    for features, columns in (("S", 1), ("M", 7)):
        data = load_forecast_data(DataSettings.model_validate({"features": features, "pred_len": 720}), real_data)
        assert [len(part) for part in data.parts[1:]] == [2161, 2161]
        assert data.parts[0].values.shape == (17_420, columns)
        assert data.splits.details["target"] == "OT"
        assert not data.splits.embedded
    # Mean and deviation of OT over the first 8,640 rows, by awk.
    assert data.mean[-1] == pytest.approx(17.1282617, abs=1e-6)
    assert data.deviation[-1] == pytest.approx(9.1764910, abs=1e-6)


def test_exchange_rates_are_read_without_header_and_dates(real_data):
    data = load(None, real_data, file="exchange_rate.txt.gz")
    details = data.splits.details
    assert details["columns"] == [f"c{i}" for i in range(1, 9)]
    assert (details["step"], details["rows"], details["first"]) == ("1 day", 7588, "1990-01-01T00:00:00")
    assert details["rows_by_part"] == {"train": 5311, "validation": 760, "test": 1517}
