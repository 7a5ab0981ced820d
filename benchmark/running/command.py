"""The work of ``lavo-bench run``: the cells of the plan, and the short sweep beside their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmark.measuring.points import FILE_NAME
from benchmark.running import runner, workers
from benchmark.running.progress import Display
from benchmark.settings.cell import Cell
from benchmark.settings.choices import choose_attentions
from benchmark.settings.command import Run
from benchmark.settings.plan import plan_cells

Say = Callable[[str], None]


def run_plan(
    runs: Sequence[Run],
    place: runner.Place,
    console: Console,
    say: Say,
    *,
    jobs: int | None,
    rerun: bool,
    retry_failed: bool,
) -> int:
    """Runs the cells that have no record yet.  Gives the exit status: 1 where a cell has failed, else 0.

    Where torchrun started several processes, each takes its part in every cell and only the first one says anything.
    Raises ConfigError before anything is trained.
    """
    cells = plan_cells(runs, place.cache)
    waiting = runner.to_run(cells, place.output, rerun=rerun, retry_failed=retry_failed)
    together = place.processes > 1
    jobs, threads = _jobs_and_threads(place, jobs)
    place = replace(place, threads=threads)
    if place.rank:
        runner.run_together(waiting, place)
        return 0
    shared = f"; {place.processes} processes a cell" if together else ""
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them done already{shared}; records in {place.output}")
    if waiting:
        with Display(len(waiting), console) as display:
            if together:
                runner.run_together(waiting, place, display)
            else:
                workers.run_cells(waiting, place, jobs=jobs, listen=display)
    return _sum_up(cells, place.output, say)


def _jobs_and_threads(place: runner.Place, jobs: int | None) -> tuple[int, int]:
    """Cells at a time and threads of each; processes that train one cell together share the cores."""
    if place.processes > 1:
        return 1, max(1, workers.default_jobs("cpu")[0] // place.processes)
    default_jobs, threads = workers.default_jobs(place.device)
    if jobs is None:
        return default_jobs, threads
    return jobs, max(1, default_jobs * threads // jobs)


def _sum_up(cells: Sequence[Cell], output: Path, say: Say) -> int:
    """Says which cells have failed; the exit status."""
    statuses = [(cell.title, runner.status_of(cell, output)) for cell in cells]
    failed = [(title, status) for title, status in statuses if status not in ("completed", "unsupported")]
    for title, status in failed:
        say(f"{status}: {title}")
    if failed:
        say(f"{len(failed)} of {len(cells)} cells failed; --retry-failed runs them again")
    return 1 if failed else 0


def measure_once(runs: Sequence[Run], place: runner.Place, say: Say) -> None:
    """Measures the efficiency of the runs' attentions briefly, where the output folder has no such table yet."""
    from benchmark.measuring.sweep import short_sweep

    if (place.output / FILE_NAME).is_file():
        return
    names = list(dict.fromkeys(spec.name for settings, _ in runs for spec in choose_attentions(settings.attentions)))
    say(f"efficiency of {', '.join(names)} by length, on {place.device}")
    short_sweep(names, place.output, place.device)
