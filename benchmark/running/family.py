"""Finds and kills the processes of a worker: the worker itself, and every process that an attention starts in it.

They are found by a mark, the value of the environment variable ``MARK``, which child processes inherit.  The mark of a worker
is the mark of the run with a point and a number behind it, so all workers of a run are found by what stands before the point.

Run as a script, this file is the guard of a run.  It waits until the process of the run has ended, in whatever way, and then
kills the workers that are left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "LAVO_BENCH_WORKER"  # inherited by every process that a worker starts
_PATIENCE_SECONDS = 5.0  # for all processes to end


def members(mark: str) -> Iterator[psutil.Process]:
    """Yields the running processes whose mark is ``mark``, or is that with a point and more behind it, except this process."""
    for process in psutil.process_iter():
        try:
            # With the point, because the mark of worker 1 is also the beginning of that of worker 10.
            is_marked = f"{process.environ().get(MARK, '')}.".startswith(f"{mark}.")
            if is_marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):  # another user's process, or one that has just ended
            continue


def end(mark: str) -> None:
    """Kills the ``members`` of this mark, and the processes that they start in the meantime."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (found := list(members(mark))) and time.monotonic() < until:
        for process in found:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(found, timeout=1.0)


def start_guard(mark: str) -> subprocess.Popen[bytes]:
    """Starts the guard of this process.

    The guard acts when its standard input is closed, which the system does when this process ends.
    """
    command = [sys.executable, str(Path(__file__).resolve()), mark]
    # The guard gets its own session, because Ctrl-C in the terminal must not end it before it has done its work.  It doesn't
    # inherit a mark, because whoever kills this process by its mark leaves the guard to kill the workers.
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env=environment,
    )  # fmt: skip


def stop_guard(guard: subprocess.Popen[bytes]) -> None:
    """Closes the guard's standard input and waits until it has ended.  It kills nothing if the workers have ended."""
    if guard.stdin is not None:
        guard.stdin.close()
    guard.wait()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
