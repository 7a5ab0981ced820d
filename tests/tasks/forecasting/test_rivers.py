"""The embedded rivers: where each gauge's hours come from, found again by correlation, and the same bytes on every machine."""

import hashlib

import numpy as np

from tasks.forecasting.data import load_forecast_data
from tasks.forecasting.rivers import COLUMNS, make_rivers
from tasks.forecasting.settings import DataSettings


def correlations(upper, lower, most=60):
    """The correlation of the lower gauge with the upper one 0, 1, … hours before."""
    return np.array([np.corrcoef(upper[: len(upper) - late], lower[late:])[0, 1] for late in range(most)])


def test_the_rivers_are_the_same_bytes_for_a_seed():
    # If the generator makes other values, the task's version must be raised.
    digest = hashlib.sha256(make_rivers(500, 7).tobytes()).hexdigest()
    assert digest == "PINNED"
    assert make_rivers(500, 8).tobytes() != make_rivers(500, 7).tobytes()


def test_each_lower_gauge_repeats_the_upper_ones_after_their_travel_times():
    north, south, mill, town = make_rivers(6000, 0).T
    assert COLUMNS == ("north", "south", "mill", "town")
    assert correlations(south, mill).argmax() == 10
    assert correlations(south, mill).max() > 0.97
    assert correlations(north, town).argmax() == 20
    assert correlations(south, town).argmax() == 34
    # The two together explain the town; either alone explains half of it.
    known = np.stack((north[14:-20], south[: 6000 - 34], np.ones(6000 - 34)), axis=1)
    _, residual, *_ = np.linalg.lstsq(known, town[34:], rcond=None)
    assert residual[0] / len(known) < 0.01 * town.var()
    assert 0.6 < correlations(north, town).max() < 0.8
    assert 0.6 < correlations(south, town).max() < 0.8


def test_no_gauge_tells_its_own_next_day():
    for column in make_rivers(6000, 0).T:
        own = correlations(column, column)
        assert np.abs(own[4:]).max() < 0.06  # rain is forgotten after four hours


def test_the_settings_choose_the_rivers_and_their_columns():
    sizes = {"seq_len": 48, "label_len": 12, "pred_len": 8, "num_rows": 600}
    data = load_forecast_data(DataSettings.model_validate({"name": "rivers", **sizes}), None)
    assert data.splits.embedded
    assert (data.splits.name, data.splits.details["columns"]) == ("embedded", list(COLUMNS))
    assert data.splits.details["target"] == "town"
    seasons = load_forecast_data(DataSettings.model_validate({"name": "seasons", **sizes}), None)
    assert seasons.splits.fingerprint != data.splits.fingerprint
