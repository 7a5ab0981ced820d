"""Training curves for other programs: TensorBoard's event files, and trackio's database, in ``logs/`` beside the records.

They show the training while it runs.  Records, hashes and reports don't depend on them.  Nothing is sent anywhere, no server is
started, and no host or user name is written:

tensorboard   Events are written by TensorBoard's own encoder.  Its file writer is not used, because it puts the host's name into
              the names of files.
trackio       Rows are written by trackio's storage.  ``trackio.init`` is not used, because it asks the Hugging Face Hub for the
              user's name and stores it, and starts threads that watch the machine.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from benchmark.files import is_machine_fault
from benchmark.settings.cell import Cell
from benchmark.settings.command import names_in
from benchmark.settings.messages import ConfigError

FOLDER = "logs"  # in the folder of records
FAULTS = "faults.txt"  # in FOLDER: a line for each cell whose curve is not complete
PROJECT = "lavo-bench"  # in trackio
KINDS = ("tensorboard", "trackio")

Figures = Mapping[str, float]


class Curve(Protocol):
    """Receives the figures of a training, step by step."""

    def add(self, step: int, figures: Figures) -> None:
        """Adds figures by name.  Steps never go back, except that a resumed training begins after its last checkpoint."""
        ...

    def flush(self) -> None:
        """Writes everything that was added.  Called before each checkpoint, so that a resumed curve has no gap."""
        ...


def kinds_in(text: str | None) -> tuple[str, ...]:
    """Returns the names in ``tensorboard,trackio``.  Raises ConfigError for an unknown one, and for a package that isn't installed."""
    names = names_in(text, "--log") or []
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"--log {name}: unknown; allowed: {', '.join(KINDS)}")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--log {name}: {name} is not installed: pip install 'lavo-bench[{name}]'")
    return tuple(dict.fromkeys(names))


@contextmanager
def curve_of(cell: Cell, output: Path, kinds: Sequence[str]) -> Iterator[Curve]:
    """Yields the curve of a cell, which is written in all these forms.

    If one of them fails, the cell is trained all the same: the fault goes into a file, and the others are still written.
    """
    writers: dict[str, Any] = {}
    curve = _Curves(cell, output, writers)
    makers = {"tensorboard": _EventFile, "trackio": _Database}
    for kind in kinds:
        with curve.kept_from_failing(kind):
            writers[kind] = makers[kind](cell, output / FOLDER / kind)
    try:
        yield curve
    finally:
        curve.close()


class _Curves:
    """Several curves as one."""

    def __init__(self, cell: Cell, output: Path, writers: dict[str, Any]) -> None:
        self.cell, self.output, self.writers = cell, output, writers

    def add(self, step: int, figures: Figures) -> None:
        """Adds figures to all of them."""
        for kind, writer in list(self.writers.items()):
            with self.kept_from_failing(kind):
                writer.add(step, figures)

    def flush(self) -> None:
        """Writes what was added to any of them."""
        for kind, writer in list(self.writers.items()):
            with self.kept_from_failing(kind):
                writer.flush()

    def close(self) -> None:
        """Writes the rest and closes them."""
        for kind, writer in list(self.writers.items()):
            with self.kept_from_failing(kind):
                writer.close()

    @contextmanager
    def kept_from_failing(self, kind: str) -> Iterator[None]:
        """Ends this kind of curve if the block raises, because a cell must not fail for its log.  A full disk is still raised."""
        try:
            yield
        except Exception as error:
            if is_machine_fault(error):
                raise
            self.writers.pop(kind, None)
            line = " ".join(f"{kind} {self.cell.stem}: {type(error).__name__}: {error}".split())[:300]
            with suppress(OSError):
                (self.output / FOLDER).mkdir(parents=True, exist_ok=True)
                with (self.output / FOLDER / FAULTS).open("a", encoding="utf-8") as file:
                    file.write(line + "\n")


def forget_faults(output: Path) -> None:
    """Removes the file of faults, which is about the last run alone."""
    (output / FOLDER / FAULTS).unlink(missing_ok=True)


def faults_in_words(output: Path) -> str:
    """Returns how many curves are not complete, and where the reasons stand; an empty text if all are."""
    path = output / FOLDER / FAULTS
    count = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
    return f"; {count} are not complete: {path}" if count else ""


