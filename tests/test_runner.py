"""Running cells: records that survive kills, crashes and failures of single cells."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_task
from torch import nn

from benchmark import registry, results
from benchmark.files import MachineFault, machine_digits
from benchmark.running import runner, workers
from benchmark.running.claims import FOLDER, Claims, Ticket
from benchmark.running.publish import publish
from benchmark.settings.cell import Cell, without_places
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.yaml_files import parse_assignment

SETTINGS = ["train.steps=40", "train.checkpoint_every=7", "train.eval_every=10"]
PRESETS = """
smoke:
  train: {steps: 40, batch_size: 8, learning_rate: 0.01, eval_batch_size: 4}
  seeds: [0, 1]
"""


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy task in the registry."""
    toy_task.register(monkeypatch, tmp_path / "toy", PRESETS)


def plan(attentions=("softmax", "none"), settings=SETTINGS, **run) -> list[Cell]:
    chosen = RunSettings(tasks=["toy"], attentions=list(attentions), preset="smoke", **run)
    return plan_cells([(chosen, [parse_assignment(text) for text in settings])], Path("/dev/null/unused"))


def place(folder: Path) -> runner.Place:
    return runner.Place(output=folder, cache=folder / ".cache")


def test_a_cell_leaves_its_whole_record(toy, tmp_path):
    cell = plan()[0]
    runner.run_cell(cell, place(tmp_path / "out"))
    (record,) = results.records([tmp_path / "out"])
    assert record.status == "completed"
    assert record.cell == cell.name
    assert record.metrics["mse"].n == 10
    assert record.controls["zero"]["mse"] > 0
    assert record.curves["training"]["step"][-1] == 40
    assert record.efficiency.kernels
    assert record.efficiency.extra_parameters == 0
    assert record.data.embedded
    examples = record.examples
    assert len(examples) == 10
    assert examples["mse"].mean() == pytest.approx(record.metrics["mse"].value, rel=1e-6)
    assert not (tmp_path / "out" / runner.CHECKPOINTS / cell.hash).exists()


