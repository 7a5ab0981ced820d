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
from process_group import free_port, variables_of

from benchmark.results import read_record
from benchmark.running import checkpoint, together
from benchmark.running.claims import Claims, Ticket
from benchmark.running.runner import Event, Place
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells

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

    def __init__(self, folder, *options, errors, steps=STEPS):
        self.mark = secrets.token_hex(8)
        settings = [part for setting in steps for part in ("--set", setting)]
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


TAKEN = """
import os, time
from pathlib import Path
import psutil
from baselines.softmax import SoftmaxAttention
from benchmark.registry import register_attention
from benchmark.running.claims import Claims

FOLDER = Path({folder!r})
TAKEN = FOLDER.parent / "taken"

def take_over():
    seconds = 0.0
    other = Claims(FOLDER, lease=1, clock=lambda: seconds)
    (claim,) = FOLDER.glob(".claims/*.claim")
    while not other.take(claim.name.partition(".")[0]):
        seconds += 2
    while any(Path(file.path).name == claim.name for file in psutil.Process().open_files()):
        time.sleep(0.02)  # until this process has noticed
    time.sleep(0.2)
    TAKEN.touch()
    other.release_all()

@register_attention("taken")
class Taken(SoftmaxAttention):
    def forward(self, *arguments, **options):
        if not self.training and os.environ["RANK"] == "0" and not TAKEN.exists():
            take_over()
        return super().forward(*arguments, **options)
"""


@pytest.mark.slow
def test_all_processes_leave_a_cell_that_another_run_takes_after_the_last_step(tmp_path):
    """During the only validation, after which no step follows, the attention plays the other run in the first process."""
    folder = tmp_path / "out"
    (tmp_path / "taken.py").write_text(TAKEN.format(folder=str(folder)), encoding="utf-8")
    options = ["-a", "taken", "--include-path", str(tmp_path / "taken.py")]
    started = Torchrun(folder, *options, errors=tmp_path / "errors", steps=("train.eval_every=8",))
    try:
        assert started.process.wait(timeout=300) == 0, (tmp_path / "errors").read_text()
    finally:
        started.end()
    record = record_of(folder)
    assert (record.status, record.environment.processes) == ("completed", 2)
    assert (tmp_path / "taken").exists()
    assert not list(folder.glob(".*/*"))


class Turns:
    """Time that passes only while a watch waits.  turns: by how many seconds each wait lasts too long; after them the cell has ended."""

    def __init__(self, turns):
        self.turns, self.now = list(turns), 0.0

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        if not self.turns:
            return True
        self.now += seconds + self.turns.pop(0)
        return False


def make_watch(folder, monkeypatch, turns, listen=lambda _: None):
    """A watch that takes a turn every 5 seconds, and allows a cell 20 seconds without progress.  SystemExit stands for the end of the process."""
    run = RunSettings(tasks=["forecasting"], attentions=["lavo"], patterns=["causal_self"], preset="smoke")
    (cell,) = plan_cells([(run, [])], folder)
    clock = Turns(turns)
    monkeypatch.setattr(together, "time", clock)
    monkeypatch.setattr(together, "_end", sys.exit)
    claims = Claims(folder, 60.0, clock.monotonic)
    place = Place(output=folder, cache=folder, cell_timeout=20.0, lease=60.0)
    watch = together._Watch(cell, place, claims, Ticket(claims.take(cell.hash)), listen)
    watch._done = clock
    return watch


def test_a_cell_without_progress_is_recorded_as_failed_and_ends_the_process(tmp_path, monkeypatch):
    watch = make_watch(tmp_path, monkeypatch, [0] * 9)
    with pytest.raises(SystemExit, match="no progress for 25 s"):
        watch._renew()
    assert read_record(watch.cell.path(tmp_path)).reason.startswith("no progress for 25 s")
    assert not list(tmp_path.glob(".*/*"))


def test_time_in_which_the_process_was_stopped_is_no_silence_of_the_cell(tmp_path, monkeypatch):
    watch = make_watch(tmp_path, monkeypatch, [0, 3600, 0])
    watch._renew()
    watch._done.turns = [0, 3600, 0]
    with pytest.raises(SystemExit, match="no progress for 25 s"):  # six turns, and 5 seconds of each count
        watch._renew()


def test_a_display_that_a_stopped_terminal_holds_up_is_no_silence_of_the_cell(tmp_path, monkeypatch):
    watch = make_watch(tmp_path, monkeypatch, [0] * 9, listen=lambda _: watch._renew())
    watch.heard(Event("progress", watch.cell, phase="training"))
    watch._done.turns = [0] * 4
    watch._renew()  # the silence begins when the display goes on
    watch._done.turns = [0]
    with pytest.raises(SystemExit, match="no progress for 25 s"):
        watch._renew()


def test_a_file_system_that_fails_does_not_end_the_watch(tmp_path, monkeypatch):
    """Neither when the claim is renewed, nor when the record of the cell that hangs is written."""
    watch = make_watch(tmp_path, monkeypatch, [0] * 9)

    def fails():
        raise OSError("stale file handle")

    monkeypatch.setattr(watch.claims, "beat", fails)
    watch.cell.path(tmp_path).parent.touch()  # a file where the folder of the record belongs
    with pytest.raises(SystemExit, match=r"no progress for 25 s; .*can't be written: "):
        watch._renew()


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


@pytest.mark.slow
def test_all_processes_of_work_run_the_plans_that_the_first_one_reads(tmp_path):
    """The second process sees a folder without plans, as if another worker had meanwhile removed the last one."""
    folders, cache = (tmp_path / "out", tmp_path / "out of the second"), tmp_path / "cache"
    assert lavo_bench(*CELL, "--plan-only", "-o", folders[0], "--cache", cache).status == 0
    folders[1].mkdir()
    command, port = [sys.executable, "-m", "benchmark.cli", "work"], free_port()
    processes = [
        subprocess.Popen(
            [*command, str(folder), "--cache", str(cache)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **variables_of(rank, 2, port)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, folder in enumerate(folders)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300)[0] for process in reversed(processes)]
        assert [process.returncode for process in processes] == [0, 0], said
    finally:
        for process in processes:
            process.kill()
    assert record_of(folders[0]).environment.processes == 2
    assert not list(folders[0].glob(".*/*"))
    assert not list(folders[1].iterdir())


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
