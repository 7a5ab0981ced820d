"""The commands of ``lavo-bench``: parse, call, print.  Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.bare import version_line
from benchmark.cli.options import (
    CELL_TIMEOUT,
    LEASE,
    Assignments,
    Attentions,
    Backbones,
    Cache,
    CellTimeout,
    DataRoot,
    Device,
    Include,
    Jobs,
    Launcher,
    LauncherOptions,
    Launchers,
    Lease,
    Limit,
    Log,
    Patterns,
    Preset,
    Records,
    RetryFailed,
    Seeds,
    Tuned,
    Workers,
    is_debugging,
    processes_together,
    refuse_with_plan_only,
)
from benchmark.cli.preparing import data, prepare
from benchmark.cli.printing import console, progress, report_progress, say, say_left_out, say_report
from benchmark.cli.working import work

app = typer.Typer(
    name="lavo-bench",
    help="Trains, measures and compares LAVO and other attentions under the same rules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(work)

app.command()(prepare)
app.add_typer(data, name="data")


class Kind(StrEnum):
    """What ``list`` can list."""

    tasks = "tasks"
    attentions = "attentions"
    presets = "presets"
    results = "results"
    sites = "sites"


def _show_version(wanted: bool) -> None:
    if wanted:
        say(version_line())
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Takes the options that all commands share; ``main`` reads ``--debug`` itself, from anywhere in the command line."""


@app.command("list")
def list_(
    kind: Annotated[
        Kind | None, typer.Argument(help="What to list; all but results and sites if it is left out.")
    ] = None,
    directory: Annotated[Path, typer.Option("-o", help="Folder of results.")] = Path("results"),
    include_path: Include = None,
) -> None:
    """Lists tasks, attentions with the patterns they support, presets, results, or sites with their verdicts."""
    from benchmark.report import listing
    from benchmark.settings.command import include_files

    include_files(include_path)
    damaged: list[str] = []
    tables = {
        Kind.tasks: listing.tasks,
        Kind.attentions: listing.attentions,
        Kind.presets: listing.presets,
        Kind.results: lambda: listing.results(directory, damaged=damaged.append),
        Kind.sites: lambda: listing.sites(directory, damaged=damaged.append),
    }
    for wanted in [kind] if kind else [Kind.tasks, Kind.attentions, Kind.presets]:
        console().print(tables[wanted]())
    raise typer.Exit(say_left_out(damaged))


