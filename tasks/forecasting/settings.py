"""The settings of a series: which one is read, and how it is split and cut into windows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from benchmark.settings import Settings
from tasks.forecasting.series import Duplicates, Missing, parse_step


class DataSettings(Settings):
    """Which series is read, and how it is split and cut into windows."""

    name: Literal["rivers", "seasons"] = Field(
        default="seasons", description="the embedded series, which serves without a data root and without data.file"
    )
    file: str | None = Field(
        default=None,
        description="in lstf/ of the data root, or a path; null: ETTh1.csv of the data root, or else its only series",
    )
    date: str = Field(default="date", description="column of the time stamps")
    date_format: str | None = Field(default=None, description="strptime format of the time stamps; null: ISO 8601")
    columns: tuple[str, ...] | None = Field(default=None, description="columns to read; null: all but the date")
    target: str | None = Field(
        default=None, description="the column of features=S and of the plots; null: by data set, else the last"
    )
    features: Literal["M", "S"] = Field(default="M", description="M: all columns forecast all; S: only the target")
    step: str | None = Field(
        default=None, description="time between rows, such as 1h or 15min; null: the most frequent one"
    )
    missing: Missing = Field(default="refuse", description="what to do with empty cells and missing time stamps")
    duplicates: Duplicates = Field(default="refuse", description="what to do with time stamps that occur twice")
    split: Literal["auto", "months", "ratio"] = Field(
        default="auto", description="auto: months for ETT files, ratio for others"
    )
    ratio: tuple[float, float, float] = Field(
        default=(0.7, 0.1, 0.2), description="shares of train, validation and test for split=ratio"
    )
    pred_len: int = Field(default=24, ge=1, description="the horizon, in steps")
    seq_len: int | None = Field(
        default=None, ge=1, description="steps of history for the encoder; null: as published for the horizon"
    )
    label_len: int | None = Field(
        default=None, ge=1, description="last steps of the history for the decoder; null: as published for the horizon"
    )
    num_rows: int = Field(default=4000, ge=100, description="hours of the embedded series")
    num_columns: int = Field(default=5, ge=1, description="columns of the embedded series ``seasons``")
    seed: int = Field(default=0, ge=0, description="seed of the embedded series")

    @field_validator("columns")
    @classmethod
    def _columns_are_named_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and (not columns or len(set(columns)) < len(columns)):
            raise ValueError(f"{', '.join(columns) or 'none'}: names of columns are needed, each once")
        return columns

    @field_validator("step")
    @classmethod
    def _step_is_known(cls, step: str | None) -> str | None:
        if step is not None:
            parse_step(step)
        return step

    @model_validator(mode="after")
    def _fits_together(self) -> DataSettings:
        if (self.seq_len is None) != (self.label_len is None):
            raise ValueError("seq_len and label_len are given together, or both left to the table of horizons")
        if self.seq_len is not None and self.label_len is not None and self.label_len > self.seq_len:
            raise ValueError(
                f"label_len {self.label_len} is more than seq_len {self.seq_len}, but it is the end of that history"
            )
        if min(self.ratio) <= 0 or abs(sum(self.ratio) - 1) > 1e-6:
            raise ValueError(f"ratio {self.ratio}: three positive numbers that sum to 1 are needed")
        return self
