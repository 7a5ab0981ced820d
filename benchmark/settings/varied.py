"""The file ``sweeps.json`` in a folder of records: which of them belong to a sweep over a setting, and what was varied in it.

The records themselves are ordinary ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from benchmark.files import only_process, write_bytes
from benchmark.settings.base import Settings

FILE_NAME = "sweeps.json"


class VariedCells(Settings):
    """The cells of one attention at one value: one for each seed."""

    attention: str
    value: Any
    is_default: bool = False  # True for the settings without the sweep
    hashes: tuple[str, ...] = Field(min_length=1)


class Varied(Settings):
    """One setting that was varied at one site."""

    task: str
    backbone: str
    pattern: str
    preset: str
    key: str  # as lavo.window or train.learning_rate
    rates: Literal["default", "each", "varied"]  # each value has the rate of the default, its own, or is the rate
    varied: tuple[VariedCells, ...]
    references: tuple[VariedCells, ...]  # softmax and none at their defaults, where they are not varied themselves

    @property
    def place(self) -> tuple[str, ...]:
        """What two entries about the same thing have in common."""
        return self.task, self.backbone, self.pattern, self.preset, self.key

    @property
    def defaults(self) -> set[str]:
        """The hashes of the cells without the sweep."""
        own = {one for cells in self.varied if cells.is_default for one in cells.hashes}
        return own | {one for cells in self.references for one in cells.hashes}


def varied_files(directories: Iterable[Path]) -> list[Path]:
    """Returns the paths of the files that exist in these folders and say what was varied."""
    return [directory / FILE_NAME for directory in directories if (directory / FILE_NAME).is_file()]


def read_varied(directory: Path) -> list[Varied]:
    """Returns what was varied in this folder; nothing if it has no such file.  Raises ValueError for a damaged file."""
    path = directory / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError("a list is wanted")
        return [Varied.model_validate(one) for one in content]
    except FileNotFoundError:
        return []
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])[:80]
        raise ValueError(f"{path}: not a list of sweeps: {where}: {fault['msg'][:100]}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a list of sweeps: {str(error)[:100]}") from None


def add_varied(directory: Path, found: Sequence[Varied]) -> None:
    """Adds sweeps to the file.  Values of an earlier sweep over the same setting stay, if its default was the same cells."""
    directory.mkdir(parents=True, exist_ok=True)
    with only_process(directory):
        known = {one.place: one for one in read_varied(directory)}
        for one in found:
            before = known.get(one.place)
            same = before is not None and before.rates == one.rates and bool(before.defaults & one.defaults)
            known[one.place] = _joined(before, one) if before is not None and same else one
        content = [one.model_dump(mode="json") for one in known.values()]
        write_bytes(directory / FILE_NAME, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _joined(before: Varied, now: Varied) -> Varied:
    """Returns one entry with the cells of both, each value of an attention once; the later one counts."""

    def merged(*parts: Iterable[VariedCells]) -> tuple[VariedCells, ...]:
        cells = {(one.attention, json.dumps(one.value), one.is_default): one for part in parts for one in part}
        return tuple(cells.values())

    return now.model_copy(
        update={
            "varied": merged(before.varied, now.varied),
            "references": merged(before.references, now.references),
        }
    )


def only_varied(found: Iterable[Varied]) -> set[str]:
    """Returns the hashes of cells that belong to a sweep alone, and not to the tables of the defaults."""
    found = list(found)
    every = {one for varied in found for cells in varied.varied for one in cells.hashes}
    return every - {one for varied in found for one in varied.defaults}
