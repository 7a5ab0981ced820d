"""How calls are timed: how often each is called and in which order.  No test compares times."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch

from benchmark.measuring.timing import (
    cache_emptier,
    call_seconds,
    interleaved,
    no_collection,
    rounds_within,
    wall_seconds,
)


@pytest.mark.parametrize("seconds_of", [call_seconds, wall_seconds])
def test_seconds_are_the_mean_of_the_repeats(monkeypatch, seconds_of):
    ticks = iter([10.0, 18.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    calls = []
    assert seconds_of(lambda: calls.append(None), repeats=4) == 2.0
    assert len(calls) == 4


@pytest.mark.parametrize("idle_start", [True, False])
def test_a_gpu_is_timed_between_two_events(monkeypatch, idle_start):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("record")

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, end):
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("synchronize"))
    seconds = call_seconds(lambda: done.append("call"), torch.device("cuda"), repeats=2, idle_start=idle_start)
    assert seconds == pytest.approx(3e-3)
    assert done == ["synchronize"] * idle_start + ["record", "call", "call", "record", "wait"]


def test_the_clock_waits_for_a_gpu_before_and_after(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("synchronize"))
    wall_seconds(lambda: done.append("call"), torch.device("cuda"))
    assert done == ["synchronize", "call", "synchronize"]


def test_every_round_takes_one_sample_of_each():
    counter = itertools.count()
    samples = interleaved({name: lambda: float(next(counter)) for name in "ab"}, range(3))
    assert samples == {"a": [0.0, 2.0, 4.0], "b": [1.0, 3.0, 5.0]}


def test_a_generator_draws_the_order_of_each_round_and_its_seed_decides_it():
    def turns(seed):
        order = []
        samplers = {name: lambda name=name: order.append(name) or 0.0 for name in "abc"}
        interleaved(samplers, range(20), generator=np.random.default_rng(seed))
        return [tuple(order[first : first + 3]) for first in range(0, 60, 3)]

    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns(0))
    assert len(set(turns(0))) > 1
    assert turns(0) == turns(0)
    assert turns(0) != turns(1)


def test_rounds_end_with_the_time_but_not_before_the_least(monkeypatch):
    assert list(rounds_within(0.0, least=3)) == [0, 1, 2]
    assert list(rounds_within(1e9, least=3, most=5)) == [0, 1, 2, 3, 4]
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    assert list(rounds_within(4.0, least=1)) == [0, 1, 2, 3]


def test_the_collector_is_away_inside_and_back_afterwards():
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_cpu_has_no_cache_to_empty():
    assert cache_emptier(torch.device("cpu"))() is None
