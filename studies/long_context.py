"""Measures time and memory by position while gpt reads a long text: ``python -m studies.long_context``.

Each attention runs in its own process.  The model reads the text in chunks with its streaming state, as in evaluation, and
computes the loss of every token.  It is not trained, and the tokens are random, because this does not change the cost of a
token.  Positions are put into bins whose limits are powers of two.  For each bin the table has the median time over its
chunks, with its interval, and the highest resident memory.
"""

from __future__ import annotations

import csv
import io
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from benchmark.files import write_bytes
from benchmark.measuring import memory
from benchmark.measuring.memory import is_out_of_memory
from benchmark.measuring.timing import now
from benchmark.measuring.whole_model import make_gpt
from benchmark.statistics import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_BIN = 8192  # tokens of the first bin
WARM_UP = 4  # the number of chunks that are read before the measurement, with a state that is not used again


class Bin(NamedTuple):
    """One row of the table: the tokens at positions [start, stop)."""

    attention: str
    start: int
    stop: int
    seconds_per_token: float | None = None  # median over chunks
    seconds_low: float | None = None
    seconds_high: float | None = None
    peak_bytes: int | None = None  # resident memory of the process (allocated, on a GPU), the model's included
    state_bytes: int | None = None  # at the end of the bin
    status: str = "completed"  # completed, over_budget, out_of_memory
    reason: str | None = None


class Budget(NamedTuple):
    """What one attention may cost."""

    seconds: float  # for the whole text
    state_bytes: int  # of its state


def bins(length: int) -> list[tuple[int, int]]:
    """Returns the bins [0, 8K), [8K, 16K), [16K, 32K), … up to ``length``, as pairs (start, stop)."""
    edges = [0, *(FIRST_BIN << i for i in range(length.bit_length()) if FIRST_BIN << i < length), length]
    return list(itertools.pairwise(edges))


def stream(attention: str, length: int, chunk_size: int, preset: str, device: str, budget: Budget) -> list[Bin]:
    """Returns one row for each bin.  If a budget is exceeded or memory runs out, the row of that bin says so and is the last."""
    # Intervals are computed after the whole text was read, because the memory for this would count as memory of the stream.
    found = list(_stream(attention, length, chunk_size, preset, device, budget))
    return [row if row.status != "completed" else _timed(row, samples) for row, samples in found]


def _timed(row: Bin, samples: list[float]) -> Bin:
    """Returns the row with its time.  samples: the seconds by token of each chunk."""
    low, high = bootstrap_interval(samples)
    return row._replace(seconds_per_token=float(np.median(samples)), seconds_low=low, seconds_high=high)


@torch.no_grad()
def _stream(
    attention: str, length: int, chunk_size: int, preset: str, device: str, budget: Budget
) -> Iterator[tuple[Bin, list[float]]]:
    """Yields the rows without their times, each with the seconds by token of its chunks."""
    memory.keep_freed_memory()
    place = torch.device(device)
    model, vocab_size = make_gpt(attention, length, preset=preset, settings={"data.context_length": 256}, options={})
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    state = model.init_state(1)
    for _ in range(WARM_UP):
        tokens = torch.randint(vocab_size, (1, min(chunk_size, length)), generator=generator).to(device)
        logits, state = model.extend(tokens, state)
        _nats(logits, tokens)
    state, began = model.init_state(1), now(place)
    for start, stop in bins(length):
        memory.reset_peak(device)
        row, samples = Bin(attention, start, stop), list[float]()
        for first in range(start, stop, chunk_size):
            count = min(chunk_size, stop - first)
            tokens = torch.randint(vocab_size, (1, count), generator=generator).to(device)
            before = now(place)
            try:
                logits, state = model.extend(tokens, state)
                _nats(logits, tokens)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"at {first} tokens: {error}".splitlines()[0]
                yield row._replace(status="out_of_memory", reason=reason), samples
                return
            samples.append((now(place) - before) / count)
            held = model.state_bytes(state)
            over = _over(budget, now(place) - began, held, first + count)
            if over is not None and first + count < length:
                yield row._replace(status="over_budget", reason=over, state_bytes=held), samples
                return
        yield row._replace(peak_bytes=memory.peak_bytes(device), state_bytes=model.state_bytes(state)), samples


def _nats(logits: Tensor, tokens: Tensor) -> float:
    """Returns the mean loss of the tokens of a chunk.  Converting it to a number waits until the device has finished."""
    return float(torch.nn.functional.cross_entropy(logits[0].float(), tokens[0]))


def _over(budget: Budget, seconds: float, held: int, tokens: int) -> str | None:
    """Returns a sentence about the budget that is exceeded, or None if neither is."""
    if held > budget.state_bytes:
        return f"after {tokens} tokens its state has {held} bytes; the limit is {budget.state_bytes}"
    if seconds > budget.seconds:
        return f"after {tokens} tokens {seconds:.0f} s have passed; the limit for an attention is {budget.seconds:g} s"
    return None


