"""The commands of ``lavo-bench``: parse, call, print.  Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmark.settings.models import Override, RunSettings

app = typer.Typer(
    name="lavo-bench",
    help="LAVO and other attentions, trained, measured and compared under the same rules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Attentions = Annotated[str | None, typer.Option("-a", "--attention", help="Names with commas between, or all.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root", envvar="LAVO_BENCH_DATA", help="Folder of real data (lm/, lstf/, …); embedded data without."
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
        "--set", help="key=value, as train.steps=100, forecasting.data.pred_len=48, attentions.lavo.window=32."
    ),
]
Preset = Annotated[str | None, typer.Option("--preset", help="smoke, quick, small, gpu or paper.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N; the GPU where there is one.")]


# Typer brings a click of its own from some release on; the base of its usage errors is found through a public name.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


INTERRUPTED = 130  # the exit status that shells give a command ended by Ctrl-C


class Kind(StrEnum):
    """What ``list`` can list."""

    tasks = "tasks"
    attentions = "attentions"
    presets = "presets"
    results = "results"


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Common options; ``--debug`` is read by ``main``, from any place in the line."""


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything but results without.")] = None,
    directory: Annotated[Path, typer.Option("-o", help="Where results lie.")] = Path("results"),
    include_path: Include = None,
) -> None:
    """What there is: tasks, attentions and the patterns they support, presets, results."""
    from benchmark import listing

    include_files(include_path)
    tables = {
        Kind.tasks: listing.tasks,
        Kind.attentions: listing.attentions,
        Kind.presets: listing.presets,
        Kind.results: lambda: listing.results(directory),
    }
    for wanted in [kind] if kind else [Kind.tasks, Kind.attentions, Kind.presets]:
        _console().print(tables[wanted]())


@app.command()
def prepare(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks, or all.")],
    data_root: DataRoot = None,
    preset: Preset = "quick",
    set_: Assignments = None,
    cache: Cache = None,
) -> None:
    """Makes or fetches, checks and tokenises the data of tasks."""
    from benchmark.registry import load_task, task_folder
    from benchmark.running.downloads import fetch_missing
    from benchmark.settings.choices import choose_tasks
    from benchmark.settings.models import AttentionSpec, RunSettings
    from benchmark.settings.resolve import resolve
    from benchmark.settings.yaml_files import parse_assignment

    overrides = [parse_assignment(text) for text in set_ or []]
    chosen = choose_tasks(tasks)
    preset = _settings(RunSettings, {"preset": preset}).preset
    for name in chosen:
        if data_root is not None:
            for path in fetch_missing(task_folder(name) / "sources.yaml", data_root):
                _say(f"{name}: fetched {path}")
        cls: Any = load_task(name)
        for backbone in cls.backbones:
            resolved = resolve(name, backbone, preset, AttentionSpec(name="softmax"), overrides)
            splits = cls(resolved.settings, backbone=backbone).load_data(data_root, _cache(cache))
            sizes = ", ".join(f"{part} {len(getattr(splits, part))}" for part in ("train", "validation", "test"))
            _say(f"{name}/{backbone}: {splits.name}, {sizes} examples, SHA-256 {splits.fingerprint[:16]}…")


@app.command()
def run(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="Tasks, or all.")] = None,
    attention: Attentions = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Backbones, with commas between.")] = None,
    pattern: Annotated[str | None, typer.Option("--pattern", help="Patterns, with commas between.")] = None,
    preset: Preset = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="As 0,1,2; the preset's without.")] = None,
    set_: Assignments = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML file of runs, as configs/ablations.yaml.")
    ] = None,
    data_root: DataRoot = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of records; results/<preset> without.")
    ] = None,
    device: Device = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Cells at a time; one a core or GPU without.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Validate and test on the first N examples only.")
    ] = None,
    include_path: Include = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Run finished cells again.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Then measure efficiency briefly and write reports/<name of the output folder>."),
    ] = False,
    cache: Cache = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", hidden=True)] = False,
) -> None:
    """Trains and evaluates cells; finished ones are not run again."""
    from benchmark.running import runner

    include = include_files(include_path)
    runs = _runs(config, tasks, attention, backbone, pattern, preset, seeds, limit, data_root, set_)
    place = runner.Place(
        output=output or _output_of(runs, config),
        cache=_cache(cache),
        device=_device(device),
        include=include,
        debug=debug or _debugging(),
    )
    runner.probe_output(place.output)
    status = _run_cells(runs, place, jobs, rerun=rerun, retry_failed=retry_failed)
    together = _processes_together()
    if report and (together is None or together[0] == 0):
        status = max(status, _measure_and_report(runs, place))
    raise typer.Exit(status)


