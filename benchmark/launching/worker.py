"""The process that an engine starts: it runs ``lavo-bench work`` as a child, ends it cleanly, and can be sent to another machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.running import family

LOOK_SECONDS = 0.5  # between two looks at the child and at the file that stops it
PATIENCE_SECONDS = 30.0  # for a child that was told to stop
STOP = "stop"  # in the folder of a launch: the file that tells its workers to stop
# SLURM sends signals to a whole job or to its first process, as a cluster is set up.  So the command ignores those of preemption, and is
# told to stop by its parent alone, with SIGINT, which Ray and some shells make their children ignore.
_START = (
    "import signal as s; s.signal(s.SIGINT, s.default_int_handler); "
    "[s.signal(one, s.SIG_IGN) for one in (s.SIGTERM, s.SIGUSR1, s.SIGUSR2)]; "
    "from benchmark.cli import main; main()"
)


class Ended(NamedTuple):
    """How a worker has ended: the exit status of ``lavo-bench work``, and the line in which it said why it is 2."""

    status: int
    reason: str = ""


class Worker:
    """One worker, to be called with its number.

    arguments   of ``lavo-bench``
    folder      of this launch, on a file system that all workers share; it holds what each of them prints
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.arguments, self.folder = tuple(arguments), folder
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def __call__(self, number: int) -> Ended:
        """Runs the command to its end.  If this process is killed, the command and its workers are killed as well."""
        stop = self.folder / STOP
        if stop.exists():
            return Ended(0)
        mark = secrets.token_hex(8)
        guard = family.start_guard(mark)
        try:
            with log_of(self.folder, number).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START, *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**_environment(), family.MARK: mark}, start_new_session=True,
                )  # fmt: skip
            while self._process.poll() is None and not stop.exists():
                time.sleep(LOOK_SECONDS)
        finally:
            self._stop()
            family.end(mark)
            family.stop_guard(guard)
        status = self._process.returncode
        return Ended(status, last_fault(self.folder, number) if status not in (0, 1) else "")

    def checkpoint(self, number: int) -> Any:
        """Stops the cells of this worker, whose claims it releases, and returns what submitit is to run when the job is requeued.

        submitit calls it in its handler of the signal for preemption and time limits.
        """
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(self, number)

    def _stop(self) -> None:
        """Tells the command to stop, and waits until it has, or kills it."""
        process = self._process
        if process is None or not _runs(process):
            return
        process.send_signal(signal.SIGINT)
        until = time.monotonic() + PATIENCE_SECONDS
        while _runs(process) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS / 5)
        if _runs(process):
            process.kill()
        process.wait()


def _runs(process: subprocess.Popen[bytes]) -> bool:
    """Returns whether the process runs.

    Not by ``Popen.poll``, whose lock the code may hold that a handler of a signal has interrupted.
    """
    if process.returncode is not None:
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _environment() -> dict[str, str]:
    """Returns the environment of the command, which must find this package if it is a checkout that was not installed."""
    root = Path(__file__).resolve().parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def log_of(folder: Path, number: int) -> Path:
    """Returns the file that holds what the worker of this number prints."""
    return folder / f"worker{number}.log"


def last_fault(folder: Path, number: int) -> str:
    """Returns the last line of a worker's log that is a message of ``lavo-bench``, or is just the last line."""
    try:
        lines = log_of(folder, number).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    faults = [line for line in lines if line.startswith("lavo-bench: ")]
    return (faults or lines or [""])[-1]
