"""Makes ``lstf/electricity.csv`` from the numbers that Lai et al. publish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

ELECTRICITY = "electricity.txt.gz"
FIRST_HOUR = np.datetime64("2012-01-01T00", "h")  # the source: 2012 to 2014, hourly; the file itself has no dates


def electricity(inputs: Mapping[str, Path], made: Path) -> None:
    """The same numbers with a header and the hours of 2012 to 2014.  Raises ValueError for lines of unequal length."""
    source = inputs[ELECTRICITY] / "electricity.txt"
    target = made / "lstf" / "electricity.csv"
    target.parent.mkdir()
    with source.open(encoding="ascii") as lines, target.open("w", encoding="ascii", newline="\n") as table:
        num_columns = 0
        for number, line in enumerate(lines):
            cells = line.strip().split(",")
            if not number:
                num_columns = len(cells)
                table.write(",".join(["date", *(f"c{i + 1}" for i in range(num_columns))]) + "\n")
            if len(cells) != num_columns:
                raise ValueError(
                    f"electricity.txt, line {number + 1}: {len(cells)} numbers, the first line has {num_columns}"
                )
            table.write(",".join([str(FIRST_HOUR + number).replace("T", " ") + ":00:00", *cells]) + "\n")