def _run_cells(
    runs: list[tuple[RunSettings, list[Override]]], place: Any, jobs: int | None, *, rerun: bool, retry_failed: bool
) -> int:
    """Plans, runs and sums up; the exit status."""
    from dataclasses import replace

    from benchmark.running import runner, workers
    from benchmark.running.progress import Display
    from benchmark.settings.plan import plan_cells

    cells = plan_cells(runs, place.cache)
    waiting = runner.to_run(cells, place.output, rerun=rerun, retry_failed=retry_failed)
    if (together := _processes_together()) is not None:
        return _run_together(cells, waiting, place, *together)
    default_jobs, threads = workers.default_jobs(place.device)
    if jobs is not None:
        threads = max(1, default_jobs * threads // jobs)
    _say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them done already; records in {place.output}")
    if waiting:
        with Display(len(waiting), _console()) as display:
            workers.run_cells(waiting, replace(place, threads=threads), jobs=jobs or default_jobs, listen=display)
    failed = [cell for cell in cells if runner.status_of(cell, place.output) not in ("completed", "unsupported")]
    for cell in failed:
        _say(f"{runner.status_of(cell, place.output)}: {cell.title}")
    if failed:
        _say(f"{len(failed)} of {len(cells)} cells failed; --retry-failed runs them again")
    return 1 if failed else 0


def _processes_together() -> tuple[int, int] | None:
    """(rank, number) where torchrun started this process with others to train each cell together."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), world) if world > 1 else None


def _run_together(cells: Sequence[Any], waiting: Sequence[Any], place: Any, rank: int, world: int) -> int:
    """Every process trains its share of each batch; the first one speaks and writes."""
    from dataclasses import replace

    from benchmark.running import runner, workers
    from benchmark.running.progress import Display

    threads = max(1, workers.default_jobs("cpu")[0] // world)
    place = replace(place, rank=rank, processes=world, threads=threads)
    if rank:
        runner.run_together(waiting, place)
        return 0
    _say(
        f"{len(cells)} cells, {len(cells) - len(waiting)} of them done already; {world} processes a cell; records in {place.output}"
    )
    if waiting:
        with Display(len(waiting), _console()) as display:
            runner.run_together(waiting, place, display)
    failed = [cell for cell in cells if runner.status_of(cell, place.output) not in ("completed", "unsupported")]
    return 1 if failed else 0


def _measure_and_report(runs: list[tuple[RunSettings, list[Override]]], place: Any) -> int:
    from benchmark.measuring.points import FILE_NAME
    from benchmark.measuring.sweep import short_sweep
    from benchmark.report import build_report
    from benchmark.settings.choices import choose_attentions

    if not (place.output / FILE_NAME).is_file():
        names = list(
            dict.fromkeys(spec.name for settings, _ in runs for spec in choose_attentions(settings.attentions))
        )
        _say(f"efficiency of {', '.join(names)} by length, on {place.device}")
        short_sweep(names, place.output, place.device)
    built = build_report([place.output], Path("reports") / place.output.name)
    return _say_report(built)


@app.command()
def check(
    attention: Annotated[str, typer.Argument(metavar="ATTENTION", help="Name of an attention, or all.")],
    pattern: Annotated[str | None, typer.Option("--pattern", help="Patterns, with commas between.")] = None,
    include_path: Include = None,
) -> None:
    """The conformance suite: what holds of an attention, check by check."""
    from benchmark import listing
    from benchmark.checking.conformance import check_attention
    from benchmark.registry import attention_names, check_pattern

    include_files(include_path)
    patterns = _names(pattern, "--pattern")
    for name in patterns or []:
        check_pattern(name)
    failures = 0
    for name in attention_names() if attention == "all" else [attention]:
        results = check_attention(name, patterns=patterns)
        _console().print(listing.checks(name, results))
        failures += sum(result.outcome == "failed" for result in results)
    if failures:
        _say(f"{failures} checks failed")
    raise typer.Exit(1 if failures else 0)


@app.command()
def efficiency(
    attention: Attentions = None,
    pattern: Annotated[str, typer.Option("--pattern", help="Patterns, with commas between.")] = "causal_self",
    lengths: Annotated[
        str, typer.Option("--lengths", help="FROM:TO in powers of two, or lengths with commas between.")
    ] = "256:16384",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="forward, backward, prefill, decode; training, checkpointed, generation of a whole model; commas between.",
        ),
    ] = "forward,backward",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for efficiency.csv.")] = Path(
        "results/efficiency"
    ),
    batch: Annotated[int, typer.Option("--batch", min=1)] = 1,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Tokens of a batch, whatever the length; instead of --batch.")
    ] = None,
    num_heads: Annotated[int, typer.Option("--num-heads", min=1)] = 8,
    head_dim: Annotated[int, typer.Option("--head-dim", min=1)] = 64,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Of an attention, as lavo.window=32; may be given again.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 7,
    budget: Annotated[float, typer.Option("--budget", min=0.1, help="Seconds a point may take.")] = 60.0,
    device: Device = None,
    include_path: Include = None,
) -> None:
    """Time and memory by length, attentions interleaved: efficiency.csv."""
    from benchmark.measuring.sweep import measure_to_file, parse_lengths
    from benchmark.running import runner
    from benchmark.settings.choices import choose_attentions
    from benchmark.settings.messages import ConfigError
    from benchmark.settings.yaml_files import parse_assignment

    include_files(include_path)
    runner.probe_output(output)
    names = [spec.name for spec in choose_attentions(_names(attention, "--attention") or ["all"])]
    options: dict[str, dict[str, Any]] = {}
    for text in option or []:
        key, value = parse_assignment(text, "--option")[:2]
        name, dot, own = key.partition(".")
        if not dot or not own or name not in names:
            raise ConfigError(
                f"--option {text}: must be ATTENTION.OPTION=VALUE, as lavo.window=32, of one that is measured"
            )
        options.setdefault(name, {})[own] = value
    path = measure_to_file(
        output,
        attentions=names,
        patterns=_names(pattern, "--pattern") or [],
        lengths=parse_lengths(lengths),
        modes=_names(mode, "--mode") or [],
        batch=batch,
        tokens=tokens,
        options=options,
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=dtype,
        rounds=rounds,
        budget_seconds=budget,
        device=_device(device),
        say=_say,
    )
    _say(f"written: {path}")


@app.command()
def report(
    directories: Annotated[list[Path] | None, typer.Argument(metavar="[DIR]...", help="Folders of records.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the report.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write it again though nothing has changed.")] = False,
) -> None:
    """Markdown, HTML, figures and tables of records."""
    from benchmark.report import build_report

    chosen = directories or [Path("results/quick")]
    _check_results(chosen)
    built = build_report(chosen, output or Path("reports") / chosen[0].resolve().name, force=force)
    raise typer.Exit(_say_report(built))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of records.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Two sets of results, cell by cell."""
    from benchmark import listing
    from benchmark.report import compare as compare_results

    _check_results([a, b], sweeps=False)
    _console().print(listing.frame(compare_results([a], [b]), title=f"{a} against {b}"))


@app.command()
def validate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of runs.")],
    include_path: Include = None,
) -> None:
    """Reads a configuration and says what is wrong with it."""
    from benchmark.settings.plan import check_runs
    from benchmark.settings.yaml_files import read_run_file

    include_files(include_path)
    runs = read_run_file(config)
    count = check_runs(runs)
    _say(f"{config}: valid; {len(runs)} run{'s' if len(runs) != 1 else ''}, {count} cells")


