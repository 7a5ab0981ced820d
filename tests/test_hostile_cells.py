"""Attentions that change, break or hang their process: their own cell pays, the next one's figures stay to the bit."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmark import results

ROOT = Path(__file__).parents[1]

HOSTILE = '''
import os, random, signal, subprocess, sys, time
import numpy, torch
from torch import nn
from torch.nn import functional as F
from benchmark import register_attention


def hostile(act):
    """An attention (the mean of the values) that does something to its process first."""
    @register_attention(act.__name__)
    class Hostile(nn.Module):
        version, unsupported = 1, {"noncausal_self": "no", "noncausal_cross": "no", "causal_cross": "no"}
        def __init__(self, *, pattern, num_heads, head_dim):
            super().__init__()
        def forward(self, q, k, v, key_padding_mask=None):
            act()
            return torch.cumsum(v, 2) / torch.arange(1, v.shape[2] + 1)[:, None]
        def init_state(self, batch_size, *, device=None, dtype=None):
            return torch.zeros(batch_size, 1, device=device)
        def extend(self, q, k, v, state):
            return v, state
        def select(self, state, rows):
            return state[rows]
        def state_bytes(self, state):
            return state.nbytes


@hostile
def threads():
    torch.set_num_threads(2)

@hostile
def default_dtype():
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float16)
    raise RuntimeError("left the default dtype behind")

@hostile
def no_gradients():
    torch.set_grad_enabled(False)

@hostile
def folder():
    os.chdir("/")

@hostile
def variables():
    os.environ["LAVO_BENCH_DATA"] = os.environ["HOME"] = "/nowhere"
    os.umask(0o777)

@hostile
def seeds():
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)

@hostile
def patches():
    F.scaled_dot_product_attention = F.cross_entropy = None
    nn.Linear.forward = lambda self, x: x * 0

@hostile
def prints():
    print("x" * 1_000_000)
    os.write(1, b"y" * 1_000_000)
    os.write(2, b"z" * 1_000_000)

@hostile
def exits():
    sys.exit(0)

@hostile
def nothing_finite():
    raise FloatingPointError("no number")

@hostile
def hangs():
    with open(os.environ["HANGS_AS"], "w") as file:
        child = subprocess.Popen(["sleep", "997"], start_new_session=True)
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(997)

@hostile
def disk_full():
    if os.path.exists(os.environ["DISK_FULL_WHILE"]):
        def fsync(_):
            raise OSError(28, "No space left on device")
        os.fsync = fsync
'''


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with the hostile file, and the cache that all runs use."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.py").write_text(HOSTILE, encoding="utf-8")
    return folder


def command(shared: Path, output: Path, attentions: str, *options: str) -> list[str]:
    common = ["--preset", "smoke", "--seeds", "0", "--set", "train.steps=6", "--limit", "2"]
    files = ["--include-path", str(shared / "hostile.py"), "--cache", str(shared / "cache"), "-o", str(output)]
    # Python leaves SIGINT ignored where the shell that started the tests ignores it, as for a job in the background.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    main = f"{heard}; from benchmark.cli import main; main()"
    return [sys.executable, "-c", main, "run", "lm", "-a", attentions, *common, *files, *options]


def run(
    shared: Path, output: Path, attentions: str, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HANGS_AS": str(output) + ".pids",
        "DISK_FULL_WHILE": str(output) + ".full",
        **variables,
    }
    return subprocess.run(
        command(shared, output, attentions, *options),
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def figures(output: Path, attention: str) -> tuple:
    """All that a cell's figures are made of, to the bit."""
    (record,) = (one for one in results.records([output]) if one.cell.attention == attention)
    content = results.as_json(record)
    for key in ("started", "seconds", "efficiency"):
        del content[key]
    columns = gzip.decompress(record.path.with_name(record.examples_file).read_bytes())
    return content, dict(record.curves), columns


