"""The launcher's side, with a crew that the test moves: records appear, workers are lost, Ctrl-C is pressed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import believable
import pytest

from benchmark import results
from benchmark.launching import follow as module
from benchmark.launching import ray_tasks, slurm
from benchmark.launching.follow import Left, follow
from benchmark.launching.worker import STOP
from benchmark.running.plans import JOBS
from benchmark.running.runner import NOTHING_ANEW, Event, Place, Redo, attempts_that_failed
from benchmark.settings.cell import Cell

ATTENTIONS = ("lavo", "none", "performer")


def cell_of(record: results.Record) -> Cell:
    name = record.cell
    return Cell(
        name.task, name.backbone, name.pattern, name.attention, name.variant, name.preset, name.seed, {}, name.hash
    )


class Crew:
    """Stands for workers of an engine.  ``moves``: what happens at each look, a function or the number of workers left."""

    name, seconds = "crew", 0.0

    def __init__(self, *moves: object) -> None:
        self.moves, self.count = list(moves), 2
        self.cancelled: list[str] = []
        self.lost: list[str] = []
        self.told_to_stop = False

    def start(self, folder: Path) -> Crew:
        self.folder = folder
        (folder / "worker0.log").write_text("lavo-bench: a fault")
        return self

    def left(self) -> Left:
        self.told_to_stop |= (self.folder / STOP).exists()
        move = self.moves.pop(0) if self.moves else self.count
        if callable(move):
            move()
        else:
            self.count = int(str(move))
        return Left(self.count, 0)

    def losses(self) -> list[str]:
        lines, self.lost = self.lost, []
        return lines

    def cancel_waiting(self) -> None:
        self.cancelled.append("waiting")

    def cancel(self) -> None:
        self.cancelled.append("all")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name in ("LOOK_SECONDS", "LAST_LOOK_SECONDS", "END_SECONDS", "STOP_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def made():
    return [believable.make_record("forecasting", "informer", "causal_self", name, 0) for name in ATTENTIONS]


def followed(
    folder: Path, made: list[believable.Made], crew: Crew, redo: Redo = NOTHING_ANEW
) -> tuple[list[str], list[str]]:
    """Follows these cells.  Returns the attentions whose end was told of, in order, and the lines that were said."""
    ended: list[str] = []
    said: list[str] = []
    cells = [cell_of(one.record) for one in made]
    follow(
        cells, Place(folder, folder), lambda event: ended.append(event.cell.attention), redo, said.append, start=crew.start
    )  # fmt: skip
    return ended, said


def writing(folder: Path, one: believable.Made):
    return lambda: believable.write(folder, one)


def test_each_record_is_told_of_once_and_nothing_is_left(tmp_path, made):
    ended, said = followed(tmp_path, made, crew := Crew(*(writing(tmp_path, one) for one in made), 2, 0))
    assert ended == list(ATTENTIONS)
    assert said == ["crew: 2 workers running"]
    assert crew.cancelled == ["waiting", "all"]
    assert not crew.told_to_stop
    assert not list(tmp_path.glob(".*"))


def test_a_worker_that_was_lost_is_told_of_though_others_did_its_cells_before_the_next_look(tmp_path, made):
    def finish() -> None:
        for one in made:
            believable.write(tmp_path, one)

    def lose() -> None:
        crew.lost = ["worker 1 ended before its work was done"]

    crew = Crew(finish, lose, 0)
    assert followed(tmp_path, made, crew)[1][-1] == "crew: worker 1 ended before its work was done"


def test_when_every_cell_is_done_workers_that_go_on_are_told_to_stop(tmp_path, made):
    crew = Crew(*(writing(tmp_path, one) for one in made), 2)
    followed(tmp_path, made, crew)
    assert crew.told_to_stop
    assert crew.cancelled == ["waiting", "all"]


def test_without_a_worker_it_ends_and_keeps_what_they_printed(tmp_path, made):
    crew = Crew(writing(tmp_path, made[0]), 1, 0)
    crew.lost = ["worker 1: a fault"]
    ended, said = followed(tmp_path, made, crew)
    assert ended == ["lavo"]
    assert said[0] == "crew: worker 1: a fault"
    assert said[-1] == f"crew: no worker is left; what the workers printed is in {crew.folder}"
    assert (crew.folder / "worker0.log").read_text() == "lavo-bench: a fault"


def test_a_record_that_appears_after_the_last_worker_has_ended_counts(tmp_path, made, monkeypatch):
    monkeypatch.setattr(module, "LAST_LOOK_SECONDS", 5.0)
    looks = iter(range(100))
    seen = module._names_in

    def late(folder: Path) -> list[str]:
        return seen(folder) if next(looks) > 3 else []

    monkeypatch.setattr(module, "_names_in", late)  # as a network file system shows them
    for one in made:
        believable.write(tmp_path, one)
    assert sorted(followed(tmp_path, made, Crew(0))[0]) == sorted(ATTENTIONS)


def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(tmp_path, made):
    def interrupt() -> None:
        raise KeyboardInterrupt

    crew, said = Crew(2, interrupt, 2, 1, 0), []
    with pytest.raises(KeyboardInterrupt):
        follow(
            [cell_of(one.record) for one in made], Place(tmp_path, tmp_path), lambda event: None, NOTHING_ANEW,
            said.append, start=crew.start,
        )  # fmt: skip
    assert crew.told_to_stop
    assert crew.cancelled == ["waiting", "all"]
    assert said[-1].endswith("the same command goes on with the cells that have no record")
    assert not (tmp_path / JOBS).exists()


def test_an_engine_that_refuses_leaves_nothing(tmp_path, made):
    def refuse(folder: Path) -> Crew:
        raise ValueError("no such partition")

    with pytest.raises(ValueError, match="no such partition"):
        follow([cell_of(made[0].record)], Place(tmp_path, tmp_path), print, NOTHING_ANEW, print, start=refuse)
    assert not list(tmp_path.iterdir())


def test_a_cell_that_is_run_again_has_ended_when_its_record_is_another(tmp_path, made):
    """Also if it fails again; the failed record that was there before doesn't count."""
    failed = made[0]._replace(record=replace(made[0].record, status="failed", reason="no luck"))
    believable.write(tmp_path, failed)
    cells = [cell_of(failed.record)]
    redo = Redo(failed=True, seen=attempts_that_failed(cells, tmp_path))
    assert redo.wants(cells[0], tmp_path)
    again = failed._replace(record=replace(failed.record, started="2026-01-02T03:04:05+00:00"))
    events: list[Event] = []
    crew = Crew(2, 2, writing(tmp_path, again), 0)
    follow(cells, Place(tmp_path, tmp_path), events.append, redo, lambda line: None, start=crew.start)
    assert [event.record.started for event in events if event.record] == [again.record.started]
    assert not redo.wants(cells[0], tmp_path)  # no other worker tries it a third time


