"""The publication of a record while its process is killed, the file system repeats calls, and other processes complete it."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_claims_on_cells import LEASE, Attempt, Clock, whole

from benchmark import results
from benchmark.files import remove_abandoned
from benchmark.running import claims, publish
from benchmark.running.claims import Claims, Ticket

OPERATIONS = ("open", "link", "replace", "rename", "unlink", "mkdir", "rmdir", "fsync", "pwrite", "write", "chmod")


def is_killed(attempt: Attempt, number: int, *, after: bool, ticket: Ticket | None = None) -> bool:
    """Claims the cell and publishes in a process of its own, which ends at the number-th system call that changes files.

    ticket: of a claim of this process, under which the other one publishes.  Returns False if there are fewer calls.  Nothing after the call runs in that process, as after a kill.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = itertools.count(1)
    for name in OPERATIONS:
        original = getattr(os, name)

        def counting(*arguments, original=original, **named):
            mine = next(count) == number
            if mine and not after:
                os._exit(9)
            try:
                return original(*arguments, **named)
            finally:
                if mine:
                    os._exit(9)

        setattr(os, name, counting)
    try:
        own = Claims(attempt.output)
        attempt.publish(ticket or attempt.claim(own))
        own.release_all()
    finally:
        os._exit(0)


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_between_any_two_system_calls_loses_and_mixes_nothing(tmp_path, replaces, after):
    number = 0
    while True:
        number += 1
        output = tmp_path / str(number)
        if replaces:
            first, own = Attempt(output, 0.5), Claims(output)
            first.publish(first.claim(own))
            own.release_all()
        killed = is_killed(Attempt(output, 1.0, replaces=replaces), number, after=after)
        second, clock = Attempt(output, 2.0, replaces=replaces), Clock()
        own = Claims(output, LEASE, clock)
        token = own.take(second.hash)
        if token is None:  # the claim was created and not yet written
            clock.now = LEASE + 1
            token = own.take(second.hash)
        assert token is not None
        publish.settle(output)
        is_published = second.path.exists() and results.read_record(second.path).metrics["mse"].value == 1.0
        assert is_published or killed
        if not is_published:
            assert not replaces or whole(output) == 0.5
            second.publish(Ticket(token, replaces))
        own.release_all()
        remove_abandoned(output)
        assert whole(output) == (1.0 if is_published else 2.0)
        assert len([path for path in output.rglob("*") if path.is_file()]) == 3
        assert not (output / claims.FOLDER).exists()
        if not killed:
            break
    assert number > 20


@pytest.mark.parametrize("after", [False, True])
def test_a_run_whose_worker_is_killed_while_it_replaces_a_record_tells_what_was_published(tmp_path, after):
    """The run publishes a failure for its killed worker, with the same ticket; by then the new record may be there."""
    outcomes = set()
    for number in itertools.count(1):
        output = tmp_path / str(number)
        first, own = Attempt(output, 0.5), Claims(output)
        first.publish(first.claim(own))
        own.release_all()
        worker, run = (Attempt(output, 1.0, replaces=True) for _ in range(2))
        ticket = worker.claim(own)._replace(before=publish.attempt_of(first.record))
        killed = is_killed(worker, number, after=after, ticket=ticket)
        run.record, run.columns, run.curves = replace(run.record, status="failed", metrics={}), {}, {}
        told = run.publish(ticket)
        own.release_all()
        publish.settle(output)
        remove_abandoned(output)
        outcomes.add((told.status, whole(output)))
        assert len([path for path in output.rglob("*") if path.is_file()]) == 3
        if not killed:
            break
    assert outcomes == {("failed", 0.5), ("completed", 1.0)}


def repeated(call):
    """A call of a network file system whose answer was lost: it is done, and repeated."""

    def twice(*arguments):
        call(*arguments)
        return call(*arguments)

    return twice


@pytest.mark.parametrize(("name", "replaces"), [("link", False), ("link", True), ("replace", True)])
def test_a_record_stays_whole_if_the_answer_of_the_file_system_is_lost(tmp_path, monkeypatch, name, replaces):
    own = Claims(tmp_path)
    if replaces:
        first = Attempt(tmp_path, 0.5)
        first.publish(first.claim(own))
        own.release_all()
    attempt, original = Attempt(tmp_path, 1.0, replaces=replaces), getattr(os, name)

    def of_records(source, target):
        return (repeated(original) if Path(source).suffix in (".json", ".link") else original)(source, target)

    ticket = attempt.claim(own)
    monkeypatch.setattr(os, name, of_records)
    assert attempt.publish(ticket).metrics["mse"].value == 1.0
    monkeypatch.undo()
    own.release_all()
    assert whole(tmp_path) == 1.0
    assert not (tmp_path / claims.FOLDER).exists()


@pytest.mark.parametrize("replaces", [False, True])
def test_a_publication_that_another_process_completes_is_no_lost_claim(tmp_path, monkeypatch, replaces):
    own, attempt = Claims(tmp_path), Attempt(tmp_path, 1.0, replaces=replaces)
    is_at_its_place, ticket = publish._is_at_its_place, attempt.claim(own)

    def and_others_are_quicker(*arguments):
        if not is_at_its_place(*arguments):
            return False
        with monkeypatch.context() as at_once:
            at_once.setattr(publish, "_is_at_its_place", is_at_its_place)
            publish.settle(tmp_path)
        return True

    monkeypatch.setattr(publish, "_is_at_its_place", and_others_are_quicker)
    assert attempt.publish(ticket).metrics["mse"].value == 1.0
    assert whole(tmp_path) == 1.0
    publish.settle(tmp_path)


def test_a_stage_that_another_process_completes_ends_no_command(tmp_path, monkeypatch):
    own, attempt = Claims(tmp_path), Attempt(tmp_path, 1.0)
    ticket = attempt.claim(own)
    monkeypatch.setattr(publish, "_finish", lambda *_: False)  # the process is killed just before
    attempt.publish(ticket)
    monkeypatch.undo()
    is_at_its_place = publish._is_at_its_place

    def and_others_are_quicker(output, stage, staged):
        found = is_at_its_place(output, stage, staged)
        for file in sorted(staged.parent.glob("*.gz")):
            os.replace(file, attempt.path.with_name(file.name))
        shutil.rmtree(stage)
        return found

    monkeypatch.setattr(publish, "_is_at_its_place", and_others_are_quicker)
    publish.settle(tmp_path)
    own.release_all()
    assert whole(tmp_path) == 1.0
    assert not (tmp_path / claims.FOLDER).exists()