def description(cell: Cell) -> dict[str, Any]:
    """Returns what a curve says about its cell: names, seed, hash and the main settings."""
    train = cell.config["train"]
    return {
        "task": cell.task,
        "backbone": cell.backbone,
        "pattern": cell.pattern,
        "attention": cell.variant,
        "preset": cell.preset,
        "seed": cell.seed,
        "hash": cell.hash,
        **{
            name: train[name]
            for name in ("learning_rate", "batch_size", "steps", "epochs")
            if train.get(name) is not None
        },
    }


class _EventFile:
    """TensorBoard's form: one folder for each cell, and one file in it for each time that its training was started.

    Every event is written at once, so a killed process loses nothing.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        import torch.utils.tensorboard  # noqa: F401  # now, because memory is measured from the beginning of the training

        self.cell, self.folder = cell, folder / cell.task / cell.stem
        self.writer: Any = None

    def add(self, step: int, figures: Figures) -> None:
        """Writes an event with all the figures."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self.writer is None:
            self._begin(step)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step=step, summary=Summary(value=values))

    def _begin(self, step: int) -> None:
        """Opens a file.  Readers drop the events of earlier files from ``step`` on, which a resumed training repeats."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import hparams, text

        if step == 1:
            shutil.rmtree(self.folder, ignore_errors=True)
        is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / f"events.out.tfevents.{time.time_ns():020d}").open("wb", buffering=0)
        self.writer = RecordWriter(file)
        self._write(step=step, file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))
        if is_new:
            known = description(self.cell)
            lines = "\n".join(f"- {name}: {value}" for name, value in known.items())
            for summary in (text("cell", lines), *hparams(known, {})):
                self._write(step=0, summary=summary)

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.write(Event(wall_time=time.time(), **content).SerializeToString())

    def flush(self) -> None:
        """Does nothing: every event has been written."""

    def close(self) -> None:
        """Closes the file."""
        if self.writer is not None:
            self.writer.close()


class _Database:
    """trackio's form: one SQLite file for all cells, with a run for each.  Rows are written every few seconds."""

    SECONDS = 2.0

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder.resolve()
        self.rows: list[tuple[int, dict[str, float], str, str]] = []
        self.written = time.monotonic()
        self.has_begun = False
        with self._storage():
            pass  # a package that can't be imported is noticed before the training

    def add(self, step: int, figures: Figures) -> None:
        """Adds a row, and writes all waiting ones if the last ones were written some seconds ago."""
        # A row whose identity is known already is ignored by trackio, so a resumed training repeats none.
        identity = f"{self.cell.hash}.{step}.{'.'.join(sorted(figures))}"
        moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        self.rows.append((step, dict(figures), moment, identity))
        if time.monotonic() - self.written >= self.SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting rows."""
        self.written = time.monotonic()
        if not self.rows:
            return
        steps, figures, moments, identities = (list(column) for column in zip(*self.rows, strict=True))
        with self._storage() as storage:
            if not self.has_begun and steps[0] == 1:  # --rerun: the training starts anew
                storage.delete_run(PROJECT, self.cell.stem, run_id=self.cell.hash)
            storage.bulk_log(
                PROJECT,
                self.cell.stem,
                figures,
                steps=steps,
                timestamps=moments,
                config={
                    **description(self.cell),
                    "_Group": f"{self.cell.task}/{self.cell.backbone}.{self.cell.pattern}",
                },
                log_ids=identities,
                run_id=self.cell.hash,
            )
        self.has_begun = True
        self.rows.clear()

    def close(self) -> None:
        """Writes the waiting rows."""
        self.flush()

    @contextmanager
    def _storage(self) -> Iterator[Any]:
        """Yields trackio's storage in this folder, without the variables that would make it read from or write to the Hub."""
        before = dict(os.environ)
        for name in before:
            if name.startswith(("TRACKIO_", "SPACE_", "HF_TOKEN")) or name in ("SYSTEM", "HUGGING_FACE_HUB_TOKEN"):
                del os.environ[name]
        os.environ |= {"TRACKIO_DIR": str(self.folder), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        try:
            from trackio import sqlite_storage

            sqlite_storage.TRACKIO_DIR = self.folder  # read from the environment only when it is first imported
            yield sqlite_storage.SQLiteStorage
        finally:
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ |= before
