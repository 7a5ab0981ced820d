"""Where the series comes from: a file of the data root, any other file, or one of the embedded series."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from benchmark.settings.messages import shortened
from tasks.folders import files_in
from tasks.forecasting.rivers import COLUMNS, make_rivers
from tasks.forecasting.series import Series, check_known, parse_step, read_series
from tasks.forecasting.settings import DataSettings
from tasks.forecasting.synthetic import HOUR, START, make_series

DEFAULT_FILE = "ETTh1.csv"  # of a data root that has it


def load_series(settings: DataSettings, data_root: Path | None) -> tuple[Series, str, bool]:
    """The series, its name, and whether it is an embedded one.

    Raises ValueError, in one line, for a file that can't be used, and for a data root whose series is not clear.
    """
    if settings.file is None and data_root is None:
        return _embedded(settings), "embedded", True
    path, label = _find(settings.file or default_file(data_root), data_root)
    series = read_series(
        path,
        label=label,
        date=settings.date,
        date_format=settings.date_format,
        columns=settings.columns,
        step=parse_step(settings.step) if settings.step else None,
        missing=settings.missing,
        duplicates=settings.duplicates,
    )
    name = path.name[:-3] if path.suffix.lower() == ".gz" else path.name
    return series, name.rsplit(".", 1)[0], False


def default_file(data_root: Path | None) -> str:
    """The file that is read where ``data.file`` is not given: ETTh1.csv, or else the only series in ``lstf/`` of the root.

    Raises ValueError if ETTh1.csv is not there and several other series are.
    """
    if data_root is None or (data_root / "lstf" / DEFAULT_FILE).exists() or not (data_root / "lstf").is_dir():
        return DEFAULT_FILE
    names = [path.name for path in files_in(data_root / "lstf") if _is_series(path)]
    if len(names) > 1:
        raise ValueError(
            f"lstf/: has no {DEFAULT_FILE} but several other series; choose one with data.file: "
            f"{shortened(', '.join(names), 160)}"
        )
    return names[0] if names else DEFAULT_FILE


def _is_series(path: Path) -> bool:
    """True for .csv, and for .txt whose first line is numbers; a licence may lie beside the series as .txt."""
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path).suffix.lower()
    if suffix != ".txt":
        return suffix == ".csv"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            for cell in file.readline(65_536).split(b","):
                float(cell)
    except (OSError, EOFError, zlib.error, ValueError):
        return False
    return True


def _embedded(settings: DataSettings) -> Series:
    """The embedded series, or the columns of it that the settings name."""
    if (
        settings.date != "date"
        or settings.date_format is not None
        or (settings.step and parse_step(settings.step) != HOUR)
    ):
        raise ValueError(
            "data.date, data.date_format and data.step are for a file: the embedded series has an hour a row; "
            "give data.file or a data root"
        )
    if settings.name == "rivers":
        values, columns = make_rivers(settings.num_rows, settings.seed), COLUMNS
    else:
        values = make_series(settings.num_rows, settings.num_columns, settings.seed)
        columns = (*(f"c{i + 1}" for i in range(values.shape[1] - 1)), "target")
    if settings.columns is not None:
        check_known("data.columns: the embedded series", settings.columns, columns)
        values = values[:, [columns.index(name) for name in settings.columns]]
        columns = settings.columns
    fingerprint = hashlib.sha256(values.tobytes()).hexdigest()
    return Series(values, START + HOUR * np.arange(len(values)), columns, HOUR, fingerprint, {})


def _find(file: str, data_root: Path | None) -> tuple[Path, str]:
    """The file in lstf/ of the data root if it exists there, else the path itself; and its name in messages."""
    path = Path(file)
    if data_root is None or path.is_absolute():
        return path, path.name
    inside = data_root / "lstf" / path
    if inside.exists() or not path.exists():
        return inside, f"lstf/{path.as_posix()}"
    return path, path.name