def include_files(paths: list[Path] | None) -> tuple[Path, ...]:
    """Registers the attentions of these files."""
    if paths:
        from benchmark.registry import include_file
        from benchmark.settings.messages import ConfigError

        for path in paths:
            try:
                include_file(path)
            except SystemExit as error:
                raise ConfigError(f"--include-path {path.name}: ends the program when it is read") from error
    return tuple(path.resolve() for path in paths or [])


def _runs(
    config: Path | None,
    tasks: list[str] | None,
    attention: str | None,
    backbone: str | None,
    pattern: str | None,
    preset: str | None,
    seeds: str | None,
    limit: int | None,
    data_root: Path | None,
    assignments: list[str] | None,
) -> list[tuple[RunSettings, list[Override]]]:
    """The runs of the file, or one run, with what the command line says laid over."""
    from benchmark.settings.messages import ConfigError
    from benchmark.settings.models import RunSettings
    from benchmark.settings.yaml_files import parse_assignment, read_run_file

    if not tasks and config is None:
        raise ConfigError("run: name a task, all, or a file of runs with --config")
    said: dict[str, Any] = {
        "tasks": tasks or None,
        "attentions": _names(attention, "--attention"),
        "backbones": _names(backbone, "--backbone"),
        "patterns": _names(pattern, "--pattern"),
        "preset": preset,
        "seeds": _names(seeds, "--seeds"),
        "limit": limit,
        "data_root": data_root,
    }
    said = {key: value for key, value in said.items() if value is not None}
    overrides = [parse_assignment(text) for text in assignments or []]
    runs = read_run_file(config) if config is not None else [(RunSettings(), [])]
    return [
        (
            _settings(RunSettings, {**settings.model_dump(exclude_unset=True), **said}).with_origin(settings.origin),
            [*own, *overrides],
        )
        for settings, own in runs
    ]