@app.command()
def run(
    *,
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="Tasks, or all.")] = None,
    attention: Attentions = None,
    backbone: Backbones = None,
    pattern: Patterns = None,
    preset: Preset = None,
    seeds: Seeds = None,
    set_: Assignments = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML file of runs, as configs/ablations.yaml.")
    ] = None,
    data_root: DataRoot = None,
    output: Records = None,
    device: Device = None,
    jobs: Jobs = None,
    launcher: Launchers = Launcher.local,
    workers: Workers = None,
    launcher_option: LauncherOptions = None,
    limit: Limit = None,
    include_path: Include = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run finished cells again.")] = False,
    retry_failed: RetryFailed = False,
    cell_timeout: CellTimeout = CELL_TIMEOUT,
    lease: Lease = LEASE,
    tuned: Tuned = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Write the plan for lavo-bench work, and train nothing.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Afterwards measure what efficiency.csv lacks and write reports/<name of the output folder>.",
        ),
    ] = False,
    log: Log = None,
    cache: Cache = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", hidden=True)] = False,
) -> None:
    """Trains and evaluates cells (one attention in one backbone, pattern and seed); finished ones are not run again."""
    from benchmark.launching.engines import Wanted, launch_of
    from benchmark.running import command, runner
    from benchmark.running.logs import kinds_in
    from benchmark.settings.command import cache_folder, device_of, include_files, names_in, output_of, runs_of

    launch = launch_of(Wanted(launcher, workers, launcher_option or (), jobs, device), say)
    include = include_files(include_path)
    chosen = {
        "tasks": tasks or None,
        "attentions": names_in(attention, "--attention"),
        "backbones": names_in(backbone, "--backbone"),
        "patterns": names_in(pattern, "--pattern"),
        "preset": preset,
        "seeds": names_in(seeds, "--seeds"),
        "limit": limit,
        "data_root": data_root,
    }
    runs = runs_of(config, chosen, set_ or [])
    rank, processes = processes_together(jobs)
    if plan_only:
        given = {"--device": device is not None, "--jobs": jobs is not None, "--log": log is not None}
        given |= {"--cell-timeout": cell_timeout != CELL_TIMEOUT, "--lease": lease != LEASE, "--report": report}
        refuse_with_plan_only([name for name, is_given in given.items() if is_given])
    place = runner.Place(
        output=output or output_of(runs, config),
        cache=cache_folder(cache),
        device=device_of(device, here=launch is None or report),  # a report measures here
        include=include,
        debug=debug or is_debugging(),
        cell_timeout=cell_timeout,
        lease=lease,
        rank=rank,
        processes=processes,
        log=kinds_in(log),
    )
    runner.probe_output(place.output)
    redo = runner.Redo(failed=retry_failed, everything=rerun)
    asked = command.Asked(tuned=tuned, jobs=jobs, redo=redo, plan_only=plan_only, launch=launch)
    status = command.run_plan(runs, place, console(), say, asked)
    if report and rank == 0 and not plan_only:
        from benchmark.report import build_report

        command.measure_missing(runs, place, say)
        with report_progress():
            built = build_report([place.output], Path("reports") / place.output.name)
        status = max(status, say_report(built))
    raise typer.Exit(status)


@app.command()
def tune(
    *,
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="Tasks, or all.")] = None,
    attention: Attentions = None,
    backbone: Backbones = None,
    pattern: Patterns = None,
    preset: Preset = None,
    set_: Assignments = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="YAML file of runs.")] = None,
    data_root: DataRoot = None,
    grid: Annotated[
        str, typer.Option("--grid", help="Factors of the preset's learning rate, separated by commas.")
    ] = "1/3,1,3",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Instead, train softmax and none at each site for twice the steps, for the site cards."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of trials; results/.tuning/<preset> if it is left out."),
    ] = None,
    tuned: Tuned = None,
    device: Device = None,
    jobs: Jobs = None,
    include_path: Include = None,
    cell_timeout: CellTimeout = 3600.0,
    cache: Cache = None,
) -> None:
    """Chooses the learning rate of each attention on validation data, from one grid for all; trials are not repeated."""
    from benchmark.interface import NOTHING, REFERENCE
    from benchmark.running import command, runner
    from benchmark.running.tune import Tuner
    from benchmark.settings.command import (
        cache_folder,
        device_of,
        factors_in,
        include_files,
        names_in,
        output_of,
        runs_of,
    )
    from benchmark.settings.tuned import read_rates, writing_folder

    include = include_files(include_path)
    chosen = {
        "tasks": tasks or None,
        "attentions": [REFERENCE, NOTHING] if verify else names_in(attention, "--attention"),
        "backbones": names_in(backbone, "--backbone"),
        "patterns": names_in(pattern, "--pattern"),
        "preset": preset,
        "data_root": data_root,
    }
    runs = runs_of(config, chosen, set_ or [])
    factors = factors_in(grid)
    trials = output or Path("results") / ".tuning" / output_of(runs, config).name
    place = runner.Place(
        output=trials,
        cache=cache_folder(cache),
        device=device_of(device),
        include=include,
        debug=is_debugging(),
        cell_timeout=cell_timeout,
        part="validation",
    )
    runner.probe_output(place.output)
    folder = tuned or writing_folder()
    tuner = Tuner(place, folder, lambda cells: command.train_missing(cells, place, console(), jobs=jobs), say)
    status = tuner.verify(runs, read_rates(tuned)) if verify else tuner.tune(runs, factors)
    say(f"written: {folder}")
    raise typer.Exit(status)


