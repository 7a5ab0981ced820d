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
