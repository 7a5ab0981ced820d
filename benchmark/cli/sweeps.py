"""The commands that sweep over lengths (``efficiency``) and over settings (``sweep``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.commands import app
from benchmark.cli.options import Attentions, Device, Include
from benchmark.cli.printing import say


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
