"""The commands about data: ``prepare`` makes or fetches them, ``data verify`` checks what lies in a data root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.options import Assignments, Cache, DataRoot, Preset
from benchmark.cli.printing import say
from benchmark.settings.messages import ConfigError

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
    from benchmark.fetching.prepare import fetch_named, prepare_data, read_by
    from benchmark.settings.choices import choose_tasks
    from benchmark.settings.command import cache_folder, names_in, run_settings
    from benchmark.settings.yaml_files import parse_assignment

    overrides = [parse_assignment(text) for text in set_ or []]
    chosen, names = choose_tasks(tasks), names_in(name, "--name") or []
    preset = run_settings({"preset": preset}).preset
    if names and (len(chosen) > 1 or data_root is None):
        raise ConfigError("--name: needs one TASK and --data-root, the folder into which the data set goes")
    with _installer(data_root, accept_terms) as installer:
        for task in chosen:
            for line in fetch_named(task, names, installer) if names else ():
                say(line)
            known = read_by(task, names)
            if known is None:
                continue
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


@contextmanager
def _installer(data_root: Path | None, accept_terms: bool) -> Iterator[Any]:
    """What fetches into the data root, with a progress bar on a terminal; None without a data root."""
    from benchmark.fetching.download import Downloader
    from benchmark.fetching.install import Installer

    if data_root is None:
        yield None
        return
    with _progress() as listener:
        yield Installer(data_root, Downloader(listener=listener), say, accept_terms)


@contextmanager
def _progress() -> Iterator[Any]:
    """Shows downloads on a terminal, as long as there are any; elsewhere only the pauses are told, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bar(progress)


class _Bar:
    """A listener of downloads: one bar over all files that are being fetched."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._bar: Any = None
        self._bytes: dict[str, int] = {}

    def expect(self, num_bytes: int | None) -> None:
        """Takes note of how many bytes will come in all, if that is known."""
        self._bytes = {}
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task("downloading", total=num_bytes)

    def at(self, name: str, num_bytes: int) -> None:
        """Moves the bar."""
        self._bytes[name] = num_bytes
        if self._bar is not None:
            self._progress.update(self._bar, completed=sum(self._bytes.values()), description=name[-40:])

    def pause(self, name: str, seconds: float, reason: str) -> None:
        """Says why nothing moves."""
        typer.echo(f"{name}: {reason}; trying again in {seconds:.0f} s", err=True)
