"""Makes the engine that ``--launcher`` names, which ``benchmark.running.command`` then calls in place of its own workers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmark.launching.follow import Crew, Say, follow
from benchmark.launching.options import FLAG, RayOptions, SlurmOptions, options_in
from benchmark.launching.worker import Worker
from benchmark.running.command import Engine
from benchmark.running.runner import Listener, Place, Redo
from benchmark.settings.cell import Cell
from benchmark.settings.messages import ConfigError

LOCAL, SLURM, RAY = "local", "slurm", "ray"
_PACKAGES = {SLURM: "submitit", RAY: "ray"}


class Wanted(NamedTuple):
    """What the command line asks of a launcher.

    workers   how many; None for one, or with Ray for one on each node
    options   texts key=value
    jobs      cells at a time in each worker; None for what fits its CPUs or GPUs
    device    of each worker; None for the GPU where there is one, else the CPU
    """

    launcher: str
    workers: int | None = None
    options: Sequence[str] = ()
    jobs: int | None = None
    device: str | None = None


def launch_of(wanted: Wanted, say: Say) -> Callable[[Path], Engine] | None:
    """Returns what makes the engine for a plan; None for local workers.  Raises ConfigError, before anything is started."""
    if wanted.launcher == LOCAL:
        if wanted.workers is not None or wanted.options:
            flag = FLAG if wanted.workers is None else "--workers"
            raise ConfigError(f"{flag}: for --launcher slurm or ray; --jobs says how many cells run at a time here")
        return None
    package = _PACKAGES[wanted.launcher]
    options = options_in(SlurmOptions if wanted.launcher == SLURM else RayOptions, wanted.options)
    if isinstance(options, SlurmOptions):
        from benchmark.launching.slurm import check

        check(options)
    else:
        options = options.for_workers(wanted.workers)
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"--launcher {wanted.launcher}: {package} is not installed: pip install 'lavo-bench[{wanted.launcher}]'"
        )
    return lambda plan: partial(_run, wanted, options, say, plan)


def _run(
    wanted: Wanted,
    options: SlurmOptions | RayOptions,
    say: Say,
    plan: Path,
    cells: Sequence[Cell],
    place: Place,
    listen: Listener,
    redo: Redo,
) -> None:
    """Runs the cells of a plan; an ``Engine`` once the first four arguments are given."""
    most = len(cells)

    def start(folder: Path) -> Crew:
        worker = Worker(_arguments(wanted, options, plan, cells, place), folder)
        workers = None if wanted.workers is None else min(wanted.workers, most)
        if isinstance(options, SlurmOptions):
            from benchmark.launching.slurm import submit

            return submit(worker, workers or 1, options)
        from benchmark.launching.ray_tasks import RayCrew

        return RayCrew(worker, workers, options)

    follow(cells, place, listen, redo, say, start=start)


def _arguments(
    wanted: Wanted, options: SlurmOptions | RayOptions, plan: Path, cells: Sequence[Cell], place: Place
) -> list[str]:
    """Returns the arguments of ``lavo-bench`` for a worker."""
    arguments = ["work", str(place.output.resolve()), "--plan", plan.stem]
    arguments += ["--cell-timeout", str(place.cell_timeout), "--lease", str(place.lease)]
    if place.log:
        arguments += ["--log", ",".join(place.log)]
    if place.debug:
        arguments.append("--debug")
    if wanted.device is not None:
        arguments += ["--device", wanted.device]
    jobs = wanted.jobs
    if jobs is None and options.cpus is not None and not options.gpus and not str(wanted.device).startswith("cuda"):
        # Where a job isn't bound to its CPUs, a worker would take all those of the machine.
        jobs = max(1, options.cpus // max(cell.threads for cell in cells))
    return arguments if jobs is None else [*arguments, "--jobs", str(jobs)]
