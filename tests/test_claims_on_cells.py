"""Claims on cells and the publication of records, with clocks and file systems that misbehave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import believable
import numpy as np
import pytest

from benchmark import results
from benchmark.running import claims, publish, runner, workers
from benchmark.running.claims import Claims, LostClaim, Ticket, holds
from benchmark.running.runner import NOTHING_ANEW, Place

CELL = "0123456789ab"
LEASE = 60.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def machine(monkeypatch):
    """Makes claims look as if they came from other machines: a process whose digits differ can't judge by locks."""

    def be(name: str) -> None:
        monkeypatch.setattr(claims, "machine_digits", lambda: name * 16)

    be("a")
    return be


def test_one_of_many_gets_a_cell(tmp_path):
    everyone = [Claims(tmp_path) for _ in range(5)]
    assert sum(one.take(CELL) is not None for one in everyone) == 1
    everyone[0].release(CELL)
    assert not list((tmp_path / claims.FOLDER).iterdir())
    assert everyone[1].take(CELL) is not None


def test_a_claim_names_no_machine_and_no_person(tmp_path):
    Claims(tmp_path).take(CELL)
    (path,) = (tmp_path / claims.FOLDER).iterdir()
    text = path.read_text()
    assert path.name == f"{CELL}.claim"
    assert os.uname().nodename not in text
    assert all(set(word) <= set("0123456789abcdef") for word in text.split())


def test_a_claim_whose_process_was_killed_is_free_at_once(tmp_path):
    script = "import sys, pathlib, os, signal; from benchmark.running.claims import Claims; "
    script += f"Claims(pathlib.Path(sys.argv[1])).take({CELL!r}); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    own = Claims(tmp_path)
    token = own.take(CELL)
    assert token is not None
    assert holds(tmp_path, CELL, token)
    own.release(CELL)
    assert not list((tmp_path / claims.FOLDER).iterdir())


def test_another_machine_waits_for_the_whole_lease_by_its_own_clock(tmp_path, machine):
    here, there = Clock(now=1e9), Clock(now=-50.0)  # clocks that have nothing in common
    owner = Claims(tmp_path, LEASE, here)
    owner.take(CELL)
    machine("b")
    other = Claims(tmp_path, LEASE, there)
    for there.now in (0.0, LEASE / 2, LEASE - 1):
        assert other.take(CELL) is None
    here.now += LEASE / 2
    assert owner.beat() == []  # which begins the lease anew
    there.now = LEASE + 1
    assert other.take(CELL) is None
    there.now = 2 * LEASE + 2
    assert other.take(CELL) is not None
    here.now += LEASE
    assert owner.beat() == [CELL]  # it was stopped, wakes up, and finds out
    assert owner.beat() == []


def test_whoever_releases_a_lost_claim_leaves_the_new_owners(tmp_path, machine):
    owner, clock = Claims(tmp_path, LEASE), Clock()
    owner.take(CELL)
    machine("b")
    other = Claims(tmp_path, LEASE, clock)
    other.take(CELL)
    clock.now = LEASE + 1
    token = other.take(CELL)
    owner.release(CELL)
    assert holds(tmp_path, CELL, token)
    other.release_all()
    assert not (tmp_path / claims.FOLDER).exists()


def test_two_that_find_the_same_expired_claim_dont_both_get_it(tmp_path, machine):
    Claims(tmp_path, LEASE).take(CELL)
    machine("b")
    clocks = [Clock(), Clock()]
    others = [Claims(tmp_path, LEASE, clock) for clock in clocks]
    for other, clock in zip(others, clocks, strict=True):
        other.take(CELL)
        clock.now = LEASE + 1
    assert all(other.is_free(CELL) for other in others)
    assert [other.take(CELL) is not None for other in others] == [True, False]


@pytest.mark.parametrize("content", [b"", b"ab", b"\x00" * 50])
def test_a_claim_whose_process_died_while_writing_it_lasts_no_longer_than_a_lease(tmp_path, content):
    folder = tmp_path / claims.FOLDER
    folder.mkdir()
    (folder / f"{CELL}.claim").write_bytes(content)
    clock = Clock()
    other = Claims(tmp_path, LEASE, clock)
    assert other.take(CELL) is None
    clock.now = LEASE + 1
    assert other.take(CELL) is not None


