"""Worker processes: a crash or a kill is a record, and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark import registry, results
from benchmark.running import family, runner, workers
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.yaml_files import parse_assignment

CRASHING = """
import os, signal
from torch import nn
from benchmark import register_attention

class Ends(nn.Module):
    version = 1
    unsupported = {"noncausal_self": "no", "noncausal_cross": "no"}
    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
    def forward(self, q, k, v, key_padding_mask=None):
        self.end()
    init_state = extend = init_cross = read = select = state_bytes = forward

@register_attention("exits")
class Exits(Ends):
    def end(self):
        os._exit(7)

@register_attention("is_killed")
class IsKilled(Ends):
    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="reads the environment of processes")
def test_ending_one_worker_leaves_those_whose_number_begins_with_the_same_digit():
    mark = secrets.token_hex(8)
    marks = (mark, f"{mark}.1", f"{mark}.1", f"{mark}.10", f"{mark}0.1")
    started = [subprocess.Popen(["sleep", "600"], env={**os.environ, family.MARK: own}) for own in marks]

    def alive() -> list[str]:
        return [own for own, process in zip(marks, started, strict=True) if process.poll() is None]

    try:
        family.end(f"{mark}.1")
        assert alive() == [mark, f"{mark}.10", f"{mark}0.1"]
        family.end(mark)
        assert alive() == [f"{mark}0.1"]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_run_that_was_stopped_takes_no_silent_worker_for_hung(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now))
    place = runner.Place(tmp_path, tmp_path, cell_timeout=60.0)
    pool, (ours, theirs) = workers._Pool([], place, lambda _: None, runner.NOTHING_ANEW), multiprocessing.Pipe()
    ended: list[float] = []
    monkeypatch.setattr(pool, "_replace", lambda *_: ended.append(now))
    pool.workers.append(workers._Worker(None, ours, place, "mark", cell=SimpleNamespace(), last_message_time=now))

    def pass_time(seconds: int, at_a_time: int = 1) -> None:
        nonlocal now
        for _ in range(0, seconds, at_a_time):
            now += at_a_time
            pool._look_for_hung_cells()

    pass_time(30)
    pass_time(3600, at_a_time=3600)  # stopped for an hour, and its workers with it
    pass_time(30)
    assert not ended
    theirs.send("a message that was not read yet")
    pass_time(30)
    assert not ended
    ours.recv()
    pass_time(1)
    assert ended == [now]


@pytest.mark.slow
def test_a_crashed_worker_costs_one_cell(tmp_path):
    file = tmp_path / "crashing.py"
    file.write_text(CRASHING, encoding="utf-8")
    registry.include_file(file)
    run = RunSettings(tasks=["lm"], attentions=["exits", "none", "is_killed"], preset="smoke")
    cells = plan_cells([(run, [parse_assignment("train.steps=6")])], tmp_path / "cache")
    place = runner.Place(output=tmp_path / "out", cache=tmp_path / "cache", include=(file,))
    events = []
    workers.run_cells(cells, place, jobs=1, listen=lambda event: events.append((event.kind, event.cell.attention)))
    found = {record.cell.attention: record for record in results.records([tmp_path / "out"])}
    assert found["exits"].status == "failed"
    assert "exit status 7" in found["exits"].reason
    assert found["is_killed"].status == "out_of_memory"
    assert found["none"].status == "completed"
    assert [event for event in events if event[0] == "end"] == [("end", cell.attention) for cell in cells]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_stops_cleanly_and_keeps_what_is_done(tmp_path):
    out = tmp_path / "out"
    # Tests that run in the background of a script inherit an ignored Ctrl-C.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{heard}; from benchmark.cli import main; main()",
        "run",
        "lm",
        "-a",
        "none,softmax",
        "--jobs",
        "1",
    ]
    command += ["--preset", "smoke", "--seeds", "0,1,2,3,4,5,6,7", "-o", str(out), "--set", "train.steps=30"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
    )
    deadline = time.monotonic() + 500  # a machine may be busy
    while not results.record_files(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers alike
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "lavo-bench: interrupted; what is done is kept"
    done = results.records([out])
    assert 1 <= len(done) < 16
    assert all(record.status == "completed" for record in done)
