"""The work of ``lavo-bench run``: runs the planned cells, and measures efficiency briefly if asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmark.results import Status
from benchmark.running import logs, runner, together, workers
from benchmark.running.plans import remove_done, remove_jobs, write_plan
from benchmark.running.progress import display_on
from benchmark.settings.cell import Cell
from benchmark.settings.choices import choose_attentions
from benchmark.settings.command import Run
from benchmark.settings.messages import ConfigError
from benchmark.settings.plan import plan_cells
from benchmark.settings.tuned import read_rates

Say = Callable[[str], None]
Engine = Callable[[Sequence[Cell], runner.Place, runner.Listener, runner.Redo], None]
"""Runs these cells and returns when each has a record, or when nobody is left who could run the others."""


class Asked(NamedTuple):
    """What ``lavo-bench run`` was asked for, besides the runs.

    tuned       a folder of tuned rates; None for those that a run uses if it is told no folder
    plan_only   write the plan for ``lavo-bench work`` and train nothing
    launch      makes the engine that runs the cells of the plan in this file; None for worker processes of this command
    """

    tuned: Path | None
    jobs: int | None = None
    redo: runner.Redo = runner.NOTHING_ANEW
    plan_only: bool = False
    launch: Callable[[Path], Engine] | None = None


def run_plan(runs: Sequence[Run], place: runner.Place, console: Console, say: Say, asked: Asked) -> int:
    """Runs the cells that have no record yet.  Returns the exit status: 1 if a cell has failed, else 0.

    If torchrun started several processes, all of them work on every cell, and only the first one prints anything.
    Raises ConfigError before anything is trained, and MachineFault if the machine fails during the run.
    """
    if asked.plan_only and (place.processes > 1 or asked.redo.everything):
        raise ConfigError("--plan-only: lavo-bench work runs cells without a record; not with --rerun or torchrun")
    if asked.launch is not None and (place.processes > 1 or asked.redo.everything or asked.plan_only):
        raise ConfigError(
            "--launcher: not with --rerun, --plan-only or torchrun; its workers run cells without a record"
        )
    rates = read_rates(asked.tuned)
    cells = plan_cells(runs, place.cache, rates)
    if asked.tuned is not None and not rates.files and not place.rank:
        say(f"{asked.tuned}: holds no learning rates by `tune`, so those of the preset are used")
    if place.rank:
        return run_cells_of(cells, place, console, say, jobs=asked.jobs, redo=asked.redo)
    waiting = waiting_cells(cells, place, asked.redo)
    engine, redo = None, asked.redo
    if waiting and not redo.everything:
        if redo.failed:
            redo = redo._replace(seen=runner.attempts_that_failed(waiting, place.output))
        plan = write_plan(
            place.output, cells, runs, tuned=asked.tuned, cache=place.cache, include=place.include, retry=redo.seen
        )
        engine = None if asked.launch is None else asked.launch(plan)
    if asked.plan_only:
        say(f"{len(waiting)} of {len(cells)} cells planned; lavo-bench work {place.output} runs them")
        return 0
    status = run_cells_of(cells, place, console, say, jobs=asked.jobs, redo=redo, waiting=waiting, engine=engine)
    remove_jobs(place.output)
    return status


def waiting_cells(cells: Sequence[Cell], place: runner.Place, redo: runner.Redo) -> list[Cell]:
    """Removes what killed runs left, and returns the cells that must be run."""
    runner.clean(place.output, cells, cache=place.cache, redo=redo, lease=place.lease)
    return runner.to_run(cells, place.output, redo)


def run_cells_of(
    cells: Sequence[Cell],
    place: runner.Place,
    console: Console,
    say: Say,
    *,
    jobs: int | None,
    redo: runner.Redo,
    waiting: Sequence[Cell] | None = None,
    engine: Engine | None = None,
) -> int:
    """Runs those of these cells that must be run, says how it went, and returns the exit status.

    waiting: what ``waiting_cells`` has just returned, if the caller has asked already; each call reads all records.
    engine: what runs them; None for worker processes of this command.
    """
    if place.processes > 1:
        together.check_start(cells, place.processes)
    if place.rank:
        together.run_together(cells, place)
        return 0
    if waiting is None:
        waiting = waiting_cells(cells, place, redo)
    shared = f"; {place.processes} processes a cell" if place.processes > 1 else ""
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them done already{shared}; records in {place.output}")
    if any(cell.rate_from == "tuned" for cell in cells):
        untuned = sorted(
            {cell.title.rpartition(".")[0] for cell in cells if cell.rate_from == "preset" and not cell.unsupported}
        )
        say(f"learning rates: tuned, but for {len(untuned)} of the preset" if untuned else "learning rates: tuned")
    logs.forget_faults(place.output)
    outcomes = train(waiting, place, console, jobs=jobs, redo=redo, engine=engine, cells=cells)
    runner.remove_if_empty(place.output)
    remove_done(place.output)
    if place.log and waiting:
        say(f"curves: {place.output / logs.FOLDER}{logs.faults_in_words(place.output)}")
    return _sum_up(cells, outcomes, place.output, say)


def train(
    waiting: Sequence[Cell],
    place: runner.Place,
    console: Console,
    *,
    jobs: int | None = None,
    redo: runner.Redo = runner.NOTHING_ANEW,
    engine: Engine | None = None,
    cells: Sequence[Cell] = (),
) -> dict[str, Status]:
    """Runs these cells under a progress display.  Returns hash -> status.

    cells: all cells of the plan, which other processes that train them together with this one know by their numbers.
    """
    outcomes: dict[str, Status] = {}
    if not waiting and place.processes == 1:
        return outcomes
    with display_on(console, len(waiting)) as display:

        def listen(event: runner.Event) -> None:
            """Displays the event, and keeps the status of a cell that ended."""
            display(event)
            if event.record is not None:
                outcomes[event.cell.hash] = event.record.status

        if place.processes > 1:
            together.run_together(cells or waiting, place, waiting, listen, redo)
        elif engine is not None:
            engine(waiting, place, listen, redo)
        else:
            jobs = jobs or workers.default_jobs(place.device, max(cell.threads for cell in waiting))
            workers.run_cells(waiting, place, jobs=jobs, listen=listen, redo=redo)
    return outcomes


def train_missing(cells: Sequence[Cell], place: runner.Place, console: Console, *, jobs: int | None = None) -> None:
    """Runs those of these cells that have no record yet, or failed for another reason than that training diverged."""
    train(waiting_cells(cells, place, runner.without_result(cells, place.output)), place, console, jobs=jobs)
    runner.remove_if_empty(place.output)


def _sum_up(cells: Sequence[Cell], outcomes: Mapping[str, Status], output: Path, say: Say) -> int:
    """Prints which cells have failed.  Returns the exit status.

    outcomes: hash of a cell -> its status in this run.  It counts more than the status in the record, because a completed record
    stays when a second run of its cell fails.
    """
    statuses = [(cell.title, outcomes.get(cell.hash) or runner.status_of(cell, output)) for cell in cells]
    failed = [(title, status) for title, status in statuses if status in ("failed", "out_of_memory")]
    missing = sum(status is None for _, status in statuses)
    for title, status in failed:
        say(f"{status}: {title}")
    if failed:
        say(f"{len(failed)} of {len(cells)} cells failed; --retry-failed runs them again")
    if missing:
        say(f"{missing} of {len(cells)} cells have no record; the same command runs them")
    return 1 if failed or missing else 0


def measure_missing(runs: Sequence[Run], place: runner.Place, say: Say) -> None:
    """Measures those efficiency points of the runs' attentions that the table in the output folder lacks, or has stale."""
    from benchmark.measuring.sweep import short_sweep

    names = list(dict.fromkeys(spec.name for settings, _ in runs for spec in choose_attentions(settings.attentions)))
    short_sweep(names, place.output, place.device, say)
