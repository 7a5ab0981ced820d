"""``benchmark.run``: plans and runs cells as ``lavo-bench run`` does, and returns their records as a table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.settings.command import Run, cache_folder, device_of, include_files, names_in, run_settings
from benchmark.settings.messages import ConfigError, one_line
from benchmark.settings.models import Override

if TYPE_CHECKING:
    import pandas as pd

Names = str | Sequence[str] | None
Folder = str | Path | None


def run(
    tasks: str | Sequence[str],
    attentions: str | type | Sequence[str | type | Mapping[str, Any]] = "all",
    *,
    preset: str = "quick",
    backbones: Names = None,
    patterns: Names = None,
    seeds: int | Sequence[int] | None = None,
    set: Mapping[str, Any] | None = None,
    limit: int | None = None,
    data_root: Folder = None,
    output: Folder = None,
    device: str | None = None,
    jobs: int | None = None,
    include_path: Folder | Sequence[str | Path] = None,
    rerun: bool = False,
    retry_failed: bool = False,
    cell_timeout: float = 3600.0,
    tuned: Folder = None,
    cache: Folder = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains and evaluates attentions, and returns one row for each cell, as ``benchmark.results.load`` does.

    A cell is one attention in one backbone, pattern and seed.  A cell whose record is in the output folder is not run again.
    Cells that fail are rows too: ``status`` and ``reason`` say why.

    tasks         a task, several, or "all"
    attentions    names; classes, which are copied into ``sources/`` of the output folder and named in snake case; or mappings
                  with ``name``, ``label`` and ``options``
    set           settings that replace those of the preset, as {"train.steps": 100, "attentions.lavo.window": 32}
    output        folder of records; results/<preset> if it is None
    include_path  Python files that register attentions
    progress      whether to show the progress, on a terminal or in a notebook

    The other options are those of ``lavo-bench run``.  Raises UsageError, in one line, if the options or a class are wrong.
    """
    from benchmark import results
    from benchmark.api.classes import by_name
    from benchmark.api.status import console_of
    from benchmark.running import command, runner
    from benchmark.settings.plan import plan_cells
    from benchmark.settings.tuned import read_rates

    with as_usage_errors():
        chosen = {
            "tasks": listed(tasks, "tasks"),
            "backbones": listed(backbones, "--backbone"),
            "patterns": listed(patterns, "--pattern"),
            "preset": preset,
            "seeds": [seeds] if isinstance(seeds, int) else seeds,
            "limit": limit,
            "data_root": None if data_root is None else Path(data_root),
        }
        given = {key: list(value) if isinstance(value, tuple | range) else value for key, value in chosen.items()}
        given = {key: value for key, value in given.items() if value is not None}
        run_settings(given)  # so that a mistake is found before anything is written
        folder = Path(output) if output is not None else Path("results") / preset
        runner.probe_output(folder)
        include = include_files(paths_of(include_path))
        several = [attentions] if isinstance(attentions, type) else attentions
        named = by_name(listed(several, "attentions") or [], folder)
        overrides = [Override(key, value, f"set {key}={value!r:.80}") for key, value in (set or {}).items()]
        runs: list[Run] = [(run_settings({**given, "attentions": named.attentions}), overrides)]
        place = runner.Place(
            output=folder,
            cache=cache_folder(None if cache is None else Path(cache)),
            device=device_of(device),
            include=(*include, *named.files),
            cell_timeout=cell_timeout,
        )
        cells = plan_cells(runs, place.cache, read_rates(None if tuned is None else Path(tuned)))
        console = console_of(progress)

        say = print if progress else lambda _: None
        redo = runner.Redo(failed=retry_failed, everything=rerun)
        command.run_cells_of(cells, place, console, say, jobs=jobs, redo=redo)
    paths = [cell.path(folder) for cell in cells]
    return results.as_table(results.read_record(path) for path in paths if path.is_file())


def listed(values: Any, flag: str) -> list[Any] | None:
    """Returns a list of names; a text is divided at its commas, as on the command line.  None stays None."""
    if values is None or isinstance(values, str):
        return names_in(values, flag)
    return list(values)


def paths_of(paths: Folder | Sequence[str | Path]) -> list[Path]:
    """Returns one path, several or none as a list."""
    if paths is None:
        return []
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


@contextmanager
def as_usage_errors() -> Iterator[None]:
    """Raises every ValueError of the block as a UsageError with the one line that the command line would print.

    A library that is imported in the block warns in notebooks that its own progress bars lack widgets; nobody sees those bars.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    except ValueError as error:
        raise ConfigError(one_line(str(error))) from None
