"""Runs that are disturbed at file operations and at any moment, then run to the end: nothing is lost, doubled, changed or left.

Without settings each kind of disturbance comes about once.  Before a release: ``LAVO_BENCH_KILLS=300 pytest -n0 -s tests/test_kills.py`` for
at least 300 disturbances of runs with four workers, and a table of them; LAVO_BENCH_KILLS_SEED sets the draws.
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from benchmark import results

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("LAVO_BENCH_KILLS", "0"))  # 0: the short form
SEED = int(os.environ.get("LAVO_BENCH_KILLS_SEED", "0"))
TOKEN = "LAVO_BENCH_KILLED_RUN"  # in the environment of a run's processes, by which the test finds what is left of them
LEASE = 2  # seconds, so that whoever is stopped loses its cells to the other run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WORKERS = 4 if KILLS else 2
CELLS = ["lm", *(["lstf"] if KILLS else []), "-a", "softmax,lavo", "--pattern", "causal_self", "--preset", "smoke"]
SEEDS = "0,1" if KILLS else "0"
SETTINGS = ["train.steps=6", "train.checkpoint_every=2", "train.eval_every=3"]
DISK_BYTES = 32 << 20  # of a sequence's own file system
Counts = Counter[tuple[str, str]]  # (what was done, at which points) -> how often it met a running run
MOMENT, OPERATION = "at a moment", "at a file operation"


class Run:
    """One process of ``lavo-bench run`` with its workers, in a group of their own."""

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *options: str,
        shots: Path | None = None,
        name: str = "errors",
        workers: int = WORKERS,
    ) -> None:
        self.token = secrets.token_hex(8)
        environment = {**os.environ, TOKEN: self.token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if shots is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "killing"), str(ROOT)])
            environment["LAVO_BENCH_SHOTS"] = str(shots)
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        places = [
            "--seeds",
            SEEDS,
            "--limit",
            "2",
            "--jobs",
            str(workers),
            "--lease",
            str(LEASE),
            "--cache",
            str(cache),
            "-o",
            str(folder),
        ]
        heard = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a script's children ignore it
        )
        main = f"{heard}; from benchmark.cli import main; main()"
        self.errors = folder.parent.with_suffix(f".{name}")  # on another disk than the records
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


class Place(NamedTuple):
    """Where disturbed runs work."""

    folder: Path  # of records
    cache: Path
    draw: random.Random
    seconds: float  # that an undisturbed run takes
    has_own_disk: bool  # whether the folder lies on a small file system of its own

    def wait_a_moment(self, run: Run) -> None:
        """Waits until a random moment of the run, or its end; in the short form until it has claimed a cell, so that every run is hit."""
        until, before = time.monotonic() + self.draw.uniform(0, self.seconds), self.claims()
        while run.process.poll() is None:
            if time.monotonic() > until if KILLS else self.claims() - before:
                return
            time.sleep(0.002)

    def claims(self) -> set[tuple[str, int]]:
        """The claims that there are, with the time at which each was written last."""
        found = set()
        for path in self.folder.glob(".claims/*.claim"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def redo(self) -> str:
        """Which cells with a record the run makes again."""
        return self.draw.choice(["--retry-failed", "--retry-failed", "--rerun"]) if KILLS else "--rerun"


NAMES = {"self": None, "worker": "a worker", "parent": "the parent", "group": "all"}


def load_shots(folder: Path, draw: random.Random) -> Path:
    """Shots at file operations: at some workers, each of which costs one cell, and mostly one that ends the run."""
    folder.mkdir()
    shots = [("worker", "self", signal.SIGKILL)] * draw.randint(1, 6 if KILLS else 2)
    if draw.random() < 0.7:
        role, whom = draw.choice([("parent", "self"), ("parent", "group"), ("worker", "parent"), ("worker", "group")])
        shots.insert(draw.randint(0, len(shots)), (role, whom, draw.choice(SIGNALS)))
    for index, (role, whom, sign) in enumerate(shots):
        operation = draw.randint(1, 60 if role == "worker" and KILLS else 12)
        shot = {"operation": operation, "before": draw.random() < 0.5, "whom": whom, "signal": sign}
        (folder / f"{index:02}.{role}.waiting").write_text(json.dumps(shot), encoding="utf-8")
    return folder


def shot_at_operations(place: Place) -> Counts:
    """A run that is shot at when it opens, renames, removes or synchronises files."""
    shots = load_shots(place.folder.with_name(f"shots{place.draw.getrandbits(40):x}"), place.draw)
    Run(place.folder, place.cache, place.redo(), shots=shots).wait()
    counts: Counts = Counter()
    for fired in shots.glob("*.fired"):
        shot = json.loads(fired.read_text(encoding="utf-8"))
        whom = NAMES[shot["whom"]] or NAMES[fired.name.split(".")[1]]
        counts[f"{signal.Signals(shot['signal']).name} of {whom}", OPERATION] += 1
    return counts


def shot_at_moments(place: Place) -> Counts:
    """A run that gets one to three signals at random moments."""
    run, counts = Run(place.folder, place.cache, place.redo()), Counter()
    for _ in range(place.draw.randint(1, 3 if KILLS else 1)):
        place.wait_a_moment(run)
        whom = place.draw.choice(["worker", "worker", "parent", "group"])
        sign = signal.SIGKILL if whom == "worker" else place.draw.choice(SIGNALS)
        counts[f"{sign.name} of {NAMES[whom]}", MOMENT] += run.shoot(whom, sign)
    run.wait()
    return counts


def beside_another(place: Place) -> Counts:
    """Two runs of the same cells, of which one is killed, or stopped until its lease has expired, and then woken up or killed."""
    workers = max(1, WORKERS // 2)
    runs = [
        Run(place.folder, place.cache, "--retry-failed", name=f"errors{number}", workers=workers) for number in range(2)
    ]
    victim, counts = runs[0], Counter()
    place.wait_a_moment(victim)
    then = place.draw.choice(["woken up", "killed", "shot"] if KILLS else ["woken up", "killed"])
    if then == "shot":
        whom = place.draw.choice(["worker", "parent", "group"])
        sign = signal.SIGKILL if whom == "worker" else place.draw.choice(SIGNALS)
        counts[f"{sign.name} of {NAMES[whom]}, beside another run", MOMENT] += victim.shoot(whom, sign)
    else:
        counts[f"stopped until the lease has expired, then {then}", MOMENT] += victim.shoot("group", signal.SIGSTOP)
        time.sleep(2.5 * LEASE)
        victim.shoot("group", signal.SIGCONT if then == "woken up" else signal.SIGKILL)
    for run in runs:
        run.wait()
    return counts


def on_a_full_disk(place: Place) -> Counts:
    """A run whose disk is full from a random moment on: whatever it frees is taken at once."""
    if not place.has_own_disk:
        return Counter()
    run = Run(place.folder, place.cache, place.redo())
    place.wait_a_moment(run)
    hit, filler = run.process.poll() is None, place.folder.with_name("filler")
    with filler.open("wb") as file:
        while run.process.poll() is None:
            disk = os.statvfs(filler)
            with suppress(OSError):  # the run was quicker
                if disk.f_bavail:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, disk.f_bavail * disk.f_frsize)
            time.sleep(0.005)
    run.wait()
    filler.unlink()
    return Counter({("full disk", MOMENT): int(hit)})


def in_a_read_only_folder(place: Place) -> Counts:
    """A run whose folder of records is read-only from a random moment on, for all but the files that it has open."""
    if not place.has_own_disk:
        return Counter()
    run = Run(place.folder, place.cache, place.redo())
    place.wait_a_moment(run)
    hit = run.process.poll() is None
    place.folder.mkdir(exist_ok=True)
    view = place.folder.with_name("view")
    view.mkdir()
    # Nobody writes by way of the view, so it can be made read-only at any moment; mounting it over the folder is then a single step.
    with mounted(view, "--bind", str(place.folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        with mounted(place.folder, "--bind", str(view)):
            with pytest.raises(OSError, match="Read-only"):
                (place.folder / "probe").touch()
            run.wait()
    view.rmdir()
    return Counter({("read-only folder", MOMENT): int(hit)})


@contextmanager
def mounted(folder: Path, *what: str) -> Iterator[bool]:
    """Mounts something at a folder.  Gives False if this user or machine can't mount."""
    done = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() == 0
    with suppress(FileNotFoundError):
        done = done and not subprocess.run(["mount", *what, str(folder)], check=False, capture_output=True).returncode
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


