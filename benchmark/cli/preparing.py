"""The commands about data: ``prepare`` makes or fetches them, ``data verify`` checks what lies in a data root."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.options import Assignments, Cache, DataRoot, Preset
from benchmark.cli.printing import say

data = typer.Typer(help="Checks the data in a data root.", rich_markup_mode=None)


def prepare(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks, or all.")],
    data_root: DataRoot = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Public data sets of the task to fetch, separated by commas (docs/data.md)."),
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You accept the terms of the data sets that have some.")
    ] = False,
    preset: Preset = "quick",
    set_: Assignments = None,
    cache: Cache = None,
) -> None:
    """Makes or fetches, checks and tokenises the data of tasks."""
    from benchmark.fetching.prepare import fetch_named, prepare_data, readings
    from benchmark.settings.choices import choose_tasks
    from benchmark.settings.command import cache_folder, names_in, run_settings
    from benchmark.settings.messages import ConfigError
    from benchmark.settings.yaml_files import parse_assignment

    overrides = [parse_assignment(text) for text in set_ or []]
    chosen, names = choose_tasks(tasks), names_in(name, "--name") or []
    preset = run_settings({"preset": preset}).preset
    if names and (len(chosen) > 1 or data_root is None):
        raise ConfigError("--name: needs one TASK and --data-root, the folder into which the data set goes")
    installer = _installer(data_root, accept_terms)
    for task in chosen:
        for line in fetch_named(task, names, installer) if names else ():
            say(line)
        for known in readings(task, names):
            settings = [*known, *overrides]
            for line in prepare_data(task, preset, settings, data_root, cache_folder(cache), installer=installer):
                say(line)


@data.command("verify")
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A data root.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the files that differ.")] = False,
) -> None:
    """Compares the files of the public data sets in a data root with their recorded or published digests."""
    from benchmark.fetching.verify import verify_data

    differing = total = 0
    for line in verify_data(directory):
        total += 1
        differing += not line.good
        if not (quiet and line.good):
            say(f"{line.path}: {line.text}")
    say(f"{directory}: {total:,} files compared, {differing:,} differ")
    raise typer.Exit(1 if differing else 0)


def _installer(data_root: Path | None, accept_terms: bool) -> Any:
    """What fetches into the data root; None without a data root."""
    from benchmark.fetching.download import Downloader
    from benchmark.fetching.install import Installer

    return None if data_root is None else Installer(data_root, Downloader(listener=_Bar()), say, accept_terms)


class _Bar:
    """Shows on a terminal how the downloads of a set go on; elsewhere it only tells why one is tried again.

    The bar stands on standard error, and only as long as something is downloaded: other lines are printed before and after.
    """

    def __init__(self) -> None:
        self._progress: Any = None
        self._bytes: dict[str, int] = {}

    def expect(self, num_bytes: int | None) -> None:
        """Begins a bar.  num_bytes: of all files; None if not known."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bytes = {}
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._progress.add_task("downloading", total=num_bytes)
        self._progress.start()

    def at(self, name: str, num_bytes: int) -> None:
        """Moves the bar."""
        self._bytes[name] = num_bytes
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0], completed=sum(self._bytes.values()), description=name[-40:]
            )

    def pause(self, name: str, seconds: float, reason: str) -> None:
        """Says why nothing moves."""
        line = f"{name}: {reason}; trying again in {seconds:.0f} s"
        if self._progress is not None and self._progress.console.is_terminal:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            typer.echo(line, err=True)

    def finish(self) -> None:
        """Ends the bar."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
