"""Runs one cell (one training and evaluation).  Only this module turns an exception into a record."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark.extras import explained
from benchmark.files import as_machine_fault, is_machine_fault, probe, remove_abandoned, write_bytes
from benchmark.interface import CLUSTER, Clustered, HasCurves, LearnsRules, ScoresTestInFull, Splits, Task
from benchmark.measuring import memory
from benchmark.results import CellConfig, DataSource, Efficiency, MetricValue, Record, Status, record_at, write_record
from benchmark.running import checkpoint, provenance
from benchmark.running.claims import LEASE_SECONDS, Claims, LostClaim, Ticket
from benchmark.running.logs import Curve, curve_of
from benchmark.running.publish import attempt_of, publish, settle
from benchmark.settings.cell import Cell, without_places
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import TrainSettings

CHECKPOINTS = ".checkpoints"  # folder in the output folder; names that begin with a dot are work in progress
AFTER = "after"  # file beside checkpoints of a cell that is run again: ``attempt_of`` the record that it had


@dataclass(frozen=True)
class Place:
    """Where and how cells run: folders, device, included files, processes."""

    output: Path
    cache: Path
    device: str = "cpu"
    include: tuple[Path, ...] = ()
    debug: bool = False
    cell_timeout: float = 3600.0  # seconds without progress after which a cell is ended
    part: Literal["test", "validation"] = (
        "test"  # on which cells are judged; validation for trials, whose records aren't results
    )
    lease: float = LEASE_SECONDS  # without a sign of life, after which other processes may take a cell over
    processes: int = 1  # number of processes (torchrun) that train each cell together
    rank: int = 0  # of this process among them; only rank 0 writes records
    log: tuple[str, ...] = ()  # forms in which training curves are also written (logs.py)


@dataclass(frozen=True)
class Event:
    """Something that happened to a cell; the display shows it."""

    # start, progress, silent (no progress for ``seconds``), end, lost (another process has taken the cell), fault (the machine
    # failed: ``reason``)
    kind: str
    cell: Cell
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    phase: str = ""
    record: Record | None = None
    seconds: float = 0.0
    reason: str = ""


Listener = Callable[[Event], None]


def probe_output(output: Path) -> None:
    """Raises ConfigError if records can't be written to this folder, before anything is trained in vain."""
    if (scheme := output.parts[0] if output.parts else "").endswith(":") and len(
        scheme
    ) > 2:  # of ``s3://…``, as a path
        raise ConfigError(
            f"-o {output}: an address ({scheme}//…); an object store can't create a file only if it isn't there, as claims on "
            "cells need; a folder of a shared file system is wanted"
        )
    if output.suffix:
        raise ConfigError(f"-o {output}: names a file ({output.suffix}); a folder for the records is wanted")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"-o {output}: exists and is not a folder")
    try:
        probe(output)
    except OSError as error:
        raise ConfigError(f"-o {output}: can't be written to: {error.strerror}") from None


class Redo(NamedTuple):
    """Which cells are run again although they have a record: those that failed, or all.

    seen: hash of a cell -> ``attempt_of`` the failed record that is to be replaced.  A cell that has failed again since has another
    one, and isn't run a third time by the next of several processes.  None for whatever failed record there is.
    """

    failed: bool = False
    everything: bool = False
    seen: Mapping[str, str] | None = None

    def wants(self, cell: Cell, output: Path) -> bool:
        """Returns whether the cell must be run: it has no record, a damaged one, or one that is to be made anew.

        Raises MachineFault if the record is there and can't be read.
        """
        return self.everything or self.wants_after(cell, _record_of(cell, output))

    def wants_after(self, cell: Cell, record: Record | None) -> bool:
        """Returns whether the cell must be run if this is its record, or None if it has none that can be read."""
        if self.everything or record is None:
            return True
        if not self.failed or record.status in ("completed", "unsupported"):
            return False
        return self.seen is None or self.seen.get(cell.hash) == attempt_of(record)


NOTHING_ANEW = Redo()


def without_result(cells: Iterable[Cell], output: Path) -> Redo:
    """Returns which of these cells to run again where a training that diverged counts as a result, and other failures don't."""
    failed = {
        cell.hash: attempt_of(record)
        for cell in cells
        if (record := _record_of(cell, output)) is not None and not has_diverged(record)
    }
    return Redo(failed=True, seen=failed)


