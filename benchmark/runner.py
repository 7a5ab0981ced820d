"""Runs cells in persistent workers; the one place that turns an exception into a record."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import memory, provenance
from benchmark.cell import Cell, without_places
from benchmark.config import ConfigError, TrainSettings
from benchmark.interface import Splits, Task
from benchmark.results import SCHEMA_VERSION, Status, read_record, write_record

CHECKPOINTS = ".checkpoints"  # below the output folder; what begins with a dot is work in progress
REPORT_SECONDS = 0.2  # between two messages of a worker about its progress


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
            from benchmark import checkpoint

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
    import torch

    line = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return ("out_of_memory" if out_of_memory else "failed"), f"{type(error).__name__}: {line}"


def _checkpoint_folder(cell: Cell, place: Place) -> Path:
    return place.output / CHECKPOINTS / cell.hash


def _measured(cell: Cell, place: Place, listen: Listener) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
    """What a completed cell's record says, and its values by example."""
    import torch

    from benchmark.multihead import AttentionSites
    from benchmark.trainer import Progress, Trainer, measure

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
    curves = {"training": training.curve, "validation": training.validation}
    if hasattr(task, "curves"):
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


# Workers


def _work(pipe: Connection, place: Place) -> None:
    """A worker's life: cells come in, events go out.  Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not place.debug:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  libraries' warnings would tear the progress display
    import torch

    memory.keep_freed_memory()
    torch.set_num_threads(place.threads)
    from benchmark.registry import include_file

    for path in place.include:
        include_file(path)
    last = 0.0

    def send(event: Event) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS or event.phase != "training":
            last = time.monotonic()
            try:
                pipe.send(event)
            except BrokenPipeError:  # the parent is gone: the cell was interrupted, it did not fail
                raise SystemExit from None

    while (cell := pipe.recv()) is not None:
        record = run_cell(cell, place, send)
        pipe.send(Event("end", cell, record=record))


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    cell: Cell | None = None


def run_cells(cells: Sequence[Cell], place: Place, *, jobs: int, listen: Listener = lambda _: None) -> None:
    """Runs cells, ``jobs`` at a time; each leaves its record.  Ctrl-C ends the workers and is raised again.

    With GPUs each worker has its own, in turn.
    """
    waiting = list(reversed(cells))
    jobs = max(1, min(jobs, len(waiting)))
    places = [_own_device(place, number) for number in range(jobs)]
    workers = [_start(own) for own in places]
    try:
        for worker in workers:
            _give(worker, waiting, listen)
        while any(worker.cell is not None for worker in workers):
            busy = {worker.pipe: number for number, worker in enumerate(workers) if worker.cell is not None}
            for pipe in wait(list(busy)):
                number = busy[pipe]  # type: ignore[index]
                if not _read(workers[number], waiting, listen):
                    workers[number] = _replace(workers[number], places[number], waiting, listen)
    finally:
        for worker in workers:
            _stop(worker)


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


def _own_device(place: Place, number: int) -> Place:
    if place.device != "cuda":
        return place
    import torch

    return Place(**{**vars(place), "device": f"cuda:{number % torch.cuda.device_count()}"})


def _start(place: Place) -> _Worker:
    context = multiprocessing.get_context("spawn")  # fork would copy torch's threads in an unknown state
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, place), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Cell], listen: Listener) -> None:
    worker.cell = waiting.pop() if waiting else None
    if worker.cell is not None:
        listen(Event("start", worker.cell))
        worker.pipe.send(worker.cell)


def _read(worker: _Worker, waiting: list[Cell], listen: Listener) -> bool:
    """Handles one message; False where the worker is dead."""
    try:
        event: Event = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return False
    listen(event)
    if event.kind == "end":
        try:
            _give(worker, waiting, listen)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


def _replace(worker: _Worker, place: Place, waiting: list[Cell], listen: Listener) -> _Worker:
    """A worker died in a cell: the cell gets its record, and a new worker goes on."""
    worker.process.join()
    code, cell = worker.process.exitcode, worker.cell
    assert cell is not None
    if code == -signal.SIGKILL:
        status, reason = "out_of_memory", "the worker was killed (signal 9), as the system does when memory runs out"
    else:
        ended = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        status, reason = "failed", f"the worker process ended by itself ({ended})"
    record = {**_empty_record(cell, place, status, reason, datetime.now(UTC)), "seconds": None}
    write_record(cell.path(place.output), record)
    listen(Event("end", cell, record=record))
    new = _start(place)
    _give(new, waiting, listen)
    return new


def _stop(worker: _Worker) -> None:
    if worker.cell is None and worker.process.is_alive():
        try:
            worker.pipe.send(None)
            worker.process.join(timeout=5)
        except (BrokenPipeError, OSError):
            pass
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
    worker.pipe.close()


def default_jobs(device: str) -> tuple[int, int]:
    """Workers, and threads of each: one single-threaded worker a core, or one worker a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        import torch

        gpus = torch.cuda.device_count() if device == "cuda" else 1
        return gpus, max(1, cores // gpus)
    return cores, 1
