"""The queue of ``studies.cluster`` beside closed forms, and its command beside records with known times."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import believable
import numpy as np
import pytest
from typer.testing import CliRunner

from studies import cluster
from studies.claims_queue import Job, Machines, longest_first, simulate


@pytest.mark.parametrize(("jobs", "workers"), [(1, 1), (10, 3), (12, 3), (200, 8), (5, 64)])
def test_equal_cells_without_failures_take_whole_rounds(jobs, workers):
    outcome = simulate([Job(7.0)] * jobs, Machines(workers, start=3.0, setup=2.0))
    assert outcome.wall == pytest.approx(3 + math.ceil(jobs / workers) * 9)
    assert (outcome.reruns, outcome.lost, outcome.down) == (0, 0, 0)


def test_cells_are_claimed_in_order_by_whoever_is_free():
    outcome = simulate([Job(seconds) for seconds in (5.0, 1.0, 1.0, 9.0, 2.0)], Machines(2))
    assert outcome.ends == (5.0, 1.0, 2.0, 11.0, 7.0)


def test_any_order_keeps_grahams_bound():
    """No worker is free while a cell waits, so the last cell begins when at most the mean load has passed (Graham, 1969)."""
    generator = np.random.default_rng(0)
    for workers in (2, 3, 8):
        seconds = generator.exponential(10, size=40)
        jobs = [Job(one) for one in seconds]
        for order in (jobs, longest_first(jobs)):
            wall = simulate(order, Machines(workers)).wall
            assert seconds.sum() / workers <= wall <= seconds.sum() / workers + (1 - 1 / workers) * seconds.max() + 1e-9


def test_restarts_take_the_known_expectation():
    """A piece of c seconds between two checkpoints needs (exp(c/T) - 1) (T + D) seconds: mean time T to a failure, D to restart."""
    mean, down, pieces, length = 50.0, 8.0, 6, 30.0
    machines = Machines(1, [(mean, down)])
    outcomes = [simulate([Job(pieces * length, length)], machines, np.random.default_rng(seed)) for seed in range(6000)]
    walls, reruns = (np.array([getattr(outcome, name) for outcome in outcomes]) for name in ("wall", "reruns"))
    growth = math.exp(length / mean) - 1
    for values, expected in ((walls, pieces * growth * (mean + down)), (reruns, pieces * growth)):
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))
    for outcome in outcomes[:100]:  # every second is work, lost or down
        assert outcome.wall == pytest.approx(pieces * length + outcome.lost + outcome.down)


def test_two_causes_of_failure_add_their_rates():
    outcomes = [
        simulate([Job(30.0)], Machines(1, [(100.0, 0.0), (100.0, 0.0)]), np.random.default_rng(seed))
        for seed in range(4000)
    ]
    walls = np.array([outcome.wall for outcome in outcomes])
    assert abs(walls.mean() - (math.exp(30 / 50) - 1) * 50) < 4 * walls.std() / math.sqrt(len(walls))


def test_a_lost_cell_waits_for_the_lease_and_goes_to_another_worker():
    class Once:
        """The first worker fails after 4 seconds, nobody else."""

        def __init__(self):
            self.draws = iter([4.0])

        def exponential(self, _mean):
            return next(self.draws, math.inf)

    machines = Machines(2, [(1.0, 100.0)], start=1.0, setup=0.5, lease=10.0)
    outcome = simulate([Job(6.0, 1.0), Job(3.0)], machines, Once())
    # It fails at 5, with 3 of 3.5 seconds kept; at 15 its claim has expired; the other sets up again and trains the 3 that are left.
    assert outcome.ends == (18.5, 4.5)
    assert (outcome.reruns, outcome.lost, outcome.down) == (1, 1.0, 100.0)


def run_of(folder, seconds, workers, overhead=0.0):
    """Records of a run in which cells began as soon as a worker was free; returns its wall time."""
    free, begin = [0.0] * workers, datetime(2026, 1, 1, tzinfo=UTC)
    for seed, took in enumerate(seconds):
        start = min(free)
        free[free.index(start)] = start + took + overhead
        made = believable.make_record("language_modeling", "gpt", "causal_self", "softmax", seed)
        started = (begin + timedelta(seconds=start)).isoformat()
        cell = replace(made.record.cell, hash=f"{seed:012x}")
        efficiency = replace(made.record.efficiency, train_seconds=took)
        record = replace(made.record, cell=cell, seconds=took, started=started, efficiency=efficiency)
        believable.write(folder, made._replace(record=record))
    return max(free) - overhead


def test_a_check_reads_the_times_of_a_run(tmp_path):
    wall = run_of(tmp_path, [3.0, 1.0, 2.0, 5.0, 1.0, 4.0], workers=2)
    checked = cluster.checked(tmp_path, 2)
    assert (checked.cells, checked.predicted, checked.wall) == (6, pytest.approx(wall), pytest.approx(wall))
    said = CliRunner().invoke(app(), ["--check", str(tmp_path), "--workers", "2"])
    assert said.exit_code == 0, said.output
    assert f"| 6 | 2 | {wall:.1f} | {wall:.1f} | +0.0 % |" in said.output
    assert CliRunner().invoke(app(), ["--check", str(tmp_path), "--workers", "2,4"]).exit_code == 2
    assert CliRunner().invoke(app(), ["--check", str(tmp_path / "none"), "--workers", "2"]).exit_code == 2


def test_the_matrix_is_the_plan_and_work_is_scaled():
    cells = cluster.matrix("gpu", [0, 1, 2], ["lavo", "softmax"])
    at_gpt = [one for one in cells if one.backbone == "gpt"]
    assert [(one.spec.name, one.seed) for one in at_gpt] == [(n, s) for s in (0, 1, 2) for n in ("lavo", "softmax")]
    assert not [
        one for one in cells if one.spec.name == "softmax" and one.pattern == "causal_cross" and one.task == "lm"
    ]
    train = {"steps": 10, "batch_size": 4}
    model = {"embed_dim": 8, "num_layers": 1, "feed_forward_dim": 16}
    small = {"data": {"context_length": 64}, "model": model, "train": train}
    large = {
        "data": {"context_length": 128},
        "model": {"embed_dim": 16, "num_layers": 3, "feed_forward_dim": 32},
        "train": {"steps": 20, "batch_size": 8},
    }
    ratio = cluster.work("language_modeling", large) / cluster.work("language_modeling", small)
    assert ratio == pytest.approx(2 * 3 * 4 * 2 * 2)


def test_the_command_prints_a_table_and_draws_a_figure(tmp_path):
    options = ["--seeds", "0", "-a", "lavo,softmax", "--gpus", "1,4", "--draws", "2", "-o", str(tmp_path / "cost.pdf")]
    said = CliRunner().invoke(app(), [*options, "--num-attentions", "4"])
    assert said.exit_code == 0, said.output
    assert "of further attentions" in said.output
    rows = [line for line in said.output.splitlines() if line.startswith(("| 1 |", "| 4 |"))]
    assert len(rows) == 4
    assert (tmp_path / "cost.pdf").read_bytes().startswith(b"%PDF")
    assert CliRunner().invoke(app(), ["--records", str(tmp_path)]).exit_code == 2


def app():
    """The command, as ``python -m studies.cluster`` runs it."""
    import typer

    made = typer.Typer()
    made.command()(cluster.main)
    return made
