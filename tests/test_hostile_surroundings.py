"""Real runs where home, paths, memory or neighbours are odd, and attentions that fork, mutate or give what they should not."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from test_hostile_cells import HOSTILE, ROOT, command, figures, run, undisturbed  # noqa: F401  undisturbed is a fixture

from benchmark import results

MORE = (
    HOSTILE
    + '''

forked = []

@hostile
def forks():
    if not forked:  # both go on, and fork no more
        forked.append(True)
        os.fork()

@hostile
def forks_and_sleeps():
    if not forked:
        forked.append(True)
        if os.fork() == 0:
            time.sleep(997)

@hostile
def threads_of_python():
    import threading
    if threading.active_count() < 5:
        threading.Thread(target=time.sleep, args=(997,), daemon=False).start()

@hostile
def takes_memory():
    torch.empty(1 << 43, dtype=torch.uint8)

@hostile
def limits_memory():
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
    bytearray(1 << 24)

@hostile
def shuts_files():
    os.closerange(3, 100)

@hostile
def leaves_handlers():
    import atexit, gc, signal
    gc.disable()
    sys.setrecursionlimit(60)
    sys.stdout = sys.stderr = None
    atexit.register(lambda: time.sleep(997))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def returning(name):
    """An attention whose output or handling of its inputs is wrong."""
    def register(function):
        @register_attention(name)
        class Wrong(nn.Module):
            version, unsupported = 1, {"noncausal_self": "no", "noncausal_cross": "no", "causal_cross": "no"}
            def __init__(self, *, pattern, num_heads, head_dim):
                super().__init__()
            def forward(self, q, k, v, key_padding_mask=None):
                return function(q, k, v)
            init_state = extend = select = state_bytes = forward
        return Wrong
    return register

returning("gives_nothing")(lambda q, k, v: None)
returning("gives_a_list")(lambda q, k, v: [v])
returning("gives_another_shape")(lambda q, k, v: v[:, :, :-1])
returning("gives_whole_numbers")(lambda q, k, v: v.long())
returning("gives_nan")(lambda q, k, v: v * float("nan"))
returning("gives_no_gradient")(lambda q, k, v: v.detach())
returning("gives_another_device")(lambda q, k, v: v.to("meta"))

@returning("mutates")
def mutates(q, k, v):
    with torch.no_grad():
        q.zero_(), k.fill_(3)
    v.data.mul_(0.5)
    return v
'''
)
WRONG = (
    "gives_nothing",
    "gives_a_list",
    "gives_another_shape",
    "gives_whole_numbers",
    "gives_nan",
    "gives_another_device",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with the hostile file, and the cache that all runs use."""
    folder = tmp_path_factory.mktemp("surroundings")
    (folder / "hostile.py").write_text(MORE, encoding="utf-8")
    return folder


def status_by_attention(output: Path) -> dict[str, tuple[str, str | None]]:
    return {record.cell.attention: (record.status, record.reason) for record in results.records([output])}


@pytest.mark.slow
def test_what_an_attention_gives_or_does_to_its_inputs_is_its_own_affair(shared, undisturbed, tmp_path):  # noqa: F811
    attentions = [*WRONG, "mutates", "gives_no_gradient", "none", "softmax"]
    done = run(shared, tmp_path / "out", ",".join(attentions), "--jobs", "1", "--seeds", "0")
    assert "Traceback" not in done.stderr
    found = status_by_attention(tmp_path / "out")
    assert found.keys() == set(attentions)
    for name in WRONG:
        status, reason = found[name]
        assert status == "failed", name
        assert len(reason.splitlines()) == 1, name
    for name, expected in undisturbed.items():
        assert figures(tmp_path / "out", name) == expected


