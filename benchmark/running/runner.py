"""Runs one cell; the one place that turns an exception into a record."""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.interface import HasCurves, Splits, Task
from benchmark.measuring import memory
from benchmark.results import SCHEMA_VERSION, Status, read_record, write_record
from benchmark.running import provenance
from benchmark.settings.cell import Cell, without_places
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import TrainSettings

CHECKPOINTS = ".checkpoints"  # below the output folder; what begins with a dot is work in progress


@dataclass(frozen=True)
class Place:
    """Where and on what cells run."""

    output: Path
    cache: Path
    device: str = "cpu"
    threads: int = 1
    include: tuple[Path, ...] = ()
    debug: bool = False
    rank: int = 0  # of the processes that train one cell together (torchrun): the first alone writes
    processes: int = 1  # how many these are


@dataclass(frozen=True)
class Event:
    """What the caller may show: a cell's start, progress, end."""

    kind: str  # start, progress, end
    cell: Cell
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    phase: str = ""
    record: Mapping[str, Any] | None = None


Listener = Callable[[Event], None]


def probe_output(output: Path) -> None:
    """Raises ConfigError where records could not be written, before anything is trained."""
    if output.suffix:
        raise ConfigError(f"-o {output}: names a file ({output.suffix}); a folder for the records is wanted")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"-o {output}: exists and is not a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output, prefix=".probe"):
            pass
    except OSError as error:
        raise ConfigError(f"-o {output}: can't be written to: {error.strerror}") from None


def to_run(cells: Iterable[Cell], output: Path, *, rerun: bool = False, retry_failed: bool = False) -> list[Cell]:
    """The cells that have no record yet; with ``retry_failed`` also those whose record isn't ``completed``."""
    done = ("completed", "unsupported") if retry_failed else ("completed", "unsupported", "failed", "out_of_memory")
    return [cell for cell in cells if rerun or status_of(cell, output) not in done]


def status_of(cell: Cell, output: Path) -> str | None:
    """The status of a cell's record; None where it has none, or a damaged one."""
    path = cell.path(output)
    try:
        return read_record(path)["status"] if path.is_file() else None
    except ValueError:
        return None


def run_cell(cell: Cell, place: Place, listen: Listener = lambda _: None) -> dict[str, Any]:
    """Trains, evaluates and writes one cell; whatever goes wrong in it is its record, not the caller's problem."""
    started, clock = datetime.now(UTC), time.perf_counter()
    content: dict[str, Any] = {}
    columns: Mapping[str, np.ndarray] | None = None
    status, reason = "completed", None
    if cell.unsupported is not None:
        status, reason = "unsupported", cell.unsupported
    else:
        try:
            content, columns = _measured(cell, place, listen)
        except Exception as error:
            if place.debug:
                traceback.print_exc()
            status, reason = _verdict(error)
    record = {
        **_empty_record(cell, place, status, reason, started),
        **content,
        "seconds": round(time.perf_counter() - clock, 3),
    }
    if place.rank == 0:
        write_record(cell.path(place.output), record, columns)
        if status == "completed":
            from benchmark.running import checkpoint

            checkpoint.remove(_checkpoint_folder(cell, place))
    return record


def _empty_record(cell: Cell, place: Place, status: str, reason: str | None, started: datetime) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "cell": cell.describe(),
        "config": without_places(cell.config),
        "status": status,
        "reason": reason,
        "metrics": {},
        "examples": None,
        "controls": {},
        "curves": {},
        "efficiency": {},
        "data": {},
        "environment": provenance.environment(place.device)
        | ({"processes": place.processes, "parallel": cell.parallel} if place.processes > 1 else {}),
        "started": started.isoformat(timespec="seconds"),
    }


