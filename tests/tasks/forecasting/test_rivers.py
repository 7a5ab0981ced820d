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
    assert digest == "9f1949d434bc4354547f5b58f39ea531804a398477f80229c08cbfe77fa82f12"
    assert make_rivers(500, 8).tobytes() != make_rivers(500, 7).tobytes()


def test_each_lower_gauge_repeats_an_upper_one_after_its_travel_time():
    gauges = dict(zip(COLUMNS, make_rivers(6000, 0).T, strict=True))
    upper = ("snow", "north", "middle", "south")
    sources = {
        "mill": ("north", 10),
        "ford": ("middle", 11),
        "lock": ("south", 12),
        "town": ("snow", 30),
        "port": ("snow", 32),
    }
    assert set(COLUMNS) == {*upper, *sources}
    for lower, (source, late) in sources.items():
        for name in upper:
            found = correlations(gauges[name], gauges[lower])
            if name == source:
                assert found.argmax() == late
                assert found[late] > 0.97
            else:
                assert np.abs(found).max() < 0.12


def test_no_gauge_tells_its_own_next_day():
    memory = {"snow": 6, "town": 6, "port": 6}
    for name, column in zip(COLUMNS, make_rivers(20_000, 0).T, strict=True):
        own, hours = correlations(column, column), memory.get(name, 2)
        assert np.abs(own[hours:]).max() < 0.06  # the water of a gauge is forgotten after so many hours
        assert own[hours - 1] > 0.06


def test_the_settings_choose_the_rivers_and_their_columns():
    sizes = {"seq_len": 48, "label_len": 12, "pred_len": 8, "num_rows": 600}
    data = load_forecast_data(DataSettings.model_validate({"name": "rivers", **sizes}), None)
    assert data.splits.embedded
    assert (data.splits.name, data.splits.details["columns"]) == ("embedded", list(COLUMNS))
    assert data.splits.details["target"] == "port"
    assert data.splits.details["series"] == "rivers"
    seasons = load_forecast_data(DataSettings.model_validate({"name": "seasons", **sizes}), None)
    assert seasons.splits.fingerprint != data.splits.fingerprint