def to_run(cells: Iterable[Cell], output: Path, redo: Redo = NOTHING_ANEW) -> list[Cell]:
    """Returns the cells that must be run."""
    return [cell for cell in cells if redo.wants(cell, output)]


def clean(
    output: Path,
    cells: Iterable[Cell],
    *,
    cache: Path | None = None,
    redo: Redo = NOTHING_ANEW,
    lease: float = LEASE_SECONDS,
) -> None:
    """Removes what killed runs left behind: temporary files, and checkpoints of cells that have a record.

    Records whose publication was interrupted are completed.  redo: which cells are run again; checkpoints from which they, or another
    process that runs them again now, can go on are kept.  lease: seconds after which a claim has expired.
    """
    settle(output)
    remove_abandoned(output)
    if cache is not None:
        remove_abandoned(cache, below=False)
    claims, done = Claims(output, lease), []
    for cell in cells:
        record = _record_of(cell, output)
        if record is None:
            continue
        is_done = not redo.wants_after(cell, record)
        folder = output / CHECKPOINTS / cell.hash
        if folder.exists() and (not _came_after(record, folder) or (is_done and claims.is_free(cell.hash))):
            checkpoint.remove(folder)
        if is_done:
            done.append(cell.hash)
    left = claims.traces().intersection(done)  # listed after the records were seen, so that none is missed
    for name in left:
        claims.discard(name)
    claims.discard_unwritten(left)
    claims.release_all()
    remove_if_empty(output)


def remove_checkpoints(cell: Cell, output: Path) -> None:
    """Removes the checkpoints of a cell, so that it starts anew."""
    checkpoint.remove(output / CHECKPOINTS / cell.hash)


def _drop_older_checkpoints(cell: Cell, place: Place) -> None:
    """Removes checkpoints that are older than the cell's record, and notes that those of this attempt are newer.

    So a cell that has failed starts anew, but if that second attempt is interrupted, a third process goes on with it.  The note
    names the record, because times of files on several machines can't be compared.
    """
    record, folder = _record_of(cell, place.output), _checkpoint_folder(cell, place)
    if record is not None and not _came_after(record, folder):
        checkpoint.remove(folder)
        write_bytes(folder / AFTER, attempt_of(record).encode())


def _came_after(record: Record, folder: Path) -> bool:
    """Returns whether the checkpoints in this folder are of an attempt that began when the cell had this record."""
    try:
        return (folder / AFTER).read_bytes() == attempt_of(record).encode()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise as_machine_fault(error, str(folder / AFTER)) from error


def remove_if_empty(output: Path) -> None:
    """Removes the folder of checkpoints if there is none in it."""
    with suppress(OSError):
        (output / CHECKPOINTS).rmdir()


def status_of(cell: Cell, output: Path) -> str | None:
    """Returns the status in a cell's record, or None if the record is missing or damaged."""
    record = _record_of(cell, output)
    return None if record is None else record.status


def attempts_that_failed(cells: Iterable[Cell], output: Path) -> dict[str, str]:
    """Returns hash -> ``attempt_of`` the record, for the cells that have failed."""
    records = {cell.hash: _record_of(cell, output) for cell in cells}
    return {
        cell: attempt_of(record)
        for cell, record in records.items()
        if record is not None and record.status in ("failed", "out_of_memory")
    }


def _record_of(cell: Cell, output: Path) -> Record | None:
    return record_at(cell.path(output))


class Figures(NamedTuple):
    """What only the record of a completed cell contains."""

    metrics: Mapping[str, MetricValue]
    controls: Mapping[str, Mapping[str, float | None]]
    efficiency: Efficiency
    data: DataSource
    columns: Mapping[str, np.ndarray]  # one value for each test example
    curves: Mapping[str, Any]


