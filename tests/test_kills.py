"""Runs that are killed at file operations and at any moment, then run to the end: nothing is lost, doubled, changed or left.

LAVO_BENCH_KILLS sets the number of kills, LAVO_BENCH_KILLS_SEED the draws; a few by default, hundreds before a release.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmark import results

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("LAVO_BENCH_KILLS", "6"))
SEED = int(os.environ.get("LAVO_BENCH_KILLS_SEED", "0"))
TOKEN = "LAVO_BENCH_KILLED_RUN"  # in the environment of a run's processes, by which the test finds what is left of them
LEASE = 2  # seconds, so that whoever is stopped loses its cells to the other run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CELLS = ["lm", "lstf", "-a", "softmax,lavo", "--pattern", "causal_self", "--preset", "smoke", "--seeds", "0,1"]
SETTINGS = ["train.steps=6", "train.checkpoint_every=2", "train.eval_every=3"]


class Run:
    """One process of ``lavo-bench run`` with two workers, in a group of its own."""

    def __init__(
        self, folder: Path, cache: Path, *options: str, shots: Path | None = None, name: str = "errors"
    ) -> None:
        self.token = secrets.token_hex(8)
        environment = {**os.environ, TOKEN: self.token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if shots is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "killing"), str(ROOT)])
            environment["LAVO_BENCH_SHOTS"] = str(shots)
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        places = ["--limit", "2", "--jobs", "2", "--lease", str(LEASE), "--cache", str(cache), "-o", str(folder)]
        heard = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a script's children ignore it
        )
        main = f"{heard}; from benchmark.cli import main; main()"
        self.errors = folder.with_suffix(f".{name}")
        with self.errors.open("w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", main, "run", *CELLS, *settings, *places, *options],
                cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> int:
        """The exit status.  No process of the run may be left soon afterwards."""
        status = self.process.wait(timeout=600)
        until = time.monotonic() + 60
        while left := [process.info for process in self.processes()]:
            assert time.monotonic() < until, f"left behind: {left}"
            time.sleep(0.1)
        said = self.errors.read_text(encoding="utf-8")
        assert "Traceback" not in said or ", in main\n" not in said, (
            said
        )  # before main() runs, it is Python's own affair
        return status

    def processes(self) -> Iterator[psutil.Process]:
        """All living processes of this run: its own, its workers, the guard and what any of them has started."""
        for process in psutil.process_iter(["pid", "cmdline"]):
            try:
                if process.environ().get(TOKEN) == self.token and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.Error, OSError):
                continue

    def shoot(self, whom: str, sign: int) -> bool:
        """Sends a signal to the run, to one of its workers or to its group; False where there is none any more."""
        try:
            if self.process.poll() is not None:
                return False
            if whom == "group":
                os.killpg(self.process.pid, sign)
                return True
            if whom == "parent":
                self.process.send_signal(sign)
                return True
            children = psutil.Process(self.process.pid).children()
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                workers[0].send_signal(sign)
            return bool(workers)
        except (psutil.Error, OSError):
            return False


def load_shots(folder: Path, draw: random.Random) -> Path:
    """Shots at file operations: at some workers, each of which costs one cell, and mostly one that ends the run."""
    folder.mkdir()
    shots = [("worker", "self", signal.SIGKILL)] * draw.randint(1, 6)
    if draw.random() < 0.7:
        role, whom = draw.choice([("parent", "self"), ("parent", "group"), ("worker", "parent"), ("worker", "group")])
        shots.insert(draw.randint(0, len(shots)), (role, whom, draw.choice(SIGNALS)))
    for index, (role, whom, sign) in enumerate(shots):
        operation = draw.randint(1, 60 if role == "worker" else 12)
        shot = {"operation": operation, "before": draw.random() < 0.5, "whom": whom, "signal": sign}
        (folder / f"{index:02}.{role}.waiting").write_text(json.dumps(shot), encoding="utf-8")
    return folder


def disturbed(folder: Path, cache: Path, draw: random.Random, seconds: float) -> int:
    """One run that is shot at, at file operations or at moments; the number of shots that hit."""
    options = draw.choice([["--retry-failed"], ["--retry-failed"], ["--rerun"]])
    kind = draw.random()
    if kind < 0.3:
        return beside_another(folder, cache, draw, seconds)
    if kind < 0.8:
        shots = load_shots(folder.with_name(f"shots{draw.getrandbits(40):x}"), draw)
        Run(folder, cache, *options, shots=shots).wait()
        return len(list(shots.glob("*.fired")))
    run, hits = Run(folder, cache, *options), 0
    for moment in sorted(draw.uniform(0, seconds) for _ in range(draw.randint(1, 3))):
        until = time.monotonic() + moment / 2
        while time.monotonic() < until and run.process.poll() is None:
            time.sleep(0.002)
        whom = draw.choice(["worker", "worker", "parent", "group"])
        hits += run.shoot(whom, signal.SIGKILL if whom == "worker" else draw.choice(SIGNALS))
    run.wait()
    return hits


def beside_another(folder: Path, cache: Path, draw: random.Random, seconds: float) -> int:
    """Two runs of the same cells, of which one is killed, or stopped until its lease has expired and then woken up."""
    runs = [Run(folder, cache, "--retry-failed", name=f"errors{number}") for number in range(2)]
    victim, until = runs[0], time.monotonic() + draw.uniform(0, seconds)
    while time.monotonic() < until and victim.process.poll() is None:
        time.sleep(0.002)
    if draw.random() < 0.5:
        hit = victim.shoot("group", signal.SIGSTOP)
        time.sleep(2.5 * LEASE)
        victim.shoot("group", signal.SIGCONT)
    else:
        whom = draw.choice(["worker", "parent", "group"])
        hit = victim.shoot(whom, signal.SIGKILL if whom == "worker" else draw.choice(SIGNALS))
    for run in runs:
        run.wait()
    return int(hit)


def files(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, to the bit; of records all but time, speed and memory."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: object = path.read_bytes()
        if path.suffix == ".json":
            record = results.as_json(results.read_record(path))
            content = {key: value for key, value in record.items() if key not in ("started", "seconds", "efficiency")}
        elif path.suffix == ".gz":
            content = gzip.decompress(path.read_bytes())
        found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, object], Path, float]:
    """What a run leaves that nobody kills, its cache, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert Run(folder / "out", folder / "cache").wait() == 0
    return files(folder / "out"), folder / "cache", time.monotonic() - started


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_kills_lose_double_and_change_nothing_and_leave_nothing(undisturbed, tmp_path):
    expected, made, seconds = undisturbed
    assert len(expected) == 24  # a record, examples and curves of each cell
    draw, kills, sequence = random.Random(SEED), 0, 0
    while kills < KILLS:
        sequence += 1
        folder = tmp_path / f"sequence{sequence}"
        folder.mkdir()
        cache = draw.choice([made, made, folder / "cache"])
        for _ in range(6):
            kills += disturbed(folder / "out", cache, draw, seconds)
            if kills >= KILLS:
                break
        assert Run(folder / "out", cache, "--retry-failed").wait() == 0, (folder / "out.errors").read_text()
        assert files(folder / "out") == expected, f"sequence {sequence} of seed {SEED}"
        assert not list(cache.rglob("*.tmp"))
        print(f"{kills} kills in {sequence} sequences", flush=True)