def _settings(model: type[RunSettings], said: dict[str, Any]) -> RunSettings:
    """What the command line says, checked; a fault names the option."""
    from benchmark.settings.messages import validate

    flags = {"attentions": "--attention", "backbones": "--backbone", "patterns": "--pattern"}

    def origin(key: str) -> str:
        first = key.partition(".")[0]
        return flags.get(first, f"--{first.replace('_', '-')}")

    return validate(model, said, origin)


def _names(text: str | None, option: str) -> list[str] | None:
    """Names with commas between.  Raises ConfigError where the text holds none."""
    from benchmark.settings.messages import ConfigError

    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"{option} {text!r}: one or more are wanted, with commas between")
    return names


def _check_results(directories: list[Path], *, sweeps: bool = True) -> None:
    """Raises ConfigError for a folder that holds nothing to report."""
    from benchmark.measuring.points import FILE_NAME
    from benchmark.results import record_files
    from benchmark.settings.messages import ConfigError

    for directory in directories:
        if not directory.is_dir():
            raise ConfigError(f"{directory}: no such folder of results")
        if not record_files(directory) and not (sweeps and (directory / FILE_NAME).is_file()):
            inside = [path.name for path in sorted(directory.iterdir()) if path.is_dir() and record_files(path)]
            instead = f"; name one of its folders {', '.join(inside)}" if inside else "; lavo-bench run -o writes some"
            raise ConfigError(f"{directory}: has no records{instead}")


def _output_of(runs: list[tuple[RunSettings, list[Override]]], config: Path | None) -> Path:
    return Path("results") / (config.stem if config is not None else runs[0][0].preset)


def _cache(cache: Path | None) -> Path:
    from benchmark.settings.messages import ConfigError

    if cache is None:
        import pooch

        cache = Path(pooch.os_cache("lavo-bench"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--cache {cache}: no folder can be made there: {error.strerror}") from None
    return cache


def _device(name: str | None) -> str:
    """The device by name, the GPU where there is one.  Raises ConfigError for one that isn't there."""
    import torch

    from benchmark.settings.messages import ConfigError

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; allowed: cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index is not None):
        raise ConfigError(f"--device {name}: allowed: cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return name


def _console() -> Any:
    from rich.console import Console

    console = Console()
    # Rich falls back to 80 columns where there is no terminal, and would break a table for nobody's sake.
    return console if console.is_terminal else Console(width=400)


def _say(text: str) -> None:
    typer.echo(text)


def _say_report(built: Any) -> int:
    for fault in built.faults:
        typer.echo(f"not drawn: {fault}", err=True)
    for fault in built.damaged:
        typer.echo(f"left out: {fault}", err=True)
    _say(f"report: {built.html}\n        {built.markdown}" + ("" if built.changed else " (up to date)"))
    return 1 if built.faults or built.damaged else 0


def _debugging() -> bool:
    return "--debug" in sys.argv


def main() -> None:
    """Entry point: exit status 0 done, 1 some cells failed, 2 the command or configuration is wrong, 130 interrupted."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        status = app(args=arguments, standalone_mode=False)
    except typer.Abort:
        _fail("interrupted; what is done is kept", INTERRUPTED)
    except UsageError as error:
        if not arguments:
            typer.echo(error.format_message(), err=True)  # type: ignore[attr-defined]  # the help
            sys.exit(2)
        _fail(_usage_fault(error, arguments), 2)
    except KeyboardInterrupt:
        _fail("interrupted; what is done is kept", INTERRUPTED)
    except ValueError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or type(error).__name__}: {error.strerror or error}", 2)
    except Exception as error:  # ours to mend, and yet no reason for a page of text that says nothing to a user
        if debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)", 2)
    if status == INTERRUPTED:  # typer has caught the KeyboardInterrupt
        _fail("interrupted; what is done is kept", INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _usage_fault(error: Any, arguments: list[str]) -> str:
    """Typer's message, with the value that it leaves out."""
    spellings = getattr(getattr(error, "param", None), "opts", [])
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, sign, value = argument.partition("=")
        if name.startswith("-") and name in spellings and isinstance(error, typer.BadParameter):
            return f"{name} {value if sign else following}: {error.message.removeprefix('Input ')}"
    return str(error.format_message()).replace("Value error, ", "")


def _fail(message: str, status: int) -> None:
    typer.echo(f"lavo-bench: {' '.join(message.split())}", err=True)
    sys.exit(status)


if __name__ == "__main__":  # torchrun -m benchmark.cli
    main()