def test_examples_that_depend_on_each_other_say_so(toy, tmp_path, monkeypatch):
    class Pairs(list):
        clusters = np.arange(10) // 2

    load = toy_task.Toy.load_data
    monkeypatch.setattr(
        toy_task.Toy, "load_data", lambda self, *where: (found := load(self, *where))._replace(test=Pairs(found.test))
    )
    runner.run_cell(plan()[0], place(tmp_path / "out"))
    (record,) = results.records([tmp_path / "out"])
    assert record.examples["cluster"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_record_names_no_person_and_no_place(toy, tmp_path):
    cell = plan()[0]
    runner.run_cell(cell, place(tmp_path / "out"))
    text = cell.path(tmp_path / "out").read_text(encoding="utf-8")
    for private in (str(tmp_path), os.uname().nodename, os.environ.get("USER") or "no-user-name"):
        assert private not in text


def test_where_a_file_lies_is_no_part_of_record_or_hash():
    settings = {"data": {"file": "/home/somebody/series.csv", "columns": ["/a/b", "c"]}, "limit": None}
    assert without_places(settings) == {"data": {"file": "series.csv", "columns": ["b", "c"]}, "limit": None}


def test_a_finished_cell_is_not_run_again(toy, tmp_path):
    cells = plan()
    for cell in cells:
        runner.run_cell(cell, place(tmp_path))
    assert runner.to_run(cells, tmp_path) == []
    assert runner.to_run(cells, tmp_path, runner.Redo(everything=True)) == cells


def run_remaining(cells: list[Cell], folder: Path) -> None:
    for cell in runner.to_run(cells, folder):
        runner.run_cell(cell, place(folder))


class _OneCellThenGone:
    """A parent that gives one cell and is killed at the first event it would hear."""

    def __init__(self, cell):
        self.cell = cell

    def recv(self):
        return self.cell

    def send(self, event):
        raise BrokenPipeError


def test_a_cell_whose_parent_is_gone_did_not_fail(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    cell, own = plan()[0], replace(place(tmp_path), debug=True)  # else it mutes this process
    with pytest.raises(SystemExit):
        workers._work(_OneCellThenGone((cell, Ticket("0" * 16))), own)
    assert not cell.path(tmp_path).exists()


def interrupted(cell: Cell, folder: Path, step: int) -> list[int]:
    """Runs a cell until Ctrl-C in this step.  Returns the steps that it trained."""
    steps: list[int] = []

    def listen(event: runner.Event) -> None:
        if event.phase == "training":
            steps.append(event.step)
            if event.step == step:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_cell(cell, place(folder), listen)
    return steps


def write_failed_record(cell: Cell, folder: Path) -> None:
    record = runner.record_without_figures(cell, place(folder), "failed", "its worker was killed", datetime.now(UTC))
    results.write_record(cell.path(folder), record)


def test_a_failed_cell_starts_anew_and_its_interrupted_second_attempt_goes_on(toy, tmp_path):
    (cell,) = plan(attentions=["softmax"], seeds=[0])
    again = runner.Redo(failed=True)
    runner.run_cell(cell, place(tmp_path / "alone"))
    interrupted(cell, tmp_path / "out", 20)
    write_failed_record(cell, tmp_path / "out")
    runner.clean(tmp_path / "out", [cell], redo=again)
    assert interrupted(cell, tmp_path / "out", 20)[0] == 1
    for _ in range(2):
        runner.clean(tmp_path / "out", [cell], redo=again)
        assert runner.to_run([cell], tmp_path / "out", again) == [cell]
        assert interrupted(cell, tmp_path / "out", 20)[0] == 15  # the step after the checkpoint
    runner.run_cell(cell, place(tmp_path / "out"))
    alone, found = (results.records([tmp_path / name])[0] for name in ("alone", "out"))
    assert (found.metrics, found.curves) == (alone.metrics, alone.curves)
    runner.clean(tmp_path / "out", [cell])
    assert not (tmp_path / "out" / runner.CHECKPOINTS).exists()


def test_checkpoints_stay_while_another_process_runs_the_cell_again(toy, tmp_path):
    (cell,) = plan(attentions=["softmax"], seeds=[0])
    write_failed_record(cell, tmp_path)
    owner = Claims(tmp_path)
    owner.take(cell.hash)
    interrupted(cell, tmp_path, 20)
    runner.clean(tmp_path, [cell])
    assert len(list((tmp_path / runner.CHECKPOINTS / cell.hash).glob("*.pt"))) == 2
    owner.release_all()
    runner.clean(tmp_path, [cell])
    assert not (tmp_path / runner.CHECKPOINTS).exists()


@registry.register_attention("raises_in_forward")
class RaisesInForward(nn.Module):
    version = 1
    unsupported = {}

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()

    def forward(self, q, k, v, key_padding_mask=None):
        raise RuntimeError("nothing works\nsecond line")


@registry.register_attention("out_of_memory")
class OutOfMemory(RaisesInForward):
    def forward(self, q, k, v, key_padding_mask=None):
        raise torch.OutOfMemoryError("no room")


@registry.register_attention("no_causal")
class NoCausal(RaisesInForward):
    unsupported = {"causal_self": "looks both ways"}


@registry.register_attention("not_finite")
class NotFinite(RaisesInForward):
    def forward(self, q, k, v, key_padding_mask=None):
        return q * float("nan")


@pytest.mark.parametrize(
    ("attention", "status", "reason"),
    [
        ("raises_in_forward", "failed", "RuntimeError: nothing works"),
        ("out_of_memory", "out_of_memory", "OutOfMemoryError: no room"),
        ("no_causal", "unsupported", "looks both ways"),
        ("not_finite", "failed", "Diverged: the loss is nan at step 1 of 40: training diverged"),
    ],
)
def test_what_goes_wrong_is_a_record_with_its_reason(toy, tmp_path, attention, status, reason):
    cells = plan((attention, "none"), seeds=[0])
    run_remaining(cells, tmp_path)
    found = {record.cell.attention: record for record in results.records([tmp_path])}
    assert (found[attention].status, found[attention].reason) == (status, reason)
    assert found["none"].status == "completed"
    assert runner.to_run(cells, tmp_path) == []
    assert bool(runner.to_run(cells, tmp_path, runner.Redo(failed=True))) == (status != "unsupported")


def test_a_damaged_record_is_run_again(toy, tmp_path):
    cells = plan(seeds=[0])
    run_remaining(cells, tmp_path)
    cells[0].path(tmp_path).write_text('{"cell": {', encoding="utf-8")
    assert runner.to_run(cells, tmp_path) == [cells[0]]


def test_the_output_folder_is_probed_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="names a file"):
        runner.probe_output(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="not a folder"):
        runner.probe_output(tmp_path / "file")
    with pytest.raises(ConfigError, match="can't be written"):
        runner.probe_output(tmp_path / "file" / "below")


def test_a_probe_that_is_killed_leaves_nothing_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # as if the process ended before it
    runner.probe_output(tmp_path / "out")
    monkeypatch.undo()
    assert len(list((tmp_path / "out").iterdir())) == 1
    runner.clean(tmp_path / "out", [])
    assert list((tmp_path / "out").iterdir()) == []


def test_temporary_files_of_a_killed_run_are_removed_from_output_and_cache(tmp_path):
    here, there = machine_digits()[:8], "0123abcd"
    old = tmp_path / "out" / f".b.json.{there}.ab12_cd3.tmp"
    ours = [
        tmp_path / "out" / "lm" / f".a.json.{here}.ab12_cd3.tmp",
        tmp_path / "cache" / f".lm-1.tokens.bin.{here}.xy98zt_0.tmp",
        old,  # of another machine, two days ago
    ]
    others = [
        tmp_path / "out" / ".tmp",
        tmp_path / "out" / ".draft.tmp",
        tmp_path / "out" / f".a.json.{there}.ab12_cd3.tmp",  # another machine may be writing it
        tmp_path / "cache" / "deep" / f".a.{here}.ab12_cd3.tmp",
    ]
    for path in [*ours, *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, (time.time() - 172_800,) * 2)
    runner.clean(tmp_path / "out", [], cache=tmp_path / "cache")
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_softmax_and_flash_end_within_rounding(toy, tmp_path):
    cells = plan(("softmax", "flash"), seeds=[0])
    run_remaining(cells, tmp_path)
    softmax, flash = (record.curves["training"]["loss"][-1] for record in results.records([tmp_path]))
    assert softmax == pytest.approx(flash, rel=1e-4)


def test_every_attention_starts_from_the_same_backbone(toy, tmp_path):
    """What an attention draws for itself must not shift the draws of the layers around it."""
    from benchmark.multihead import AttentionSites

    task = toy_task.Toy(toy_task.ToySettings(model=toy_task.ToyModel(num_layers=2)), backbone="net")
    task.load_data(None, tmp_path)

    def backbone(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = task.build_model(AttentionSites(name, "causal_self", {}))
        return {key: value for key, value in model.state_dict().items() if ".attention." not in key}

    expected = backbone("softmax")
    able = [name for name in registry.ATTENTIONS if "causal_self" not in registry.load_attention(name).unsupported]
    for name in able:
        for key, value in backbone(name).items():
            assert torch.equal(value, expected[key]), (name, key)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_record_that_cannot_be_read_is_neither_run_again_nor_replaced(toy, tmp_path, monkeypatch, error):
    """It may be that of another member of the group, or the file server is away for a moment."""
    (cell,) = plan(attentions=["none"], seeds=[0])
    runner.run_cell(cell, place(tmp_path))
    path = cell.path(tmp_path)
    before, read_text = path.read_bytes(), Path.read_text

    def refused(self, *arguments, **named):
        if self == path:
            raise OSError(error, os.strerror(error), str(path))
        return read_text(self, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    claims = Claims(tmp_path)
    ticket = Ticket(claims.take(cell.hash), replaces=True)
    failed = runner.record_without_figures(cell, place(tmp_path), "failed", "no reason", datetime.now(UTC))
    line = f"{path}: {os.strerror(error)}"
    for use in (
        lambda: runner.to_run([cell], tmp_path),
        lambda: runner.clean(tmp_path, [cell]),
        lambda: runner.status_of(cell, tmp_path),
        lambda: publish(tmp_path, failed, ticket, path),
        lambda: results.write_record(path, failed),
    ):
        with pytest.raises(MachineFault) as fault:
            use()
        assert str(fault.value) == line
    assert path.read_bytes() == before


def test_a_worker_that_dies_costs_its_checkpoints_but_not_what_it_has_published(toy, tmp_path, monkeypatch):
    (cell,) = plan(attentions=["softmax"], seeds=[0])
    write_failed_record(cell, tmp_path)
    told: list[runner.Event] = []
    pool = workers._Pool([cell], place(tmp_path), told.append, runner.Redo(failed=True))
    monkeypatch.setattr(pool, "_start_anew", lambda _: None)

    def dies(run: Callable[[Ticket], object]) -> str:
        """Runs the cell under a claim of the pool, whose worker is then found dead.  Returns the status that is told."""
        ticket = pool._claim(cell)
        run(ticket)
        pool.workers = [workers._Worker(None, None, place(tmp_path), "no process", cell=cell, ticket=ticket)]
        pool._replace(0, "out_of_memory", "the worker was killed")
        return told[-1].record.status

    assert dies(lambda _: interrupted(cell, tmp_path, 20)) == "out_of_memory"
    assert not (tmp_path / runner.CHECKPOINTS / cell.hash).exists()
    assert dies(lambda ticket: runner.run_cell(cell, place(tmp_path), ticket=ticket)) == "completed"
    assert not list((tmp_path / FOLDER).iterdir())
