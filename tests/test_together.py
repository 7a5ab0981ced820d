"""Several processes that train one cell together, started as a user starts them: by torchrun."""

import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from command_line import lavo_bench

from benchmark.results import read_record
from benchmark.running import checkpoint
from benchmark.running.claims import Claims

ROOT = Path(__file__).parents[1]
CELL = ["run", "lm", "-a", "lavo", "--preset", "smoke", "--seeds", "0", "--set", "train.steps=8"]


def record_of(folder):
    (file,) = folder.glob("language_modeling/*.json")
    return read_record(file)


def run(folder, *settings, processes):
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "benchmark.cli",
        *CELL,
        *(part for setting in settings for part in ("--set", setting)),
        "-o",
        str(folder),
        "--cache",
        str(folder / ".cache"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, record_of(folder)


def assert_same_figures(together, alone, tolerance=1e-5):
    assert together.curves["training"]["loss"] == pytest.approx(alone.curves["training"]["loss"], rel=tolerance)
    for name, metric in alone.metrics.items():
        assert together.metrics[name].value == pytest.approx(metric.value, rel=10 * tolerance)
        assert together.metrics[name].n == metric.n


@pytest.mark.slow
def test_two_processes_leave_the_record_of_one(tmp_path):
    _, alone = run(tmp_path / "alone", processes=1)
    said, together = run(tmp_path / "together", processes=2)
    assert "2 processes a cell" in said
    assert together.status == alone.status == "completed"
    assert together.environment.processes == 2
    assert together.environment.parallel == "data"
    assert together.cell == alone.cell  # the hash too: how many processes trained it is no setting
    assert together.efficiency.attention_bytes_sent_per_step is None
    assert_same_figures(together, alone)


@pytest.mark.slow
def test_two_processes_with_a_part_of_every_sequence_leave_the_record_of_one(tmp_path):
    window = "attentions.lavo.window=16"
    _, alone = run(tmp_path / "alone", window, processes=1)
    _, together = run(tmp_path / "together", window, "train.parallel=sequence", processes=2)
    assert together.status == "completed"
    assert together.environment == replace(
        alone.environment, processes=2, parallel="sequence", threads=together.environment.threads
    )
    assert (together.cell, together.config) == (alone.cell, alone.config)
    assert together.efficiency.attention_bytes_sent_per_step == 2 * 8 * 2 * 16 * 8  # passes b h r float64
    assert_same_figures(together, alone)


STEPS = ("train.steps=120", "train.checkpoint_every=10", "train.eval_every=40")
LEASE = 2  # seconds


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The cell of STEPS, trained by one process: its folder and its record."""
    folder = tmp_path_factory.mktemp("long")
    _, record = run(folder / "out", *STEPS, processes=1)
    return folder, record


class Torchrun:
    """Two processes that train together, in a group of their own; stopped and killed as a whole or one by one."""

    def __init__(self, folder, *options, errors):
        self.mark = secrets.token_hex(8)
        settings = [part for setting in STEPS for part in ("--set", setting)]
        places = ["-o", str(folder), "--cache", str(folder.parent / "cache"), "--lease", str(LEASE)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                [*launcher, "-m", "benchmark.cli", *CELL, *settings, *places, *options],
                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "LAVO_BENCH_TOGETHER": self.mark},
                stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip

    def ranks(self):
        """Rank -> its process, of those that live."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                environment = process.environ()
                if environment.get("LAVO_BENCH_TOGETHER") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[environment.get("RANK", "launcher")] = process
        return found

    def end(self):
        """Kills what is left of it."""
        for process in self.ranks().values():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


def has_open(process, name):
    return any(file.path.endswith(name) for file in process.open_files())


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_cell_whose_process_was_killed_is_continued_by_one_process(long, tmp_path):
    """torchrun ends the others; what they saved as two is continued by one, to the figures of one that was never disturbed."""
    _, alone = long
    folder = tmp_path / "out"
    started = Torchrun(folder, "--set", "train.parallel=fsdp", errors=tmp_path / "errors")
    try:
        wait_for(lambda: len(started.ranks()) == 3)
        victim = started.ranks()["1"]
        wait_for(lambda: list(folder.glob(".checkpoints/*/last.pt")))
        victim.kill()
        assert started.process.wait(timeout=120) != 0
        assert not started.ranks()
    finally:
        started.end()
    (saved,) = folder.glob(".checkpoints/*/last.pt")
    assert checkpoint.load(saved)["state"]["step"] in range(10, 120, 10)
    assert not list(folder.glob("language_modeling/*.json"))
    _, record = run(folder, *STEPS, processes=1)
    assert record.environment.processes is None
    assert_same_figures(record, alone, tolerance=1e-3)
    assert not any((folder / name).exists() for name in (".claims", ".checkpoints", ".plans"))


@pytest.mark.slow
def test_only_the_first_process_claims_and_all_leave_a_cell_that_another_run_takes(long, tmp_path):
    """The test plays the other run: it takes the cell while torchrun is stopped, and gives it back without a record."""
    _, alone = long
    cell, folder = alone.cell.hash, tmp_path / "out"
    other = Claims(folder, LEASE)
    assert other.take(cell)
    started = Torchrun(folder, errors=tmp_path / "errors")
    try:
        wait_for(lambda: list(folder.glob(".plans/*")))
        until = time.monotonic() + 3 * LEASE
        wait_for(lambda: other.beat() or time.monotonic() > until)  # in which both processes begin, and wait
        assert not list(folder.glob(".checkpoints/*"))
        stopped = started.ranks().values()
        other.release(cell)
        wait_for(lambda: list(folder.glob(".checkpoints/*/last.pt")))
        assert [path.name for path in folder.glob(".claims/*.claim")] == [f"{cell}.claim"]
        for process in stopped:
            process.suspend()
        wait_for(lambda: other.take(cell))
        for process in stopped:
            process.resume()
        first = started.ranks()["0"]
        wait_for(lambda: not has_open(first, f"{cell}.claim"))  # it has noticed
        assert not list(folder.glob("language_modeling/*.json"))
        released = datetime.now(UTC)
        other.release_all()
        assert started.process.wait(timeout=120) == 0, (tmp_path / "errors").read_text()
    finally:
        started.end()
    record = record_of(folder)
    assert record.environment.processes == 2
    assert datetime.fromisoformat(record.started) >= released.replace(microsecond=0)
    assert_same_figures(record, alone, tolerance=1e-3)
    assert not list(folder.glob(".*/*"))


FAILING = """
import os
from baselines.softmax import SoftmaxAttention
from benchmark.registry import register_attention

def failing(name, ranks):
    @register_attention(name)
    class Failing(SoftmaxAttention):
        def forward(self, *arguments, **options):
            if self.training and os.environ.get("RANK") in ranks:
                raise RuntimeError(f"{name} is broken")
            return super().forward(*arguments, **options)

failing("a_broken", ("0", "1"))
failing("b_broken_in_one", ("1",))
"""


@pytest.mark.slow
def test_a_cell_that_fails_in_all_processes_is_recorded_and_one_that_fails_in_one_ends_the_run(tmp_path):
    """In the second cell process 0 waits for process 1, which gives up after half of --cell-timeout: the fault may be its machine's."""
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    names = "a_broken,b_broken_in_one"
    options = ["-a", names, "--include-path", str(tmp_path / "failing.py"), "--cell-timeout", "8"]
    started = Torchrun(tmp_path / "out", *options, errors=tmp_path / "errors")
    try:
        assert started.process.wait(timeout=120) == 1
        assert not started.ranks()
    finally:
        started.end()
    record = record_of(tmp_path / "out")
    assert (record.cell.attention, record.status) == ("a_broken", "failed")
    assert record.reason == "RuntimeError: a_broken is broken"
    said = (tmp_path / "errors").read_text(encoding="utf-8")
    assert (
        "process 1: language_modeling/gpt.causal_self.b_broken_in_one.s0: RuntimeError: b_broken_in_one is broken"
        in said
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "train.batch_size = 2 of language_modeling/gpt.causal_self.lavo.s0: can't be shared by 3 processes"),
        ({"ACCELERATE_USE_FSDP": "true"}, "accelerate launch: its configuration asks for fsdp"),
    ],
)
def test_what_processes_cannot_share_is_refused(more, words, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", **more}.items():
        monkeypatch.setenv(name, value)
    places = ["-o", tmp_path / "out", "--cache", tmp_path / "cache"]
    answer = lavo_bench(*CELL, "--set", "train.batch_size=2", *places)
    assert answer.status == 2
    assert answer.err.startswith(f"lavo-bench: {words}")
    assert answer.err.count("\n") == 1