def test_beats_are_written_a_few_times_a_lease(tmp_path, monkeypatch):
    clock, written = Clock(), []
    own = Claims(tmp_path, LEASE, clock)
    own.take(CELL)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *arguments: written.append(clock.now) or pwrite(*arguments))
    for clock.now in np.arange(0.0, 2 * LEASE, 1.0):
        assert own.beat() == []
    assert 2 * claims.BEATS_IN_A_LEASE - 2 <= len(written) <= 2 * claims.BEATS_IN_A_LEASE


def test_a_stale_handle_means_that_the_claim_is_lost(tmp_path, monkeypatch):
    clock = Clock()
    own = Claims(tmp_path, LEASE, clock)
    own.take(CELL)
    (tmp_path / claims.FOLDER / f"{CELL}.claim").unlink()

    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "pwrite", stale)
    clock.now = LEASE
    assert own.beat() == [CELL]


# ---------------------------------------------------------------------------------------------------------- publication


class Attempt:
    """An attempt at the believable cell, with a figure by which its files are told apart."""

    def __init__(self, output: Path, figure: float, *, replaces: bool = False) -> None:
        made = believable.make_record("forecasting", "informer", "causal_self", "softmax", 0)
        self.output, self.hash = output, made.record.cell.hash
        self.record = replace(made.record, metrics={"mse": results.MetricValue(figure, 3)}, seconds=figure)
        self.columns, self.curves = {"mse": np.full(3, figure)}, {"figure": figure}
        cell = self.record.cell
        name = f"{cell.backbone}.{cell.pattern}.{cell.attention}.s{cell.seed}.{cell.hash}.json"
        self.path = output / cell.task / name
        self.replaces = replaces

    def claim(self, own: Claims) -> Ticket:
        token = own.take(self.hash)
        assert token is not None
        return Ticket(token, self.replaces)

    def publish(self, ticket: Ticket):
        return publish.publish(self.output, self.record, ticket, self.path, self.columns, self.curves)


def whole(output: Path) -> float:
    """The figure of the only record, after a check that the files beside it are those of the same attempt."""
    (record,) = results.records([output])
    figure = record.metrics["mse"].value
    assert record.examples["mse"].tolist() == [figure] * 3
    assert record.curves["figure"] == figure
    return figure


def test_a_record_is_published_whole_and_leaves_nothing(tmp_path):
    own, attempt = Claims(tmp_path), Attempt(tmp_path, 1.0)
    attempt.publish(attempt.claim(own))
    own.release_all()
    assert whole(tmp_path) == 1.0
    assert not (tmp_path / claims.FOLDER).exists()
    assert len(list(tmp_path.rglob("*.*"))) == 3


def test_the_second_of_two_attempts_gets_the_record_of_the_first(tmp_path, monkeypatch):
    first, second = Attempt(tmp_path, 1.0), Attempt(tmp_path, 2.0)
    monkeypatch.setattr(publish, "holds", lambda *_: True)  # neither finds out in time that it has lost the cell
    first.publish(Ticket("a" * 16))
    assert second.publish(Ticket("b" * 16)).metrics["mse"].value == 1.0
    assert whole(tmp_path) == 1.0


def test_whoever_has_lost_the_cell_publishes_nothing(tmp_path, machine):
    clock, slow = Clock(), Attempt(tmp_path, 1.0)
    ticket = slow.claim(Claims(tmp_path, LEASE))
    machine("b")
    other = Claims(tmp_path, LEASE, clock)
    other.take(slow.hash)
    clock.now = LEASE + 1
    other.take(slow.hash)
    with pytest.raises(LostClaim):
        slow.publish(ticket)
    assert not slow.path.exists()


def test_a_claim_that_outlived_its_record_is_removed(tmp_path, machine):
    """As a run leaves it that is killed after its worker has published, and before it has released the cell."""
    own, attempt = Claims(tmp_path), Attempt(tmp_path, 1.0)
    attempt.publish(attempt.claim(own))
    Claims(tmp_path).discard(attempt.hash)
    assert len(list((tmp_path / claims.FOLDER).iterdir())) == 1  # its owner lives
    machine("b")
    Claims(tmp_path).discard(attempt.hash)
    assert len(list((tmp_path / claims.FOLDER).iterdir())) == 1  # on another machine, so nobody knows
    machine("a")
    own._forget(attempt.hash)  # closes the file, and with it the lock, as the end of a process does
    last = Claims(tmp_path)
    last.discard(attempt.hash)
    last.release_all()
    assert not (tmp_path / claims.FOLDER).exists()


