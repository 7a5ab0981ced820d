"""The command ``lavo-bench work``: one more worker for runs that were planned."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import (
    CELL_TIMEOUT,
    LEASE,
    Cache,
    CellTimeout,
    Device,
    Jobs,
    Lease,
    Log,
    is_debugging,
    processes_together,
)
from benchmark.cli.printing import console, say, say_fault


def work(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of results with a planned run.")],
    device: Device = None,
    jobs: Jobs = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of real data on this machine, if it is elsewhere.")
    ] = None,
    cache: Cache = None,
    cell_timeout: CellTimeout = CELL_TIMEOUT,
    lease: Lease = LEASE,
    log: Log = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help="Only this plan, a name in .plans/ of the folder; all if it is left out."),
    ] = None,
) -> None:
    """Claims and runs cells of planned runs until none is left; any number of processes on any machines."""
    from benchmark.running import command, runner, together
    from benchmark.running.logs import kinds_in
    from benchmark.running.plans import plan_files, read_plan
    from benchmark.settings.command import cache_folder, device_of, include_files
    from benchmark.settings.messages import ConfigError

    if not results.is_dir():
        raise ConfigError(f"{results}: no such folder of results")
    kinds, on = kinds_in(log), device_of(device)
    own_cache = None if cache is None else cache_folder(cache)
    rank, processes = processes_together(jobs)
    plans, status = [], 0
    # Only the first process reads the plans: another worker may remove one before the next process looks.
    for path in [] if rank else plan_files(results):
        try:
            if plan in (None, path.stem) and (one := read_plan(path)) is not None:
                plans.append((path, one))
        except ValueError as error:  # a fault of this plan, which must not keep the others from being run
            status = _tell(path, error)
    if processes > 1:
        plans, status = together.from_first((plans, status), on)
    if not plans:
        if not rank and not status:
            say(f"{results}: no planned run is left (lavo-bench run … --plan-only writes a plan)")
        raise typer.Exit(status)
    runner.probe_output(results)
    _stop_at_sigterm()
    for path, planned in plans:
        try:
            place = runner.Place(
                output=results,
                cache=own_cache or cache_folder(planned.cache if planned.cache.is_dir() else None),
                device=on,
                include=include_files(planned.include),
                debug=is_debugging(),
                cell_timeout=cell_timeout,
                lease=lease,
                rank=rank,
                processes=processes,
                log=kinds,
            )
            cells = planned.planned(place.cache, data_root)
        except ValueError as error:
            if (
                processes > 1
            ):  # the launcher ends the other processes, which may have planned it and would wait for this one
                raise ConfigError(f"{path}: {error}") from None
            status = _tell(path, error)
            continue
        status = max(status, command.run_cells_of(cells, place, console(), say, jobs=jobs, redo=planned.redo))
    raise typer.Exit(status)


def _tell(path: Path, error: ValueError) -> int:
    """Says what is wrong with a plan.  Returns the exit status."""
    say_fault(f"{path}: {error}; delete this file if that run isn't wanted any more")
    return 2


def _stop_at_sigterm() -> None:
    """Makes SIGTERM stop this command as Ctrl-C does, so that a scheduler that ends a job leaves no claim behind."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # as whoever started this command has set it
        signal.signal(signal.SIGTERM, signal.default_int_handler)
