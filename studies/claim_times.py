"""Measures, inside each process of a run, what claims and publication cost; for ``studies.share_cells``.

A ``sitecustomize`` that imports this module makes every Python process of a run call ``install``.  A line is appended to a file of the
process for each outermost call of a function that claims or publishes, and for each cell that is started or recorded.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "LAVO_SHARE_CELLS"  # environment variable: the folder of the files; nothing is measured without it
SITECUSTOMIZE = "from studies.claim_times import install\ninstall()\n"
_METHODS = ("take", "is_free", "beat", "release", "release_all", "traces", "discard")
_depth = threading.local()


class Costs(NamedTuple):
    """What all processes of a run did.

    claims, publication           milliseconds by the clock, for each recorded cell
    claims_cpu, publication_cpu   the same of CPU time
    by_worker                     how many cells each ``lavo-bench`` process has recorded
    starts                        how often a cell was started
    """

    claims: float
    claims_cpu: float
    publication: float
    publication_cpu: float
    by_worker: list[int]
    starts: int


def install() -> None:
    """Wraps the functions, in the processes of ``lavo-bench`` and in their workers only."""
    line = sys.orig_argv
    if FOLDER not in os.environ or not ("work" in line or "run" in line or any("spawn_main" in word for word in line)):
        return
    from benchmark.running import claims

    for name in _METHODS:
        setattr(claims.Claims, name, _timed("claims", getattr(claims.Claims, name)))
    claims.holds = _timed("claims", claims.holds)  # before others import it by its name
    from benchmark.running import publish

    publish.settle = _timed("claims", publish.settle)
    publish.publish = _timed("publication", publish.publish)
    from benchmark.running import runner

    runner.run_cell = _started(runner.run_cell)


def _timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Writes down how long each call takes that isn't made by another such function."""

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        if getattr(_depth, "inside", False):
            return function(*arguments, **named)
        _depth.inside = True
        clock, cpu = time.perf_counter(), time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            clock, cpu = time.perf_counter() - clock, time.thread_time() - cpu
            _depth.inside = False
            _write(f"{kind} {clock:.7f} {cpu:.7f}")

    return timed


def _started(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def started(*arguments: Any, **named: Any) -> Any:
        _write("start")
        record = function(*arguments, **named)
        _write(f"record {os.getppid()}")  # the process of ``lavo-bench`` that has started this worker
        return record

    return started


def _write(line: str) -> None:
    file = os.open(os.path.join(os.environ[FOLDER], str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def read(folder: Path) -> Costs:
    """Adds up what the processes have written into this folder."""
    clock: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    by_worker: Counter[str] = Counter()
    starts = 0
    for path in folder.iterdir():
        for line in path.read_text(encoding="ascii").splitlines():
            kind, *values = line.split()
            if kind == "start":
                starts += 1
            elif kind == "record":
                by_worker[values[0]] += 1
            else:
                clock[kind] += float(values[0])
                cpu[kind] += float(values[1])
    scale = 1000 / max(1, by_worker.total())
    return Costs(
        claims=scale * clock["claims"],
        claims_cpu=scale * cpu["claims"],
        publication=scale * clock["publication"],
        publication_cpu=scale * cpu["publication"],
        by_worker=sorted(by_worker.values(), reverse=True),
        starts=starts,
    )
