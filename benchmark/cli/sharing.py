"""The commands ``lavo-bench submit`` and ``lavo-bench board``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.commands import app
from benchmark.cli.options import Include
from benchmark.cli.printing import say


@app.command()
def submit(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of records.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The pack; NAME.zip if it is left out.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What tables call the pack; the folder's name if it is left out.")
    ] = None,
    include_path: Include = None,
) -> None:
    """Checks a folder of records, and packs it with the sources of its attentions, to hand it on."""
    from rich.console import Console

    from benchmark.settings.messages import ConfigError, one_line
    from benchmark.sharing.pack import check_folder, write_pack

    chosen = name or directory.resolve().name
    target = output or Path(f"{chosen}.zip")
    if target.suffix != ".zip":
        raise ConfigError(f"-o {target}: must end in .zip")
    with Console(stderr=True).status("") as status:
        submission = check_folder(directory, chosen, include_path or [], say=status.update)
    for fault in submission.faults:
        typer.echo(f"fault: {one_line(fault)}", err=True)
    if submission.faults:
        say(f"{len(submission.faults)} faults; nothing is packed")
        raise typer.Exit(1)
    write_pack(submission, target)
    cells = sum(path.startswith("records/") and path.endswith(".json") for path in submission.files)
    say(f"{target}: {cells} cells of {', '.join(submission.manifest.attentions)}")


@app.command()
def board(
    packs: Annotated[list[Path], typer.Argument(metavar="PACK...", help="Packs, or folders of packs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the page.")] = Path("reports/board"),
) -> None:
    """Verifies packs of results, and merges those that are as they say into one page; nothing of a pack is run."""
    from benchmark.running.runner import probe_output
    from benchmark.settings.messages import one_line
    from benchmark.sharing.board import build_board

    probe_output(output)
    built = build_board(packs, output)
    for line in [*built.refused, *built.left_out]:
        typer.echo(one_line(line), err=True)
    say(f"board: {built.html}\n       {built.markdown}")
    raise typer.Exit(1 if built.refused else 0)