@app.command()
def check(
    attention: Annotated[str, typer.Argument(metavar="ATTENTION", help="Name of an attention, or all.")],
    pattern: Annotated[str | None, typer.Option("--pattern", help="Patterns, separated by commas.")] = None,
    include_path: Include = None,
) -> None:
    """Checks whether an attention is the function that it says it is, and shows what it can be used for."""
    from benchmark.checking.conformance import check_attention, num_checks
    from benchmark.checking.verdict import consequence, is_contract, sentence
    from benchmark.registry import attention_names, check_pattern
    from benchmark.report import listing
    from benchmark.settings.command import include_files, names_in

    include_files(include_path)
    patterns = names_in(pattern, "--pattern")
    for name in patterns or []:
        check_pattern(name)
    failures = 0
    for name in attention_names() if attention == "all" else [attention]:
        with progress(f"checking {name}", num_checks(name, patterns)) as tell:
            results = check_attention(
                name, patterns=patterns, listen=lambda pattern, check: tell(f"{pattern}, {check}")
            )
        for title, contract in (("mathematics", False), ("contract", True)):
            rows = [(row, consequence(row)) for row in results if is_contract(row) == contract]
            console().print(listing.checks(f"{name}: {title}", rows))
        console().print(sentence(name, results), soft_wrap=True)
        failures += sum(result.outcome == "failed" for result in results)
    if failures:
        say(f"{failures} checks failed")
    raise typer.Exit(1 if failures else 0)


@app.command()
def report(
    directories: Annotated[list[Path] | None, typer.Argument(metavar="[DIR]...", help="Folders of records.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the report.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write the report again even if nothing has changed.")] = False,
    for_paper: Annotated[
        bool, typer.Option("--for-paper", help="Also write paper/, a LaTeX document of all tables and figures.")
    ] = False,
    claims: Annotated[
        Path | None,
        typer.Option(
            "--claims", help="YAML file of claims to judge, as configs/claims.yaml, which counts if it is left out."
        ),
    ] = None,
    tuned: Tuned = None,
) -> None:
    """Makes a report from records: markdown, HTML, figures and tables."""
    from benchmark.report import build_report
    from benchmark.report.folders import check_folders

    chosen = directories or [Path("results/quick")]
    check_folders(chosen)
    folder = output or Path("reports") / chosen[0].resolve().name
    with report_progress():
        built = build_report(chosen, folder, force=force, for_paper=for_paper, claims=claims, tuned=tuned)
    raise typer.Exit(say_report(built))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of records.")],
    b: Annotated[Path | None, typer.Argument(metavar="B", help="Another folder of records.")] = None,
    attention: Annotated[
        str | None,
        typer.Option("-a", "--attention", help="Only these; without B two names, the second against the first."),
    ] = None,
    all_metrics: Annotated[bool, typer.Option("--all-metrics", help="Not only the first metric of each cell.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write a file, .md or .csv.")] = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 1 if a first metric is worse and resolved.")
    ] = False,
) -> None:
    """Compares two sets of results, or two attentions of one, cell by cell."""
    from benchmark.cli.comparing import Comparison
    from benchmark.report.folders import check_folders
    from benchmark.settings.command import names_in

    check_folders([a, *([] if b is None else [b])], sweeps=False)
    comparison = Comparison(a, b, names_in(attention, "-a"), output)
    comparison.show(all_metrics=all_metrics)
    status = say_left_out(comparison.damaged)
    raise typer.Exit(max(status, comparison.regressions() if fail_on_regression else 0))


@app.command()
def validate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of runs.")],
    include_path: Include = None,
) -> None:
    """Reads a configuration and says what is wrong with it."""
    from benchmark.settings.command import include_files
    from benchmark.settings.plan import check_runs
    from benchmark.settings.shipped import run_file
    from benchmark.settings.yaml_files import read_run_file

    include_files(include_path)
    runs = read_run_file(run_file(config))
    count = check_runs(runs)
    say(f"{config}: valid; {len(runs)} run{'s' if len(runs) != 1 else ''}, {count} cells")