def test_jobs_whose_first_question_is_not_answered_are_there_all_the_same(tmp_path, monkeypatch):
    """squeue fails while SLURM's controller is busy; later it answers, and says of a job that it is gone."""
    answers = iter([(1, "", "slurm_load_jobs error: Unable to contact slurm controller"), (0, "7_1 RUNNING\n", "")])
    monkeypatch.setattr(slurm, "_command", lambda *words: subprocess.CompletedProcess(words, *next(answers)))
    jobs = [
        SimpleNamespace(job_id=f"7_{number}", paths=SimpleNamespace(result_pickle=tmp_path / "no")) for number in (0, 1)
    ]
    crew = slurm.SlurmCrew(jobs, "slurm")
    assert crew.left() == Left(running=0, waiting=2)
    assert crew.losses() == []
    assert crew.left() == Left(running=1, waiting=0)
    assert crew.losses() == ["worker 0 ended before its work was done"]


def test_jobs_that_are_cancelled_because_all_is_done_are_no_losses(tmp_path, monkeypatch):
    answers = iter([(0, "7_0 PENDING\n7_1 RUNNING\n", ""), (0, "", ""), (0, "", "")])  # squeue, scancel, squeue
    monkeypatch.setattr(slurm, "_command", lambda *words: subprocess.CompletedProcess(words, *next(answers)))
    jobs = [
        SimpleNamespace(job_id=f"7_{number}", paths=SimpleNamespace(result_pickle=tmp_path / "no")) for number in (0, 1)
    ]
    crew = slurm.SlurmCrew(jobs, "slurm")
    crew.cancel_waiting()
    assert not crew.left()
    assert crew.losses() == ["worker 1 ended before its work was done"]


def test_tasks_of_ray_that_are_cancelled_because_all_is_done_are_no_losses(tmp_path):
    """Ray raises for a task that was cancelled as for one whose node died."""

    def get(task: str) -> None:
        raise RuntimeError(task)

    crew = ray_tasks.RayCrew.__new__(ray_tasks.RayCrew)  # without a cluster
    crew._ray = SimpleNamespace(wait=lambda tasks, **_: (tasks, []), get=get, cancel=lambda task: None)
    crew._folder, crew._tasks, crew._lines, crew._cancelled = tmp_path, {"waiting": 0, "running": 1}, [], set()
    ray_tasks.log_of(tmp_path, 1).touch()
    crew.cancel_waiting()
    assert not crew.left()
    assert crew.losses() == ["worker 1 ended before its work was done (RuntimeError)"]
