"""The options that several commands share."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

CELL_TIMEOUT, LEASE = 3600.0, 60.0  # seconds, if the options are left out

Attentions = Annotated[str | None, typer.Option("-a", "--attention", help="Names separated by commas, or all.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="LAVO_BENCH_DATA",
        help="Folder of real data (lm/, lstf/, …); embedded data if it is left out.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", envvar="LAVO_BENCH_CACHE", help="Folder for tokenised data.", show_default=False),
]
Include = Annotated[
    list[Path] | None, typer.Option("--include-path", help="Python file that registers attentions; may be given again.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="key=value, as train.steps=100, forecasting.data.pred_len=48 or attentions.lavo.window=32; "
        "may be given again.",
    ),
]
Preset = Annotated[str | None, typer.Option("--preset", help="smoke, quick, small, gpu or paper.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; if it is left out, the GPU where there is one, else the CPU."),
]

Backbones = Annotated[str | None, typer.Option("--backbone", help="Backbones, separated by commas.")]
Patterns = Annotated[
    str | None,
    typer.Option("--pattern", help="Patterns, separated by commas; every replaces all attentions of a backbone."),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="As 0,1,2; those of the preset if it is left out.")]
Records = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder of records; results/<preset> if it is left out.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Validate and test on the first N examples only.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Cells at a time; one for each core or GPU if it is left out.")
]
CellTimeout = Annotated[
    float,
    typer.Option("--cell-timeout", min=1, help="Seconds without progress after which a cell is ended as failed."),
]
Lease = Annotated[
    float,
    typer.Option(
        "--lease", min=1, help="Seconds without a sign of life after which other processes may take over a cell."
    ),
]
Tuned = Annotated[
    Path | None,
    typer.Option(
        "--tuned",
        help="Folder of tuned learning rates; if it is left out, configs/tuned of the repository or of the package.",
    ),
]
Log = Annotated[
    str | None,
    typer.Option(
        "--log",
        help="Also write training curves to logs/ in the folder of records: tensorboard, trackio, or both with a comma.",
    ),
]


class Launcher(StrEnum):
    """Who starts the workers of ``run``."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


Launchers = Annotated[
    Launcher,
    typer.Option("--launcher", help="Who starts the workers: this command, SLURM or Ray (docs/cluster.md)."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Workers of a launcher; one if it is left out, or with Ray one on each node."
    ),
]
LauncherOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--launcher-option",
        help="key=value, as partition=gpu, gpus=1 or time=240 (minutes) for SLURM; may be given again.",
    ),
]


def refuse_with_plan_only(given: list[str]) -> None:
    """Raises ConfigError if options were given that a plan doesn't hold, because they say how cells are run, or what comes afterwards."""
    from benchmark.settings.messages import ConfigError

    if given:
        raise ConfigError(
            f"--plan-only: not with {', '.join(given)}; a plan says which cells are run, and lavo-bench work is told how"
        )


def processes_together(jobs: int | None = None) -> tuple[int, int]:
    """Returns this process's rank and the number of processes; (0, 1) unless a launcher, such as torchrun, started several to train a cell.

    jobs: of ``--jobs``.  Raises ConfigError if the launcher's variables don't fit together, or if --jobs is given with several processes.
    """
    from benchmark.settings.messages import ConfigError

    processes = _launchers_number("WORLD_SIZE", 1)
    if processes <= 1:
        return 0, 1
    rank = _launchers_number("RANK", -1)
    if not 0 <= rank < processes:
        raise ConfigError(
            f"WORLD_SIZE={processes} with RANK={os.environ.get('RANK', '')}: a rank from 0 to {processes - 1} is wanted; torchrun and "
            "accelerate launch set both; unset WORLD_SIZE if this process is alone"
        )
    if jobs is not None:
        raise ConfigError("--jobs: not with torchrun, whose processes train one cell at a time together")
    return rank, processes


def _launchers_number(name: str, default: int) -> int:
    from benchmark.settings.messages import ConfigError, shown

    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={shown(text)}: not a number; torchrun and accelerate launch set it") from None


def is_debugging() -> bool:
    """Returns whether the command line has ``--debug``, wherever in it."""
    return "--debug" in sys.argv
