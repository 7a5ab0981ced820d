"""Which series of a data root is read where the settings name none."""

import pytest

from tasks.forecasting.data import load_forecast_data
from tasks.forecasting.settings import DataSettings
from tasks.forecasting.sources import default_file
from tasks.forecasting.task import Forecasting, ForecastingSettings

from .conftest import csv_lines

SMALL = {"seq_len": 48, "label_len": 24, "pred_len": 12}


def put(root, name, lines):
    (root / "lstf").mkdir(exist_ok=True)
    (root / "lstf" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(root, **settings):
    return load_forecast_data(DataSettings.model_validate({**SMALL, **settings}), root)


@pytest.mark.parametrize("name", ["mine.csv", "mine.CSV", "mine.txt"])
def test_the_only_series_of_a_root_is_read_without_options(tmp_path, name):
    lines = csv_lines(300)
    put(tmp_path, name, lines if name.lower().endswith("csv") else [line.split(",", 1)[1] for line in lines[1:]])
    put(tmp_path, "mine-LICENSE.txt", ["Open Database License, version 1.0", "1, 2, 3"])
    put(tmp_path, ".hidden.csv", csv_lines(300))
    put(tmp_path, "README.md", ["about, this, folder"])
    assert load(tmp_path).splits.name == "mine"
    task = Forecasting(ForecastingSettings(), backbone="informer")
    assert task.sources(tmp_path) == {f"lstf/{name}"}


def test_of_several_series_the_line_names_them_and_the_option(tmp_path):
    for name in ("b.csv", "a.csv"):
        put(tmp_path, name, csv_lines(300))
    with pytest.raises(
        ValueError, match=r"lstf/: has no ETTh1\.csv but several other series; .* data\.file: a\.csv, b\.csv$"
    ):
        load(tmp_path)
    assert load(tmp_path, file="b.csv").splits.name == "b"


def test_etth1_goes_before_other_series(tmp_path):
    for name in ("a.csv", "ETTh1.csv"):
        put(tmp_path, name, csv_lines(300))
    assert load(tmp_path, split="ratio").splits.name == "ETTh1"


def test_a_root_without_a_series_is_refused_by_the_usual_name(tmp_path):
    assert default_file(tmp_path) == default_file(None) == "ETTh1.csv"
    put(tmp_path, "LICENSE.txt", ["none"])
    with pytest.raises(ValueError, match=r"lstf/ETTh1\.csv: no such file; its folder has LICENSE\.txt"):
        load(tmp_path)