@pytest.fixture(scope="module")
def undisturbed(shared, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "out"
    done = run(shared, output, "softmax,none")
    assert done.returncode == 0, done.stderr
    return {name: figures(output, name) for name in ("softmax", "none")}


@pytest.mark.slow
def test_what_an_attention_does_to_its_process_changes_no_other_cell(shared, undisturbed, tmp_path):
    """One worker, and after each hostile attention one of ours: whatever it inherits would show."""
    hostile = ["threads", "default_dtype", "no_gradients", "folder", "variables", "seeds", "patches", "prints", "exits"]
    order = ",".join(["softmax", *hostile, "none"])
    for number, chosen in enumerate((order, ",".join(reversed(order.split(","))))):
        output = tmp_path / f"out{number}"
        done = run(shared, output, chosen, "--jobs", str(1 + number))
        assert "xxxxx" not in done.stdout + done.stderr
        assert "yyyyy" not in done.stdout + done.stderr
        assert len(done.stdout) + len(done.stderr) < 10_000
        for name, expected in undisturbed.items():
            assert figures(output, name) == expected, f"{name} in the order {chosen}"
        status = {record.cell.attention: (record.status, record.reason) for record in results.records([output])}
        assert status["default_dtype"] == ("failed", "RuntimeError: left the default dtype behind")
        assert status["exits"] == ("failed", "the worker process ended by itself (exit status 0)")
        assert {status[name][0] for name in ("threads", "folder", "variables", "seeds", "prints")} == {"completed"}


@pytest.mark.slow
def test_the_number_of_jobs_changes_no_bit(shared, undisturbed, tmp_path):
    for jobs in ("1", "3"):
        run(shared, tmp_path / jobs, "none,softmax", "--jobs", jobs)
        for name, expected in undisturbed.items():
            assert figures(tmp_path / jobs, name) == expected


@pytest.mark.slow
def test_a_hung_cell_ends_with_all_that_it_started_and_the_others_go_on(shared, undisturbed, tmp_path):
    done = run(shared, tmp_path / "out", "hangs,none", "--jobs", "1", "--cell-timeout", "8")
    assert done.returncode == 1
    (hung,) = (record for record in results.records([tmp_path / "out"]) if record.cell.attention == "hangs")
    assert hung.status == "failed"
    assert "no progress for" in hung.reason
    assert "--cell-timeout" in hung.reason
    assert figures(tmp_path / "out", "none") == undisturbed["none"]
    assert not any(psutil.pid_exists(pid) for pid in started(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_a_run_that_ends(shared, tmp_path, sign):
    """The worker hangs, with a child in a session of its own; the run is killed."""
    output = tmp_path / "out"
    environment = {**os.environ, "HANGS_AS": str(output) + ".pids", "DISK_FULL_WHILE": "/nowhere"}
    process = subprocess.Popen(
        command(shared, output, "hangs"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pids = wait_for(lambda: started(output))
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    assert wait_for(lambda: not any(psutil.pid_exists(pid) and alive(pid) for pid in pids))
    assert results.records([output]) == []


@pytest.mark.slow
def test_an_interrupt_while_workers_start_shows_no_traceback(shared, tmp_path):
    """At some moments of the first seconds; wherever it comes, there is one line."""
    for seconds in (0.3, 1.0, 2.0, 3.0, 4.0):
        process = subprocess.Popen(
            command(shared, tmp_path / str(seconds), "softmax"), cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "HANGS_AS": "/nowhere", "DISK_FULL_WHILE": "/nowhere"},
        )  # fmt: skip
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers get it too
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err or seconds < 1.0, err  # before our main() runs, it is Python's own affair


@pytest.mark.slow
def test_a_full_disk_is_the_machines_fault_and_costs_no_cell(shared, undisturbed, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "out.full").touch()
    done = run(shared, output, "disk_full,none", "--jobs", "1")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "gpt.causal_self.disk_full" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert results.records([output]) == []
    (tmp_path / "out.full").unlink()
    again = run(shared, output, "disk_full,none", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert figures(output, "none") == undisturbed["none"]
    assert {record.status for record in results.records([output])} == {"completed"}
    assert not list(output.rglob("*.tmp"))
    assert not (output / ".checkpoints").exists()


def started(output: Path) -> list[int]:
    """The process of the hung worker and of what it has started; empty until it hangs."""
    path = Path(str(output) + ".pids")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_for(condition, seconds: float = 60.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
    return found
