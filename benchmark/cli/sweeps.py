"""The commands that sweep over lengths (``efficiency``) and over settings (``sweep``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.commands import app
from benchmark.cli.options import (
    Assignments,
    Attentions,
    Backbones,
    Cache,
    CellTimeout,
    DataRoot,
    Device,
    Include,
    Jobs,
    Limit,
    Log,
    Patterns,
    Preset,
    Records,
    RetryFailed,
    Seeds,
    Tuned,
    is_debugging,
)
from benchmark.cli.printing import console, say, say_report


@app.command()
def efficiency(
    *,
    attention: Attentions = None,
    pattern: Annotated[str, typer.Option("--pattern", help="Patterns, separated by commas.")] = "causal_self",
    lengths: Annotated[
        str, typer.Option("--lengths", help="FROM:TO in powers of two, or lengths separated by commas.")
    ] = "256:16384",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="Of an attention: forward, backward, prefill, decode; of a whole model: training, checkpointed, "
            "generation; separated by commas.",
        ),
    ] = "forward,backward",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for efficiency.csv.")] = Path(
        "results/efficiency"
    ),
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences of a batch.")] = 1,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Tokens of a batch, the same at every length; instead of --batch."),
    ] = None,
    num_heads: Annotated[int, typer.Option("--num-heads", min=1)] = 8,
    head_dim: Annotated[int, typer.Option("--head-dim", min=1)] = 64,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="An option of an attention, as lavo.window=32; may be given again."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds of a point; at least 5.")] = 7,
    budget: Annotated[float, typer.Option("--budget", min=0.1, help="Seconds a point may take.")] = 60.0,
    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="Only points that efficiency.csv lacks or has stale; exact attentions are measured with them.",
        ),
    ] = False,
    device: Device = None,
    include_path: Include = None,
) -> None:
    """Measures time and memory by length, attentions taking turns, and writes efficiency.csv."""
    import torch

    from benchmark.measuring.shape import Shape
    from benchmark.measuring.sweep import Grid, Limits, measure_to_file, parse_dtype, parse_lengths
    from benchmark.running.runner import probe_output
    from benchmark.settings.choices import choose_attentions
    from benchmark.settings.command import device_of, include_files, names_in, options_by_attention

    include_files(include_path)
    probe_output(output)
    names = [spec.name for spec in choose_attentions(names_in(attention, "--attention") or ["all"])]
    grid = Grid(names, names_in(pattern, "--pattern") or [], parse_lengths(lengths), names_in(mode, "--mode") or [])
    shape = Shape(
        batch=batch,
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=parse_dtype(dtype),
        device=torch.device(device_of(device)),
        options=options_by_attention(option or [], names),
        tokens=tokens,
    )
    limits = Limits(rounds=rounds, budget_seconds=budget)
    say(f"written: {measure_to_file(output, grid, shape, limits, say, only_missing=missing)}")


@app.command()
def sweep(
    *,
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks, or all.")],
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            help="A setting and its values, as lavo.window=16,32,64 or train.learning_rate=1e-3,3e-3; may be given again: "
            "settings are varied one at a time.",
        ),
    ],
    attention: Attentions = None,
    backbone: Backbones = None,
    pattern: Patterns = None,
    preset: Preset = None,
    seeds: Seeds = None,
    set_: Assignments = None,
    data_root: DataRoot = None,
    output: Records = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Each value has its own learning rate, from one grid on validation; else that of the default.",
        ),
    ] = False,
    grid: Annotated[
        str, typer.Option("--grid", help="For --tune: factors of the preset's learning rate, separated by commas.")
    ] = "1/3,1,3",
    device: Device = None,
    jobs: Jobs = None,
    limit: Limit = None,
    include_path: Include = None,
    retry_failed: RetryFailed = False,
    cell_timeout: CellTimeout = 3600.0,
    tuned: Tuned = None,
    report: Annotated[
        bool, typer.Option("--report", help="Afterwards write reports/<name of the output folder>.")
    ] = False,
    log: Log = None,
    cache: Cache = None,
) -> None:
    """Trains each value of a setting with the same budget, and shows how sensitive the metrics are to it."""
    from benchmark.running import runner
    from benchmark.running.logs import kinds_in
    from benchmark.running.sensitivity import Sweeper
    from benchmark.settings.command import (
        cache_folder,
        device_of,
        factors_in,
        include_files,
        names_in,
        output_of,
        runs_of,
    )
    from benchmark.settings.vary import parse_vary

    include = include_files(include_path)
    varies = [parse_vary(text) for text in vary]
    chosen = {
        "tasks": tasks,
        "attentions": names_in(attention, "--attention"),
        "backbones": names_in(backbone, "--backbone"),
        "patterns": names_in(pattern, "--pattern"),
        "preset": preset,
        "seeds": names_in(seeds, "--seeds"),
        "limit": limit,
        "data_root": data_root,
    }
    runs = runs_of(None, chosen, set_ or [])
    ((settings, overrides),) = runs
    place = runner.Place(
        output=output or output_of(runs, None),
        cache=cache_folder(cache),
        device=device_of(device),
        include=include,
        debug=is_debugging(),
        cell_timeout=cell_timeout,
        log=kinds_in(log),
    )
    runner.probe_output(place.output)
    trials = Path("results") / ".tuning" / output_of(runs, None).name
    sweeper = Sweeper(place, tuned, trials, console(), say)
    factors = factors_in(grid) if tune else None
    status = sweeper.sweep(settings, overrides, varies, jobs=jobs, retry_failed=retry_failed, grid=factors)
    if report:
        from benchmark.report import build_report

        status = max(status, say_report(build_report([place.output], Path("reports") / place.output.name)))
    raise typer.Exit(status)