def run_cell(
    cell: Cell,
    place: Place,
    listen: Listener = lambda _: None,
    ticket: Ticket | None = None,
    agree: Callable[[Record], None] = lambda _: None,
) -> Record:
    """Trains and evaluates one cell, and writes its record.  An error of the cell goes into the record and is not raised.

    ticket: of the claim under which the cell runs.  Without one no other process may work in the folder.
    agree: called before the record is written; waits for other processes that train the cell together with this one.
    Raises MachineFault if the machine fails; the cell then gets no record, because it is not at fault.  Raises LostClaim if
    another process has taken the cell.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    figures: Figures | None = None
    status: Status = "completed"
    reason = None
    if cell.unsupported is not None:
        status, reason = "unsupported", cell.unsupported
    else:
        try:
            if not place.rank:  # which alone reads checkpoints
                _drop_older_checkpoints(cell, place)
            with curve_of(cell, place.output, () if place.rank else place.log) as curve:
                figures = _measured(cell, place, listen, curve if place.log else None)
        except LostClaim:
            raise
        except Exception as error:
            if is_machine_fault(error):
                raise as_machine_fault(error, cell.title) from error
            if place.debug:
                traceback.print_exc()
            if isinstance(error, ModuleNotFoundError):
                error = explained(error, cell.name.task) or error
            status, reason = _verdict(error)
    record = record_without_figures(cell, place, status, reason, started)
    if figures is not None:
        record = replace(
            record,
            metrics=figures.metrics,
            controls=figures.controls,
            efficiency=figures.efficiency,
            data=figures.data,
        )
    record = replace(record, seconds=round(time.perf_counter() - clock, 3))
    agree(record)
    if place.rank:
        return record
    steps = 0 if figures is None else figures.efficiency.steps or 0
    listen(Event("progress", cell, steps, steps, phase="writing"))  # where a copy of the process, made by os.fork, ends
    columns, curves = (None, None) if figures is None else (figures.columns, figures.curves)
    if ticket is None:
        record = write_record(cell.path(place.output), record, columns, curves)
    else:
        record = publish(place.output, record, ticket, cell.path(place.output), columns, curves)
    checkpoint.remove(_checkpoint_folder(cell, place))
    return record


def record_without_figures(cell: Cell, place: Place, status: Status, reason: str | None, started: datetime) -> Record:
    """Returns a record with the cell's names, settings, environment and outcome, but without figures."""
    environment = provenance.environment(place.device)
    if place.processes > 1:
        environment = replace(environment, processes=place.processes, parallel=cell.parallel)
    return Record(
        cell=cell.name,
        status=status,
        reason=reason,
        config=CellConfig(**without_places(cell.config), learning_rate_from=cell.rate_from),  # type: ignore[arg-type]
        environment=environment,
        versions=cell.versions,
        started=started.isoformat(timespec="seconds"),
    )


def _verdict(error: Exception) -> tuple[Status, str]:
    """Returns the status and the one-line reason for a cell that raised this error."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    status: Status = "out_of_memory" if memory.is_out_of_memory(error) else "failed"
    return status, f"{type(error).__name__}: {line}"


def has_diverged(record: Record) -> bool:
    """Returns whether its training diverged.  That is a result; any other failure says nothing of the cell's settings."""
    return record.status == "failed" and (record.reason or "").startswith("Diverged:")


def _checkpoint_folder(cell: Cell, place: Place) -> Path:
    return place.output / CHECKPOINTS / cell.hash


