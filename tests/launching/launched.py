"""Small cells, the command that runs them, and what it prints: for the tests of launchers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).with_name("slurm_node.sh")
LONG_FORM = (
    "LAVO_BENCH_LAUNCHES" in os.environ
)  # all tests of launchers, with twice the cells; it takes some ten minutes
SEEDS = "0,1,2,3" if LONG_FORM else "0,1"
CELLS = [
    *("lstf", "-a", "softmax,lavo,none,performer,cosformer", "--pattern", "causal_self", "--preset", "smoke"),
    *("--seeds", SEEDS, "--set", "train.steps=30", "--set", "train.checkpoint_every=5", "--limit", "2"),
]
NUM_CELLS = 20 if LONG_FORM else 10
# As from a terminal: what a script starts in the background ignores Ctrl-C.
HEARD = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from benchmark.cli import main; main()"
)


class Command:
    """One ``lavo-bench run`` in a process group of its own; what it prints goes to a file beside the folder of results."""

    def __init__(self, folder: Path, cache: Path, *options: str) -> None:
        self.folder, self.printed = folder, folder.with_suffix(".printed")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.printed.open("w", encoding="utf-8") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HEARD, "run", *CELLS, "--cache", str(cache), "-o", str(folder), *options],
                cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.printed.read_text(encoding="utf-8")

    def wait(self) -> int:
        """Returns the exit status."""
        return self.process.wait(timeout=600)

    def until(self, condition: Callable[[], object], seconds: float = 300.0) -> None:
        """Waits until the condition holds; fails if the command ends before."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def records(self) -> int:
        """How many records there are."""
        return len(list(self.folder.glob("[!.]*/*.json")))

    def told(self) -> list[str]:
        """The cells whose end was printed."""
        return re.findall(r"^\[\d+/\d+\] (\S+): ", self.said, flags=re.MULTILINE)

    def left(self) -> list[str]:
        """The command lines of processes that work on this folder."""
        return [" ".join(process.info["cmdline"]) for process in self.processes()]

    def processes(self) -> Iterator[psutil.Process]:
        """The processes that name this folder in their arguments: jobs of submitit, and ``lavo-bench work``."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if process.pid != self.process.pid and any(str(self.folder) in word for word in words):
                yield process
