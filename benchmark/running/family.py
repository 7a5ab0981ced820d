"""The processes of a worker, found by a mark in their environment: a worker, and all that an attention starts in it.

Run as a script, this file is the guard of a run: it waits until the run's process is gone, and then ends the workers that
it left behind, however it ended.
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
_PATIENCE_SECONDS = 5.0


def members(mark: str) -> Iterator[psutil.Process]:
    """The running processes whose mark begins so, other than this one."""
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK, "").startswith(mark)
            if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):  # another user's process, or one that has just ended
            continue


def end(mark: str) -> None:
    """Kills these processes, and those that they start meanwhile."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (found := list(members(mark))) and time.monotonic() < until:
        for process in found:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(found, timeout=1.0)


def start_guard(mark: str) -> subprocess.Popen[bytes]:
    """Starts the guard of this process; it acts when its standard input ends, which happens with this process at the latest."""
    command = [sys.executable, str(Path(__file__).resolve()), mark]
    # A session of its own: Ctrl-C in the terminal must not end the guard before it has done its work.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def stop_guard(guard: subprocess.Popen[bytes]) -> None:
    """Lets the guard end; it finds nothing to do where the workers have ended."""
    if guard.stdin is not None:
        guard.stdin.close()
    guard.wait()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