def _measured(cell: Cell, place: Place, listen: Listener, curve: Curve | None) -> Figures:
    """Trains and tests the cell's model.  Raises any exception of the data, the attention or the training."""
    import torch

    from benchmark.multihead import AttentionSites
    from benchmark.running.trainer import Progress, Trainer, measured_metrics

    task, splits, train = _task_of(cell, place)
    torch.manual_seed(cell.seed)
    sites = AttentionSites(cell.attention, cell.pattern, cell.config["options"])
    model = task.build_model(sites)
    base = memory.reset_peak(place.device)

    def report(progress: Progress) -> None:
        """Passes the trainer's progress on to the display."""
        listen(Event("progress", cell, progress.step, progress.num_steps, progress.loss, progress.phase))

    trainer = Trainer(
        task,
        model,
        splits,
        train,
        seed=cell.seed,
        folder=_checkpoint_folder(cell, place),
        device=place.device,
        limit=cell.config["limit"],
        report=report,
        curve=curve,
    )
    training = trainer.run()
    peak = memory.peak_bytes(place.device)
    listen(Event("progress", cell, training.num_steps, training.num_steps, None, "testing"))
    is_trial = place.part == "validation"
    part = validation_as_test(task, splits) if is_trial else splits.test
    columns = _with_clusters(trainer.evaluate(part), part)
    curves: dict[str, Any] = {"training": training.curve, "validation": training.validation}
    if isinstance(task, HasCurves) and not is_trial:
        curves |= task.curves(trainer.bare)
    seconds = max(training.seconds, 1e-9)
    kernels = {layer.kernel for layer in sites.replaced} | trainer.way.kernels
    efficiency = Efficiency(
        tokens_per_second=round(training.tokens / seconds, 1) if training.tokens else None,
        examples_per_second=round(training.examples / seconds, 2),
        train_seconds=round(training.seconds, 3),
        steps=training.step,
        best_step=training.best_step,
        base_bytes=base,
        peak_bytes=peak,
        parameters=sum(p.numel() for p in trainer.bare.parameters()),
        extra_parameters=sum(p.numel() for layer in sites.replaced for p in layer.attention.parameters()),
        replaced_layers=len(sites.replaced),
        kernels=sorted(kernels),
        attention_bytes_sent_per_step=trainer.way.attention_bytes_sent_per_step(),
    )
    examples = {part: len(getattr(splits, part)) for part in ("train", "validation", "test")}
    data = DataSource(splits.name, splits.embedded, splits.fingerprint, {**splits.details, "examples": examples})
    return Figures(
        measured_metrics(task.metrics, columns),
        {} if is_trial else _controls(cell, task, splits, trainer.num_steps * train.batch_size),
        efficiency,
        data,
        columns,
        curves,
    )


def validation_as_test(task: Task, splits: Splits) -> Sequence[Any]:
    """Returns the validation examples such that ``score`` gives for them all that it gives for test examples."""
    return task.as_test(splits.validation) if isinstance(task, ScoresTestInFull) else splits.validation


def _with_clusters(columns: Mapping[str, np.ndarray], part: Sequence[Any]) -> Mapping[str, np.ndarray]:
    """Adds the column of clusters, if examples of the part depend on each other."""
    if not isinstance(part, Clustered):
        return columns
    count = len(next(iter(columns.values())))
    return {**columns, CLUSTER: part.clusters[:count]}


def _task_of(cell: Cell, place: Place) -> tuple[Task, Splits, TrainSettings]:
    from benchmark.registry import load_task, make_task

    settings = {key: cell.config[key] for key in cell.config if key not in ("train", "options", "limit")}
    cls: Any = load_task(cell.task)
    checked = cls.settings_of[cell.backbone].model_validate(settings)
    task: Task = make_task(cell.task, checked, backbone=cell.backbone, pattern=cell.pattern)
    try:
        splits = task.load_data(cell.data_root, place.cache)
    except OSError as error:  # the machine's, because the plan could read the same files a moment ago
        raise as_machine_fault(error, cell.title) from error
    return task, splits, TrainSettings.model_validate({**cell.config["train"], "parallel": cell.parallel})


# What trivial rules score, kept for the whole process, because many cells share the same data.
_control_figures: dict[str, dict[str, Any]] = {}


def _controls(cell: Cell, task: Task, splits: Splits, num_examples: int) -> dict[str, Any]:
    """Returns what trivial rules score on the cell's test examples: rule -> metric -> value.

    num_examples: on which the model is trained; rules that learn see no more.
    """
    shared = {key: cell.config[key] for key in cell.config if key not in ("train", "options")}
    seen = num_examples if isinstance(task, LearnsRules) else None
    pattern = cell.pattern if getattr(task, "separate_models", False) else None
    key = json.dumps([cell.task, cell.backbone, pattern, splits.fingerprint, shared, seen], sort_keys=True, default=str)
    if key not in _control_figures:
        limit = cell.config["limit"]
        rules = task.controls_after(num_examples) if isinstance(task, LearnsRules) else task.controls()
        _control_figures[key] = {
            name: {metric: task.metrics[metric].value(_first(columns, limit)) for metric in task.metrics}
            for name, columns in rules.items()
        }
    return _control_figures[key]


def _first(columns: Mapping[str, np.ndarray], limit: int | None) -> Mapping[str, np.ndarray]:
    return {name: values[:limit] for name, values in columns.items()}
