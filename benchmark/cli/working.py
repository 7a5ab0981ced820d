"""The command ``lavo-bench work``: one more worker for runs that were planned."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import Cache, CellTimeout, Device, Jobs, Lease, Log, processes_together
from benchmark.cli.printing import console, say


def work(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of results with a planned run.")],
    device: Device = None,
    jobs: Jobs = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of real data on this machine, if it is elsewhere.")
    ] = None,
    cache: Cache = None,
    cell_timeout: CellTimeout = 3600.0,
    lease: Lease = 60.0,
    log: Log = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help="Only this plan, a name in .plans/ of the folder; all if it is left out."),
    ] = None,
) -> None:
    """Claims and runs cells of planned runs until none is left; any number of processes on any machines."""
    from benchmark.running import command, runner, together
    from benchmark.running.logs import kinds_in
    from benchmark.running.plans import read_plans
    from benchmark.settings.command import cache_folder, device_of, include_files
    from benchmark.settings.messages import ConfigError

    if not results.is_dir():
        raise ConfigError(f"{results}: no such folder of results")
    kinds = kinds_in(log)
    rank, processes = processes_together()
    on = device_of(device)
    # Only the first process reads the plans: another worker may remove one before the next process looks.
    plans = [] if rank else [one for path, one in read_plans(results).items() if plan in (None, path.stem)]
    if processes > 1:
        plans = together.from_first(plans, on)
    if not plans:
        if not rank:
            say(f"{results}: no planned run is left (lavo-bench run … --plan-only writes a plan)")
        raise typer.Exit(0)
    runner.probe_output(results)
    _stop_at_sigterm()
    status = 0
    for planned in plans:
        place = runner.Place(
            output=results,
            cache=cache_folder(cache or (planned.cache if planned.cache.is_dir() else None)),
            device=on,
            include=include_files(planned.include),
            cell_timeout=cell_timeout,
            lease=lease,
            rank=rank,
            processes=processes,
            log=kinds,
        )
        cells = planned.planned(place.cache, data_root)
        status = max(status, command.run_cells_of(cells, place, console(), say, jobs=jobs, redo=planned.redo))
    raise typer.Exit(status)


def _stop_at_sigterm() -> None:
    """Makes SIGTERM stop this command as Ctrl-C does, so that a scheduler that ends a job leaves no claim behind."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # as whoever started this command has set it
        signal.signal(signal.SIGTERM, signal.default_int_handler)