def write_bins(path: Path, rows: Sequence[Bin]) -> None:
    """Writes the whole table to this file in one step, so that a reader never sees half of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Bin._fields)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    write_bytes(path, text.getvalue().encode())


def spread(rows: Sequence[Bin]) -> tuple[float, float] | None:
    """Returns how far memory and time by token differ at most from those of the first bin, as shares of these.

    Returns None if fewer than two bins are complete.
    """
    done = [row for row in rows if row.status == "completed"]
    if len(done) < 2:
        return None
    first = done[0]
    assert first.peak_bytes
    assert first.seconds_per_token
    held = max(abs((row.peak_bytes or 0) / first.peak_bytes - 1) for row in done)
    taken = max(abs((row.seconds_per_token or 0) / first.seconds_per_token - 1) for row in done)
    return held, taken


def figure(rows: Sequence[Bin]) -> Figure:
    """Draws the time for each token, and the resident memory, by position."""
    from benchmark.report import numbers
    from benchmark.report.figures import new_figure
    from benchmark.report.style import length_axis, style_of, value_axis

    drawn, axes = new_figure(1, 2)
    done = [row for row in rows if row.status == "completed"]
    for name in dict.fromkeys(row.attention for row in done):
        own = [row for row in done if row.attention == name]
        x, style = [row.stop for row in own], style_of(name)._asdict()
        seconds = np.array([row.seconds_per_token for row in own], dtype=float)
        low, high = (np.array([getattr(row, f"seconds_{end}") for row in own], dtype=float) for end in ("low", "high"))
        axes[0, 0].errorbar(x, seconds, yerr=[seconds - low, high - seconds], label=name, elinewidth=0.8, **style)
        axes[0, 1].plot(x, [row.peak_bytes for row in own], label=name, **style)
    for axis, column, words, base in (
        (axes[0, 0], "seconds_per_token", numbers.duration, 10),
        (axes[0, 1], "peak_bytes", numbers.size, 4),
    ):
        length_axis(axis.xaxis, [row.stop for row in done])
        value_axis(axis.yaxis, [getattr(row, column) for row in done], words, base=base)
        axis.set_xlabel("position (tokens read)")
    axes[0, 0].set_ylabel("time a token")
    axes[0, 1].set_ylabel("memory of the process")
    axes[0, 0].legend()
    return drawn


def main(
    attentions: Annotated[
        str, typer.Option(help="Names, separated by commas.")
    ] = "lavo,performer,cosformer,flash,softmax",
    length: Annotated[int, typer.Option(min=2, help="Number of tokens of the text.")] = 1_048_576,
    chunk_size: Annotated[int, typer.Option(min=1, help="Number of tokens that are read at once.")] = 1024,
    preset: Annotated[str, typer.Option(help="The model has the sizes of this preset.")] = "quick",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    budget_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that one attention may take.")] = 300.0,
    budget_bytes: Annotated[int, typer.Option(min=1, help="Bytes that one attention's state may hold.")] = 2**30,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the table and the figure.")] = Path(
        "results/long-context"
    ),
) -> None:
    """Prints a line for each bin, and writes long_context.csv and the figure."""
    import matplotlib

    from benchmark.report.style import SETTINGS

    rows: list[Bin] = []
    budget = Budget(budget_seconds, budget_bytes)
    print(f"gpt, {preset} preset, untrained, {chunk_size} tokens at once, float32, {torch.get_num_threads()} threads")
    for name in attentions.split(","):
        # Each attention gets a new process, so that the memory of other attentions does not count.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            own = pool.apply(stream, (name, length, chunk_size, preset, device, budget))
        rows += own
        for row in own:
            print(_line(row), flush=True)
        if (found := spread(own)) is not None:
            print(
                f"{name}: memory within {100 * found[0]:.2f} %, time by token within {100 * found[1]:.1f} % of the first bin's"
            )
        write_bins(output / "long_context.csv", rows)
    with matplotlib.rc_context(SETTINGS):
        drawn = figure(rows)
        for suffix in ("svg", "pdf", "png"):
            drawn.savefig(output / f"long_context.{suffix}")


def _line(row: Bin) -> str:
    if row.seconds_per_token is None:
        return f"{row.attention} {row.start}-{row.stop}: {row.status}: {row.reason}"
    return (
        f"{row.attention} {row.start}-{row.stop}: {1e6 * row.seconds_per_token:.2f} us a token, "
        f"{(row.peak_bytes or 0) / 2**20:.1f} MiB, state {row.state_bytes} bytes"
    )


if __name__ == "__main__":
    typer.run(main)
