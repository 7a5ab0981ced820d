"""Plans of runs in a folder of results, from which ``lavo-bench work`` learns what to run.

``lavo-bench run`` writes its plan, ``.plans/DIGEST.json``, before it trains, and removes it when every cell has a record.  A plan holds
what the command asked for, not the cells: a worker plans them again, by its own code and from its own data, and refuses to work if
other cells come out.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmark.files import names_in, write_bytes
from benchmark.results import read_record, record_files
from benchmark.running.publish import attempt_of
from benchmark.running.runner import Redo
from benchmark.settings import Settings
from benchmark.settings.cell import Cell
from benchmark.settings.command import Run
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.models import Override, RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.tuned import read_rates

JOBS = ".jobs"  # in the folder of results: what workers print that ``--launcher`` starts, a folder for each launch
FOLDER = ".plans"  # in the folder of results; plans hold paths of a machine, so they aren't published


class PlannedRun(Settings):
    """One run of a plan: the fields of ``RunSettings``, and overrides (key, value, origin)."""

    settings: dict[str, Any]
    overrides: list[tuple[str, Any, str]] = []


class Plan(Settings):
    """What a command asked for.  Paths are those of the machine on which it was planned."""

    runs: list[PlannedRun]
    tuned: Path | None = None  # None for the rates that a run uses if it is told no folder
    cache: Path
    include: list[Path] = []  # files that register attentions
    retry: dict[str, str] | None = None  # of ``--retry-failed``: ``Redo.seen``
    cells: list[str] = Field(min_length=1)  # hashes

    @property
    def redo(self) -> Redo:
        """Which cells with a record are run again."""
        return Redo(failed=self.retry is not None, seen=self.retry)

    def planned(self, cache: Path, data_root: Path | None = None) -> list[Cell]:
        """Plans the cells again.  data_root: where this machine has the real data, if it is elsewhere.

        Raises ConfigError if the cells aren't those of the plan, because code or data differ.
        """
        runs: list[Run] = []
        for run in self.runs:
            values = dict(run.settings)
            if data_root is not None and values.get("data_root"):
                values["data_root"] = data_root
            settings = validate(RunSettings, values, lambda _: "settings")
            runs.append((settings, [Override(*one) for one in run.overrides]))
        cells = plan_cells(runs, cache, read_rates(self.tuned))
        missing = set(self.cells) - {cell.hash for cell in cells}
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(self.cells)} cells have another hash here, so this machine's code, tuned rates or data "
                "differ from those with which the run was planned"
            )
        return [cell for cell in cells if cell.hash in self.cells]


def write_plan(
    output: Path,
    cells: Sequence[Cell],
    runs: Sequence[Run],
    *,
    tuned: Path | None,
    cache: Path,
    include: Sequence[Path],
    retry: Mapping[str, str] | None,
) -> Path:
    """Writes the plan of a run into the folder of results, and returns its path.

    retry: of ``--retry-failed``, what ``attempts_that_failed`` returned; else None.
    """
    plan = Plan(
        runs=[PlannedRun(settings=_stored(settings), overrides=[tuple(one) for one in own]) for settings, own in runs],
        tuned=None if tuned is None else tuned.resolve(),
        cache=cache.resolve(),
        include=list(include),
        retry=None if retry is None else dict(retry),
        cells=sorted(cell.hash for cell in cells),
    )
    text = plan.model_dump_json(indent=1)
    path = output / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_bytes(path, text.encode())
    return path


def _stored(settings: RunSettings) -> dict[str, Any]:
    """Returns the settings of a run as a plan holds them: workers may be started in other folders, so places are absolute."""
    stored = settings.model_dump(mode="json", exclude_unset=True)
    if settings.data_root is not None:
        stored["data_root"] = str(settings.data_root.resolve())
    return stored


def plan_files(output: Path) -> list[Path]:
    """Returns the files of plans in a folder of results, in order."""
    return [output / FOLDER / name for name in names_in(output / FOLDER) if name.endswith(".json")]


def read_plan(path: Path) -> Plan | None:
    """Returns the plan in this file, or None if another worker has just removed it.

    Raises ConfigError, without the name of the file, for one that is damaged or can't be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a plan: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError("not a plan: a JSON object is wanted")
    plan: Plan = validate(Plan, content, lambda _: "not a plan")
    return plan


def remove_done(output: Path) -> None:
    """Removes the plans whose cells all have the record that was asked for, and the folder of plans if none is left."""
    recorded = {path.name.split(".")[-2]: path for path in record_files(output)}
    for path in plan_files(output):
        with suppress(ConfigError):  # one that can't be read stays, and ``lavo-bench work`` tells of it
            plan = read_plan(path)
            if plan is not None and _is_done(plan, recorded):
                path.unlink(missing_ok=True)
    with suppress(OSError):
        (output / FOLDER).rmdir()


def remove_jobs(output: Path) -> None:
    """Removes what workers have printed, if nothing is planned any more."""
    if not (output / FOLDER).exists():
        shutil.rmtree(output / JOBS, ignore_errors=True)


def _is_done(plan: Plan, recorded: Mapping[str, Path]) -> bool:
    """Returns whether no cell of the plan is left to run.  recorded: hash of a cell -> the file of its record."""
    return recorded.keys() >= set(plan.cells) and not any(
        _is_attempt(recorded[cell], attempt) for cell, attempt in (plan.retry or {}).items() if cell in recorded
    )


def _is_attempt(path: Path, attempt: str) -> bool:
    """Returns whether the record in this file is still the one of this attempt."""
    try:
        return attempt_of(read_record(path)) == attempt
    except (OSError, ValueError):
        return False