def _verdict(error: Exception) -> tuple[Status, str]:
    """Status and one line."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    status: Status = "out_of_memory" if memory.is_out_of_memory(error) else "failed"
    return status, f"{type(error).__name__}: {line}"


def _checkpoint_folder(cell: Cell, place: Place) -> Path:
    return place.output / CHECKPOINTS / cell.hash


def _measured(cell: Cell, place: Place, listen: Listener) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """What a completed cell's record says, and its values by example."""
    import torch

    from benchmark.multihead import AttentionSites
    from benchmark.running.trainer import Progress, Trainer, measure

    task, splits, train = _task_of(cell, place)
    torch.manual_seed(cell.seed)
    sites = AttentionSites(cell.attention, cell.pattern, cell.config["options"])
    model = task.build_model(sites)
    base = memory.reset_peak(place.device)

    def report(progress: Progress) -> None:
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
    )
    training = trainer.run()
    peak = memory.peak_bytes(place.device)
    listen(Event("progress", cell, training.num_steps, training.num_steps, None, "testing"))
    columns = trainer.evaluate(splits.test)
    curves: dict[str, Any] = {"training": training.curve, "validation": training.validation}
    if isinstance(task, HasCurves):
        curves |= task.curves(trainer.bare)
    seconds, sequence = max(training.seconds, 1e-9), trainer.sequence
    extra = sum(p.numel() for layer in sites.replaced for p in layer.attention.parameters())
    content = {
        "metrics": measure(task.metrics, columns),
        "controls": _controls(cell, task, splits),
        "curves": curves,
        "efficiency": {
            "tokens_per_second": round(training.tokens / seconds, 1) if training.tokens else None,
            "examples_per_second": round(training.examples / seconds, 2),
            "train_seconds": round(training.seconds, 3),
            "steps": training.step,
            "best_step": training.best_step,
            "base_bytes": base,
            "peak_bytes": peak,
            "parameters": sum(p.numel() for p in trainer.bare.parameters()),
            "extra_parameters": extra,
            "replaced_layers": len(sites.replaced),
            "kernels": sorted({layer.kernel for layer in sites.replaced} | (sequence.kernels if sequence else set())),
            **(sequence.efficiency() if sequence else {}),
        },
        "data": {
            "name": splits.name,
            "embedded": splits.embedded,
            "sha256": splits.fingerprint,
            "details": {
                **splits.details,
                "examples": {
                    "train": len(splits.train),
                    "validation": len(splits.validation),
                    "test": len(splits.test),
                },
            },
        },
    }
    return content, columns


def _task_of(cell: Cell, place: Place) -> tuple[Task, Splits, TrainSettings]:
    from benchmark.registry import load_task

    settings = {key: cell.config[key] for key in cell.config if key not in ("train", "options", "limit")}
    cls: Any = load_task(cell.task)
    task: Task = cls(cls.settings[cell.backbone].model_validate(settings), backbone=cell.backbone)
    splits = task.load_data(cell.data_root, place.cache)
    return task, splits, TrainSettings.model_validate({**cell.config["train"], "parallel": cell.parallel})


_control_figures: dict[str, dict[str, Any]] = {}  # of this process: many cells share their data


def _controls(cell: Cell, task: Task, splits: Splits) -> dict[str, Any]:
    """What trivial rules score on the same test examples: name -> metric -> value."""
    shared = {key: cell.config[key] for key in cell.config if key not in ("train", "options")}
    key = json.dumps([cell.task, cell.backbone, splits.fingerprint, shared], sort_keys=True, default=str)
    if key not in _control_figures:
        limit = cell.config["limit"]
        _control_figures[key] = {
            name: {metric: task.metrics[metric].value(_first(columns, limit)) for metric in task.metrics}
            for name, columns in task.controls().items()
        }
    return _control_figures[key]


def _first(columns: Mapping[str, np.ndarray], limit: int | None) -> Mapping[str, np.ndarray]:
    return {name: values[:limit] for name, values in columns.items()}


def run_together(cells: Sequence[Cell], place: Place, listen: Listener = lambda _: None) -> None:
    """Runs cells one after another in this process, which is one of several that torchrun started for each cell.

    The same cells must be given to all of them.  A cell that fails in one process and not in the others leaves these waiting,
    until torchrun, which sees this one end, ends them.
    """
    import torch

    memory.keep_freed_memory()
    torch.set_num_threads(place.threads)
    for cell in cells:
        listen(Event("start", cell))
        record = run_cell(cell, place, listen)
        listen(Event("end", cell, record=record))
        if record["status"] not in ("completed", "unsupported") and torch.distributed.is_initialized():
            raise RuntimeError(f"{cell.title} on process {place.rank}: {record['reason']}")
