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
    assert digest == "21ba077e1ee12bb9dcd6e62b655c188f725780ac6077e1369d3853f97ab3b2d0"
    assert make_rivers(500, 8).tobytes() != make_rivers(500, 7).tobytes()


def test_each_lower_gauge_repeats_an_upper_one_after_its_travel_time():
    snow, creek, mill, ford, town = make_rivers(6000, 0).T
    assert COLUMNS == ("snow", "creek", "mill", "ford", "town")
    for upper, lower, other, late in ((creek, mill, snow, 10), (creek, ford, snow, 11), (snow, town, creek, 30)):
        found = correlations(upper, lower)
        assert found.argmax() == late
        assert found[late] > 0.97
        assert np.abs(correlations(other, lower)).max() < 0.1


def test_no_gauge_tells_its_own_next_day():
    for column, memory in zip(make_rivers(20_000, 0).T, (10, 2, 2, 2, 10), strict=True):
        own = correlations(column, column)
        assert np.abs(own[memory:]).max() < 0.06  # the water of a gauge is forgotten after so many hours
        assert own[memory - 1] > 0.06


def test_the_settings_choose_the_rivers_and_their_columns():
    sizes = {"seq_len": 48, "label_len": 12, "pred_len": 8, "num_rows": 600}
    data = load_forecast_data(DataSettings.model_validate({"name": "rivers", **sizes}), None)
    assert data.splits.embedded
    assert (data.splits.name, data.splits.details["columns"]) == ("embedded", list(COLUMNS))
    assert data.splits.details["target"] == "town"
    assert data.splits.details["series"] == "rivers"
    seasons = load_forecast_data(DataSettings.model_validate({"name": "seasons", **sizes}), None)
    assert seasons.splits.fingerprint != data.splits.fingerprint