@pytest.mark.slow
def test_what_an_attention_does_to_its_worker_costs_its_own_cell_alone(shared, undisturbed, tmp_path):  # noqa: F811
    hostile = [
        "forks",
        "forks_and_sleeps",
        "threads_of_python",
        "takes_memory",
        "limits_memory",
        "shuts_files",
        "leaves_handlers",
    ]
    done = run(shared, tmp_path / "out", ",".join([*hostile, "none", "softmax"]), "--jobs", "2", "--cell-timeout", "20")
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    found = status_by_attention(tmp_path / "out")
    assert found.keys() == {*hostile, "none", "softmax"}
    assert found["takes_memory"][0] == "out_of_memory"
    assert found["limits_memory"][0] == "out_of_memory"
    for name, expected in undisturbed.items():
        assert figures(tmp_path / "out", name) == expected


@pytest.mark.slow
def test_a_run_under_a_limit_of_memory(shared, undisturbed, tmp_path):  # noqa: F811
    """The limit holds for the run and its workers; what does not fit is recorded, and the others have their figures."""
    limit = 16 << 30
    done = subprocess.run(
        command(shared, tmp_path / "out", "takes_memory,none", "--jobs", "1"),
        cwd=ROOT, env={**os.environ, "HANGS_AS": "x", "DISK_FULL_WHILE": "/nowhere"}, capture_output=True, text=True, timeout=300,
        check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1, done
    assert status_by_attention(tmp_path / "out")["takes_memory"][0] == "out_of_memory"
    assert figures(tmp_path / "out", "none") == undisturbed["none"]


@pytest.mark.slow
def test_a_home_that_is_missing_or_read_only(shared, undisturbed, tmp_path):  # noqa: F811
    places = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "XDG_CONFIG_HOME": "/proc/nowhere"}
    done = run(shared, tmp_path / "out", "none", **places)
    assert done.returncode == 0, done
    assert done.stderr == ""
    assert figures(tmp_path / "out", "none") == undisturbed["none"]
    without = [
        part for part in command(shared, tmp_path / "other", "none") if part not in ("--cache", str(shared / "cache"))
    ]
    unset = {key: value for key, value in os.environ.items() if key != "LAVO_BENCH_CACHE"}
    done = subprocess.run(
        without, cwd=ROOT, env={**unset, **places}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lavo-bench: --cache /proc/nowhere")
    assert done.stderr.count("\n") == 1
    environment = {key: value for key, value in unset.items() if key != "HOME"} | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [*without[:-1], str(tmp_path / "third")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done
    assert figures(tmp_path / "third", "none") == undisturbed["none"]


@pytest.mark.slow
def test_an_output_of_odd_and_long_names(shared, undisturbed, tmp_path):  # noqa: F811
    output = tmp_path / "a b" / "-" / "-ä😀'\"$HOME\n*[x]{y}" / ("é" * 127)
    done = run(shared, output, "none")
    assert done.returncode == 0, done
    assert figures(output, "none") == undisturbed["none"]
    for words in (
        ["list", "results", "-o", output],
        ["compare", output, output],
        ["report", output, "-o", output.parent / "report"],
    ):
        said = subprocess.run(
            [sys.executable, "-m", "benchmark.cli", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert said.returncode == 0, said
        assert said.stderr == ""


@pytest.mark.slow
def test_two_runs_that_use_one_cache_for_the_first_time_at_once(shared, tmp_path):
    """Both complete, and their records are the same to the bit."""
    environment = {**os.environ, "HANGS_AS": "x", "DISK_FULL_WHILE": "/nowhere"}
    both = []
    for name in ("a", "b"):
        line = command(shared, tmp_path / name, "none", "--jobs", "1")
        line[line.index(str(shared / "cache"))] = str(tmp_path / "cache")
        line.insert(line.index("lm"), "lstf")
        both.append(
            subprocess.Popen(
                [*line, "--pattern", "causal_self"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert err == ""
    files = {
        name: {
            path.relative_to(tmp_path / name): path for path in (tmp_path / name).glob("*/*") if path.suffix == ".gz"
        }
        for name in ("a", "b")
    }
    assert len(files["a"]) == 4
    assert {path: file.read_bytes() for path, file in files["a"].items()} == {
        path: file.read_bytes() for path, file in files["b"].items()
    }
    assert not list((tmp_path / "cache").rglob("*.tmp"))
