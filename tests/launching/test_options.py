"""What the options of a launcher become, and what is refused before anything is started."""

from __future__ import annotations

import importlib.util

import pytest
from command_line import lavo_bench

from benchmark.launching.engines import Wanted, _arguments, launch_of
from benchmark.launching.options import RayOptions, SlurmOptions, options_in
from benchmark.running.runner import Place


class Threads:
    """A cell, of which only the threads count."""

    def __init__(self, threads: int) -> None:
        self.threads = threads


def jobs_of(wanted: Wanted, options: SlurmOptions | RayOptions, threads: int, folder) -> str | None:
    arguments = _arguments(wanted, options, folder / ".plans" / "abc.json", [Threads(threads)], Place(folder, folder))
    assert arguments[:4] == ["work", str(folder), "--plan", "abc"]
    return arguments[arguments.index("--jobs") + 1] if "--jobs" in arguments else None


def test_texts_become_options_and_keep_what_looks_like_a_number():
    options = options_in(
        SlurmOptions, ["account=0012", "gpus=2", "time=90", "memory=7.5", "sbatch.reservation=a=b", "sbatch.nice=5"]
    )
    assert (options.account, options.gpus, options.time, options.memory) == ("0012", 2, 90, 7.5)
    assert options.sbatch == {"reservation": "a=b", "nice": "5"}
    assert options_in(RayOptions, ["address=10.0.0.1:6379", "gpus=0.5"]) == RayOptions(
        address="10.0.0.1:6379", gpus=0.5
    )


def test_a_worker_runs_as_many_cells_as_its_cpus_hold(tmp_path):
    slurm, cpus = Wanted("slurm"), options_in(SlurmOptions, ["cpus=8"])
    assert jobs_of(slurm, cpus, 2, tmp_path) == "4"
    assert jobs_of(slurm, cpus, 16, tmp_path) == "1"
    assert jobs_of(slurm._replace(jobs=3), cpus, 2, tmp_path) == "3"
    # On a GPU the worker counts for itself: one cell for each that it has.
    assert jobs_of(slurm, options_in(SlurmOptions, ["cpus=8", "gpus=1"]), 2, tmp_path) is None
    assert jobs_of(slurm._replace(device="cuda"), cpus, 2, tmp_path) is None


def test_a_ray_worker_has_a_node_or_what_it_was_told(tmp_path):
    whole = RayOptions()
    assert whole.for_workers(None) == whole
    assert jobs_of(Wanted("ray"), whole, 1, tmp_path) is None
    assert whole.for_workers(3) == RayOptions(cpus=1, gpus=0)
    assert RayOptions(gpus=1).for_workers(None) == RayOptions(cpus=1, gpus=1)


@pytest.mark.parametrize(("launcher", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, launcher, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    with pytest.raises(ValueError, match=rf"{package} is not installed: pip install 'lavo-bench\[{launcher}\]'$"):
        launch_of(Wanted(launcher), print)


@pytest.mark.parametrize("option", ["--rerun", "--plan-only"])
def test_a_launcher_runs_cells_without_a_record_only(tmp_path, option):
    answer = lavo_bench("run", "lm", "--launcher", "slurm", option, "-o", tmp_path / "out")
    assert answer.status == 2
    assert "--launcher: not with --rerun, --plan-only or torchrun" in answer.err
    assert not list((tmp_path / "out").iterdir())


def test_the_device_need_not_be_on_the_machine_that_launches(tmp_path):
    answer = lavo_bench("run", "lm", "--launcher", "slurm", "--device", "cuda:99", "--rerun", "-o", tmp_path / "out")
    assert "--launcher: not with --rerun" in answer.err
    assert "--device tpu" in lavo_bench("run", "lm", "--launcher", "slurm", "--device", "tpu").err


def test_a_report_asks_for_the_device_on_the_machine_that_launches(tmp_path):
    """Afterwards efficiency is measured there, which must not fail when all cells are done."""
    options = ["--launcher", "slurm", "--device", "cuda:99", "--report", "-o", tmp_path / "out"]
    answer = lavo_bench("run", "lm", *options)
    assert answer.status == 2
    assert answer.err.startswith("lavo-bench: --device cuda:99: this machine has ")
    assert not (tmp_path / "out").exists()


def test_workers_show_tracebacks_if_the_command_is_asked_to(tmp_path):
    place = Place(tmp_path, tmp_path, debug=True)
    assert "--debug" in _arguments(Wanted("ray"), RayOptions(), tmp_path / "abc.json", [], place)


@pytest.mark.parametrize("texts", [["sbatch=a", "sbatch.b=c"], ["sbatch.b=c", "sbatch=a"], ["gpus=1", "gpus.b=c"]])
def test_an_option_that_is_a_value_and_a_group_is_refused(texts):
    with pytest.raises(ValueError, match=f"^--launcher-option .*{texts[1].split('=')[0].split('.')[0]}"):
        options_in(SlurmOptions, texts)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 with RANK=: a rank from 0 to 1 is wanted"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE=2 with RANK=2: a rank from 0 to 1 is wanted"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x': not a number"),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK='first': not a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "--jobs: not with torchrun"),
    ],
)
@pytest.mark.parametrize("command", ["run", "work"])
def test_what_torchrun_sets_must_fit_together_and_is_not_mixed_with_jobs(
    tmp_path, monkeypatch, command, variables, words
):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = ["work", tmp_path] if command == "work" else ["run", "lm", "-o", tmp_path]
    answer = lavo_bench(*arguments, "--jobs", "2", "--device", "cpu")
    assert answer.status == 2
    assert answer.err.startswith(f"lavo-bench: {words}")
    assert answer.err.count("\n") == 1
