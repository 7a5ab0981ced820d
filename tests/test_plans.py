"""Plans of runs: one that can't be run harms no other, and all can be run from any folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import toy_task
from command_line import lavo_bench

from benchmark import results
from benchmark.running import command, plans, runner
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import plan_cells

PRESETS = """
smoke:
  train: {steps: 4, batch_size: 8, learning_rate: 0.01, eval_batch_size: 4}
  seeds: [0]
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    toy_task.register(monkeypatch, tmp_path / "toy", PRESETS)


@pytest.fixture
def worked(monkeypatch):
    """The cells that ``work`` would run, and where, instead of running them."""
    found: list[tuple[list[Any], runner.Place]] = []

    def note(cells, place, *_arguments, **_options) -> int:
        found.append((cells, place))
        return 0

    monkeypatch.setattr(command, "run_cells_of", note)
    return found


def planned(folder: Path, **run: Any) -> tuple[Path, list[Any]]:
    """Plans one cell of the toy task.  Returns the file of the plan, and the cell."""
    runs = [(RunSettings(tasks=["toy"], attentions=["none"], preset="smoke", **run), [])]
    cells = plan_cells(runs, folder / "cache")
    (folder / "cache").mkdir(exist_ok=True)
    options = {"tuned": None, "cache": folder / "cache", "include": [], "retry": None}
    return plans.write_plan(folder / "out", cells, runs, **options), cells


def test_a_plan_of_other_code_and_a_damaged_one_keep_no_other_from_being_run(tmp_path, worked):
    good, cells = planned(tmp_path)
    foreign, damaged = good.with_name("0.json"), good.with_name("1.json")
    foreign.write_text(good.read_text().replace(cells[0].hash, "0" * 12))
    damaged.write_text("{")
    answer = lavo_bench("work", tmp_path / "out", "--device", "cpu")
    assert answer.status == 2
    assert [cells for cells, _ in worked] == [cells]
    first, second = sorted(answer.err.splitlines())
    assert first.startswith(f"lavo-bench: {foreign}: 1 of 1 cells have another hash here")
    assert second.startswith(f"lavo-bench: {damaged}: not a plan: ")
    assert all("delete this file if that run isn't wanted any more" in line for line in (first, second))


def test_a_plan_is_run_alone_whatever_lies_beside_it(tmp_path, worked):
    good, cells = planned(tmp_path)
    good.with_name("0.json").write_text("[]")
    answer = lavo_bench("work", tmp_path / "out", "--device", "cpu", "--plan", good.stem, "--debug")
    assert (answer.status, answer.err) == (0, "")
    ((found, place),) = worked
    assert found == cells
    assert place.debug


def test_a_plan_that_is_done_is_removed_though_another_cant_be_read(tmp_path):
    good, (cell,) = planned(tmp_path)
    damaged = good.with_name("0.json")
    damaged.write_text("{")
    place = runner.Place(tmp_path / "out", tmp_path / "cache")
    record = runner.record_without_figures(cell, place, "failed", "no reason", datetime.now(UTC))
    results.write_record(cell.path(place.output), record)
    plans.remove_done(place.output)
    assert list(good.parent.iterdir()) == [damaged]


def test_a_plan_with_a_relative_data_root_is_run_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    path, cells = planned(tmp_path, data_root=Path("data"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [cell.hash for cell in plans.read_plan(path).planned(tmp_path / "cache")] == [cell.hash for cell in cells]


@pytest.mark.parametrize(
    "option",
    [
        ("--device", "cpu"),
        ("--jobs", "2"),
        ("--lease", "9"),
        ("--cell-timeout", "9"),
        ("--log", "tensorboard"),
        ("--report",),
    ],
)
def test_an_option_that_a_plan_does_not_hold_is_refused(tmp_path, option):
    answer = lavo_bench("run", "toy", "--plan-only", *option, "-o", tmp_path / "out")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith(f"lavo-bench: --plan-only: not with {option[0]}; ")
    assert not (tmp_path / "out").exists()