DISTURBANCES: dict[Callable[[Place], Counts], float] = {  # with their weights
    shot_at_operations: 5.0,
    shot_at_moments: 2.0,
    beside_another: 2.0,
    on_a_full_disk: 1.0,
    in_a_read_only_folder: 1.0,
}


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
    """What a run leaves that nobody disturbs, its cache, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sequence"
    folder.mkdir()
    started = time.monotonic()
    assert Run(folder / "out", folder / "cache").wait() == 0
    return files(folder / "out"), folder / "cache", time.monotonic() - started


def table(counts: Counts) -> str:
    """The kinds of disturbances and how often each met a running run, as a markdown table."""
    rows = [
        f"| {what} | {counts[what, OPERATION]} | {counts[what, MOMENT]} |" for what in sorted({w for w, _ in counts})
    ]
    head = [f"| what | {OPERATION} | {MOMENT} |", "|---|---|---|"]
    return "\n".join([*head, *rows, f"| all | {sum(counts.values())} in all | |"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_disturbances_lose_double_and_change_nothing_and_leave_nothing(undisturbed, tmp_path):
    expected, made, seconds = undisturbed
    assert len(expected) == 3 * (8 if KILLS else 2)  # a record, examples and curves of each cell
    draw, sequence, others = random.Random(SEED), 0, [one for one in DISTURBANCES if one is not beside_another]
    counts: Counts = Counter()
    once = [] if KILLS else [beside_another, *draw.sample(others, len(others))]
    while once or counts.total() < KILLS:
        sequence += 1
        folder = tmp_path / f"sequence{sequence}"
        folder.mkdir()
        with mounted(folder, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none") as has_own_disk:
            cache = draw.choice([made, made, folder / "cache"])
            place = Place(folder / "out", cache, draw, seconds, has_own_disk)
            if not has_own_disk and sequence == 1:
                print("no full disk and no read-only folder: this user can't mount file systems")
            for disturb in once or draw.choices(list(DISTURBANCES), list(DISTURBANCES.values()), k=6):
                counts += disturb(place)
                if KILLS and counts.total() >= KILLS:
                    break
            once = []
            assert Run(place.folder, cache, "--retry-failed").wait() == 0, folder.with_suffix(".errors").read_text()
            assert files(place.folder) == expected, f"sequence {sequence} of seed {SEED}"
            assert not list(cache.rglob("*.tmp"))
        assert KILLS or counts.total() >= 2 + 2 * has_own_disk  # a shot at a file operation may miss
        print(f"{counts.total()} disturbances in {sequence} sequences", flush=True)
    print(table(counts))