@pytest.mark.parametrize("content", [b"", b"ab", b"\x00" * 50])
def test_a_claim_that_was_never_written_is_removed_when_it_has_been_so_for_a_lease(tmp_path, content):
    """As a process leaves it that is killed between creating the file and writing it, when it is to run a cell again."""
    attempt, other = Attempt(tmp_path, 1.0), "fedcba987654"
    attempt.publish(attempt.claim(own := Claims(tmp_path)))
    own.release_all()
    folder = tmp_path / claims.FOLDER
    folder.mkdir()
    for cell in (attempt.hash, other):
        (folder / f"{cell}.claim").write_bytes(content)
    cell = SimpleNamespace(hash=attempt.hash, path=lambda _: attempt.path)
    runner.clean(tmp_path, [cell], lease=0.3)
    assert [path.name for path in folder.iterdir()] == [f"{other}.claim"]  # of a cell that nobody asked for


def test_an_unwritten_claim_that_is_written_within_the_lease_is_left_alone(tmp_path, machine):
    attempt = Attempt(tmp_path, 1.0)
    attempt.publish(attempt.claim(own := Claims(tmp_path)))
    own.release_all()
    machine("b")
    rerun = Claims(tmp_path)
    rerun.take(attempt.hash)
    (path,) = (tmp_path / claims.FOLDER).iterdir()
    content = path.read_bytes()
    path.write_bytes(b"")
    machine("a")
    writer = threading.Timer(0.3, path.write_bytes, [content])
    writer.start()
    Claims(tmp_path, lease=LEASE).discard_unwritten([attempt.hash])
    writer.join()
    assert path.read_bytes() == content


def test_what_a_killed_process_left_of_a_published_cell_is_done_by_whoever_finds_the_record(tmp_path, monkeypatch):
    owner, attempt, ends = Claims(tmp_path), Attempt(tmp_path, 1.0), []
    with monkeypatch.context() as killed:  # between the link to the record and what lies beside it
        killed.setattr(publish, "_finish", lambda *_: False)
        attempt.publish(attempt.claim(owner))
    owner._forget(attempt.hash)
    assert not list(attempt.path.parent.glob("*.gz"))
    cell = SimpleNamespace(hash=attempt.hash, path=lambda _: attempt.path)
    pool = workers._Pool([], Place(tmp_path, tmp_path / "cache"), ends.append, NOTHING_ANEW)
    assert pool._claim(cell) is None
    pool._end_elsewhere()
    pool.claims.release_all()
    assert [(event.kind, event.phase) for event in ends] == [("end", "elsewhere")]
    assert whole(tmp_path) == 1.0
    assert not (tmp_path / claims.FOLDER).exists()


def test_a_rerun_replaces_the_record_and_what_lies_beside_it(tmp_path):
    own = Claims(tmp_path)
    for figure in (1.0, 2.0):
        attempt = Attempt(tmp_path, figure, replaces=figure > 1)
        attempt.publish(attempt.claim(own))
        own.release_all()
    assert whole(tmp_path) == 2.0


def test_a_rerun_that_fails_leaves_the_figures_of_the_first(tmp_path):
    own, first = Claims(tmp_path), Attempt(tmp_path, 1.0)
    first.publish(first.claim(own))
    own.release_all()
    second = Attempt(tmp_path, 2.0, replaces=True)
    second.record = replace(second.record, status="failed", metrics={})
    second.columns = second.curves = {}
    second.publish(second.claim(own))
    assert whole(tmp_path) == 1.0


def test_without_hard_links_a_record_is_published_all_the_same(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    own = Claims(tmp_path)
    first, second = Attempt(tmp_path, 1.0), Attempt(tmp_path, 2.0)
    ticket = first.claim(own)
    first.publish(ticket)
    assert [path.name for path in (tmp_path / claims.FOLDER).iterdir()] == [f"{first.hash}.claim"]
    second.publish(ticket)
    own.release_all()
    assert whole(tmp_path) == 1.0
    assert not (tmp_path / claims.FOLDER).exists()


def test_a_live_attempt_of_another_machine_is_left_alone(tmp_path, machine):
    owner, attempt = Claims(tmp_path, LEASE), Attempt(tmp_path, 1.0)
    ticket = attempt.claim(owner)
    stage = tmp_path / claims.FOLDER / f"{attempt.hash}.{ticket.token}" / "forecasting"
    stage.mkdir(parents=True)
    (stage / "half.gz").write_bytes(b"half")
    machine("b")
    publish.settle(tmp_path)
    assert (stage / "half.gz").exists()
    owner.release_all()
    publish.settle(tmp_path)
    assert not stage.exists()
