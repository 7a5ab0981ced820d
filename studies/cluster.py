"""Simulates the full matrix on a cluster, for its cost, wall time and reruns: ``python -m studies.cluster -o cluster.pdf``.

The cells are those that ``lavo-bench run all -a all`` plans for a preset.  How long each takes is measured where there are records of that preset
(``--records``).  Otherwise the measured seconds of a smaller preset are scaled, and the scale is assumed: the table says so.

``--check RESULTS… --workers 2,4,8`` compares the model with real runs: it reads how long each cell of a folder took, simulates that
many workers, and prints the predicted wall time beside the measured one.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmark.interface import EVERY, missing_methods
from benchmark.registry import load_attention, streamed_patterns, task_declarations
from benchmark.results import Record, read_record, record_files
from benchmark.settings.models import AttentionSpec, RunSettings
from benchmark.settings.plan import Planned, planned
from studies.claims_queue import Job, Machines, Outcome, longest_first, simulate

HOUR = 3600.0
# Settings whose sum is the number of places of an example.  Tasks without an entry are assumed to keep the length of the smaller preset.
LENGTHS = {
    "language_modeling": ("context_length",),
    "summarization": ("max_source_tokens", "max_target_tokens"),
    "forecasting": ("seq_len", "label_len", "pred_len"),
    "point_cloud_completion": ("num_centres", "num_queries"),
}


class Assumed(NamedTuple):
    """What is assumed of a GPU where no record of the preset exists.

    speedup      how many times as fast as one core of the records' CPU it does the same arithmetic
    least_step   seconds that a step takes however small the model is, because kernels must be started
    """

    speedup: float
    least_step: float


class CellTime(NamedTuple):
    """How long a cell takes.  seconds: of training and evaluation.  source: measured, scaled or assumed."""

    planned: Planned
    seconds: float
    source: str

    def job(self) -> Job:
        """Returns the cell as a job of the queue."""
        train = self.planned.settings.train
        return Job(self.seconds, self.seconds * train.checkpoint_every / train.steps if train.steps else self.seconds)


def matrix(preset: str, seeds: Sequence[int], attentions: Sequence[str]) -> list[Planned]:
    """Returns the cells of the full matrix that can be trained, in planned order.

    What can't be trained is told from what attentions declare, because data of a large preset take minutes to make.
    """
    run = RunSettings(
        tasks=["all"], attentions=[AttentionSpec(name=name) for name in attentions], preset=preset, seeds=list(seeds)
    )
    return [one for one in planned(run, []) if _is_supported(one)]


def _is_supported(one: Planned) -> bool:
    cls = load_attention(one.spec.name)
    patterns = task_declarations(one.task)["backbones"][one.backbone] if one.pattern == EVERY else (one.pattern,)
    streamed = streamed_patterns(one.task, one.backbone)
    return not any(
        pattern in dict(cls.unsupported) or (pattern in streamed and missing_methods(cls, pattern))
        for pattern in patterns
    )


def work(task: str, settings: Mapping[str, Any]) -> float:
    """Returns the arithmetic of a training: steps, examples, places and weights of the layers, multiplied.

    The figure only has a meaning beside others of the same task.  settings: with the groups data, model and train.
    """
    model, train = settings["model"], settings["train"]
    layers = sum(model.get(key, 0) for key in ("num_layers", "num_encoder_layers", "num_decoder_layers"))
    embed_dim = model["embed_dim"]
    feed_forward_dim = model.get("feed_forward_dim") or embed_dim * 4
    weights = layers * embed_dim * (4 * embed_dim + 2 * feed_forward_dim)
    known = {**settings["data"], **model}
    places = sum(known[key] for key in LENGTHS.get(task, ())) or 1
    return float(train["steps"] * train["batch_size"] * places * weights)


def records_of(folders: Sequence[Path]) -> list[Record]:
    """Returns the completed records of these folders.  Raises ValueError if there is none."""
    records = [read_record(path) for folder in folders for path in record_files(folder)]
    found = [one for one in records if one.is_completed and one.seconds and one.efficiency.train_seconds]
    if not found:
        raise ValueError(f"{', '.join(map(str, folders))}: no completed record")
    return found


def cell_times(cells: Sequence[Planned], preset: str, records: Sequence[Record], assumed: Assumed) -> list[CellTime]:
    """Returns how long each cell takes: the median of the records of its backbone and attention.

    If there are some of the preset itself, they count as they are.  Others are scaled; the ratios between attentions, and between
    evaluation and training, are kept.  An attention without a record is taken to be like the others of its backbone.
    """
    by_backbone = defaultdict(list)
    for record in records:
        by_backbone[record.cell.task, record.cell.backbone].append(record)
    times = []
    for one in cells:
        found = by_backbone[one.task, one.backbone]
        if not found:
            raise ValueError(f"{one.task}/{one.backbone}: no record; --records needs one of each backbone")
        found = [record for record in found if record.cell.preset == preset] or found
        found = [record for record in found if record.cell.attention == one.spec.name] or found
        is_measured = found[0].cell.preset == preset
        seconds = [record.seconds or 0.0 if is_measured else _scaled(one, record, assumed) for record in found]
        times.append(CellTime(one, statistics.median(seconds), "measured" if is_measured else "scaled"))
    return times


def with_further(times: Sequence[CellTime], count: int) -> list[CellTime]:
    """Adds further attentions to each site and seed, as many as are missing from ``count``; each takes the median time of the site's others."""
    sites = defaultdict(list)
    for time in times:
        one = time.planned
        sites[one.task, one.backbone, one.pattern, one.seed].append(time)
    registered = len({time.planned.spec.name for time in times})
    further = []
    for found in sites.values():
        median = sorted(found, key=lambda time: time.seconds)[len(found) // 2]
        further += [median._replace(source="assumed")] * max(0, count - registered)
    return [*times, *further]


def _scaled(one: Planned, record: Record, assumed: Assumed) -> float:
    """Returns the seconds of a cell, from the record of a smaller one on another device."""
    config = {"data": record.config.data, "model": record.config.model, "train": record.config.train}
    train_seconds, seconds = record.efficiency.train_seconds or 0.0, record.seconds or 0.0
    settings = one.settings.plain()
    training = train_seconds * work(one.task, settings) / work(one.task, config) / assumed.speedup
    training = max(training, settings["train"]["steps"] * assumed.least_step)
    return training * seconds / train_seconds


class Row(NamedTuple):
    """The simulated runs of one number of GPUs, in one order of cells."""

    gpus: int
    order: str
    outcomes: Sequence[Outcome]
    ideal: float  # seconds, if the work could be cut into any parts and nothing failed

    def mean(self, name: str) -> float:
        """Returns the mean of a figure over the simulated runs."""
        return statistics.fmean(getattr(outcome, name) for outcome in self.outcomes)

    def paid(self) -> float:
        """Returns the mean GPU hours: from the first start to the last record, without the time in which machines were replaced."""
        return self.gpus * self.mean("wall") / HOUR - self.mean("down") / HOUR


def simulated(jobs: Sequence[Job], gpus: Sequence[int], machines: Machines, draws: int) -> list[Row]:
    """Simulates the jobs on each number of GPUs, in planned order and with the longest first."""
    rows = []
    for order, ordered in (("planned", list(jobs)), ("longest first", longest_first(jobs))):
        for count in gpus:
            own = machines._replace(workers=count)
            outcomes = [simulate(ordered, own, np.random.default_rng(seed)) for seed in range(draws)]
            rows.append(Row(count, order, outcomes, sum(job.seconds for job in jobs) / count))
    return rows


def markdown(rows: Sequence[Row], price: float) -> str:
    """Returns the rows as a markdown table."""
    lines = [
        "| GPUs | order | wall time, h (5 to 95 %) | without failures or waiting, h | GPU hours | cost | reruns | work done twice, h |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = np.quantile([outcome.wall / HOUR for outcome in row.outcomes], [0.05, 0.95])
        lines.append(
            f"| {row.gpus} | {row.order} | {row.mean('wall') / HOUR:,.2f} ({low:,.2f} to {high:,.2f}) | {row.ideal / HOUR:,.2f} | "
            f"{row.paid():,.0f} | {price * row.paid():,.0f} | {row.mean('reruns'):,.1f} | {row.mean('lost') / HOUR:,.2f} |"
        )
    return "\n".join(lines)


def draw_figure(rows: Sequence[Row], path: Path) -> None:
    """Draws wall time and GPU hours over the number of GPUs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time, hours = figure.subplots(1, 2)
    for order in dict.fromkeys(row.order for row in rows):
        own = [row for row in rows if row.order == order]
        gpus = [row.gpus for row in own]
        time.plot(gpus, [row.mean("wall") / HOUR for row in own], "o-", label=order)
        hours.plot(gpus, [row.paid() for row in own], "o-", label=order)
    first = rows[0]
    shares = [row for row in rows if row.order == first.order]
    time.plot([row.gpus for row in shares], [row.ideal / HOUR for row in shares], "k:", label="no failures, no waiting")
    for axes, label in ((time, "wall time (h)"), (hours, "GPU hours paid")):
        axes.set_xscale("log", base=2)
        axes.set_xticks([row.gpus for row in shares], [str(row.gpus) for row in shares])
        axes.set_xlabel("GPUs")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    time.set_yscale("log")
    time.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


class Checked(NamedTuple):
    """A real run beside its simulation.  predicted, wall: seconds from the first claim to the last record."""

    cells: int
    workers: int
    predicted: float
    wall: float


def checked(folder: Path, workers: int) -> Checked:
    """Simulates a real run from the seconds of its cells, claimed in the order in which they began."""
    records = sorted(records_of([folder]), key=lambda record: record.started or "")
    begin = [datetime.fromisoformat(record.started or "").timestamp() for record in records]
    seconds = [record.seconds or 0.0 for record in records]
    wall = max(start + took for start, took in zip(begin, seconds, strict=True)) - begin[0]
    outcome = simulate([Job(took) for took in seconds], Machines(workers))
    return Checked(len(records), workers, outcome.wall, wall)


def _numbers(text: str, name: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r}: whole numbers from 1, separated by commas", param_hint=name)
    return numbers


def main(
    check: Annotated[
        list[Path] | None, typer.Option("--check", help="Folder of records of a real run; may be given again.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Number of workers of each checked run, separated by commas.")] = "1",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Figure: a .pdf, .png or .svg file.")] = None,
    preset: Annotated[str, typer.Option(help="Preset of the matrix.")] = "gpu",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    attentions: Annotated[str, typer.Option("--attention", "-a", help="Names separated by commas, or all.")] = "all",
    num_attentions: Annotated[
        int,
        typer.Option(help="Assumed: number of attentions, if more than the named ones; further ones take the median."),
    ] = 0,
    records: Annotated[list[Path] | None, typer.Option(help="Folder of measured records; may be given again.")] = None,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, separated by commas.")] = "1,8,64,512",
    speedup: Annotated[
        float, typer.Option(help="Assumed: a GPU's speed as a multiple of a core of the records.")
    ] = 5000.0,
    least_step: Annotated[float, typer.Option(help="Assumed: the least seconds of a step on the GPU.")] = 0.04,
    failure_hours: Annotated[
        float, typer.Option(help="Assumed: mean hours between failures of one GPU; 0 for none.")
    ] = 50_000.0,
    repair_minutes: Annotated[float, typer.Option(help="Assumed: minutes until a failed GPU is replaced.")] = 30.0,
    preemption_hours: Annotated[
        float, typer.Option(help="Assumed: mean hours between preemptions of one GPU; 0 for none.")
    ] = 12.0,
    requeue_minutes: Annotated[float, typer.Option(help="Assumed: minutes until a preempted job runs again.")] = 5.0,
    start: Annotated[float, typer.Option(help="Assumed: seconds from a worker's start to its first claim.")] = 60.0,
    setup: Annotated[float, typer.Option(help="Assumed: seconds from a claim to the first step.")] = 20.0,
    lease: Annotated[float, typer.Option(help="Seconds of --lease.")] = 60.0,
    price: Annotated[float, typer.Option(help="Assumed: price of a GPU hour.")] = 2.5,
    draws: Annotated[int, typer.Option(min=1, help="Simulated runs for each row.")] = 20,
) -> None:
    """Prints what the full matrix costs on a cluster, or compares the model with real runs (--check)."""
    if check:
        counts = _numbers(workers, "--workers")
        if len(counts) != len(check):
            raise typer.BadParameter(f"{workers}: one number for each of {len(check)} folders", param_hint="--workers")
        print("| cells | workers | predicted wall time, s | measured, s | difference |\n|---|---|---|---|---|")
        for folder, count in zip(check, counts, strict=True):
            try:
                one = checked(folder, count)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--check") from None
            difference = 100 * (one.predicted / one.wall - 1)
            print(f"| {one.cells} | {one.workers} | {one.predicted:.1f} | {one.wall:.1f} | {difference:+.1f} % |")
        return
    try:
        cells = matrix(preset, [int(seed) for seed in seeds.split(",")], attentions.split(","))
        folders = records or [Path("results/quick")]
        times = cell_times(cells, preset, records_of(folders), Assumed(speedup, least_step))
        times = with_further(times, num_attentions)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    rates = [(failure_hours * HOUR, repair_minutes * 60), (preemption_hours * HOUR, requeue_minutes * 60)]
    machines = Machines(1, [rate for rate in rates if rate[0] > 0], start, setup, lease)
    rows = simulated([time.job() for time in times], _numbers(gpus, "--gpus"), machines, draws)
    print(f"{len(times)} cells of preset {preset}: {_sources(times)}; {_spread(times)}.")
    print(
        f"Assumed: a GPU {speedup:,.0f} times as fast as a core of the records, steps of at least {least_step} s, a failure every "
        f"{failure_hours:,.0f} h and a preemption every {preemption_hours:g} h of a GPU, {repair_minutes:g} and {requeue_minutes:g} min until it is "
        f"replaced, {start:g} s to start and {setup:g} s to set a cell up, a lease of {lease:g} s, {price:g} a GPU hour.\n"
    )
    print(markdown(rows, price))
    if output is not None:
        draw_figure(rows, output)


def _sources(times: Sequence[CellTime]) -> str:
    words = {
        "measured": "with measured times",
        "scaled": "with times scaled from those of a smaller preset",
        "assumed": "of further attentions, with the median time of their site",
    }
    counts = {source: sum(time.source == source for time in times) for source in words}
    return ", ".join(f"{count} {words[source]}" for source, count in counts.items() if count)


def _spread(times: Sequence[CellTime]) -> str:
    """Returns the median minutes of a cell, by backbone."""
    by_backbone = defaultdict(list)
    for time in times:
        by_backbone[time.planned.backbone].append(time.seconds / 60)
    medians = ", ".join(f"{name} {statistics.median(minutes):.1f}" for name, minutes in by_backbone.items())
    return f"median minutes of a cell: {medians}"


if __name__ == "__main__":
    typer.run(main)
