"""The sweep follows the attentions: what is missing or stale is measured, and the load is recorded.  No test compares times."""

from __future__ import annotations

import itertools
import sys
import threading
import time

import pytest
import torch
from test_efficiency import FIVE_ROUNDS, TOY, Linear, Quadratic, sweep

from benchmark import registry
from benchmark.files import only_process
from benchmark.interface import PATTERNS
from benchmark.measuring import identity, load, points
from benchmark.measuring import sweep as sweep_module
from benchmark.measuring.identity import code_digest
from benchmark.measuring.limits import DEADLINE_WORDS
from benchmark.measuring.load import Section, disturbance, is_disturbed
from benchmark.measuring.missing import in_words, missing_points
from benchmark.measuring.peaks import Peaks
from benchmark.measuring.points import FIRST_COLUMNS, Point, add_points, key_of, latest, merge, read_points
from benchmark.measuring.sweep import Grid, measure, measure_to_file, short_sweep
from benchmark.report.speed import crossing_table, memory_table, read_sweeps, time_table


class Later(Linear):
    """An attention that a user adds after the first sweep; it can be streamed nowhere."""

    unsupported = {"noncausal_cross": "is a toy", "causal_cross": "is a toy"}
    extend = None


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setattr(registry, "_decorated", {"quadratic": Quadratic, "linear": Linear, "later": Later})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PEAKS = Peaks("cpu", "float32", 1, 1.0, 1.0)
EVERYWHERE = {"patterns": PATTERNS, "lengths": (16, 32), "modes": ("forward", "decode")}


def follow(folder, *attentions, limits=FIVE_ROUNDS, shape=TOY, **changed):
    """Measures what is missing, and returns the new rows."""
    grid = Grid(attentions, **{**EVERYWHERE, **changed})
    return measure(grid, shape, limits, directory=folder, only_missing=True)


def table(folder):
    return read_points(folder / points.FILE_NAME)


def places(rows, attention):
    return {(row.pattern, row.mode, row.length) for row in rows if row.attention == attention and row.seconds}


def test_an_attention_added_later_gets_its_points_in_every_pattern_that_it_supports(tmp_path):
    follow(tmp_path, "quadratic")
    before = table(tmp_path)
    new = follow(tmp_path, "quadratic", "later")
    assert {row.attention for row in new} == {"later", "softmax", "flash"}
    able = [("noncausal_self", "forward"), ("causal_self", "forward")]
    assert places(new, "later") == {(*place, length) for place in able for length in (16, 32)}
    declared = {(row.pattern, row.mode): row.reason for row in new if row.status == "unsupported"}
    assert set(declared) == {
        ("causal_self", "decode"),
        ("noncausal_cross", "forward"),
        ("causal_cross", "forward"),
        ("causal_cross", "decode"),
    }
    assert "no extend" in declared["causal_self", "decode"]
    after = table(tmp_path)
    assert [row for row in after if row.attention == "quadratic"] == [r for r in before if r.attention == "quadratic"]
    assert follow(tmp_path, "quadratic", "later") == []


def test_exact_attentions_are_measured_in_the_same_rounds_and_earlier_rows_stay_for_the_others(tmp_path):
    follow(tmp_path, "quadratic")
    follow(tmp_path, "quadratic", "later")
    rows = table(tmp_path)
    for name in ("quadratic", "later"):
        timed = [row for row in rows if row.attention == name and row.seconds]
        assert timed
        for row in timed:
            for exact in ("softmax", "flash"):
                partner = points.in_same_rounds(row, rows, exact)
                assert partner is not None
                assert (partner.together, partner.length, partner.seconds is None) == (row.together, row.length, False)
    forward = [row for row in rows if row.attention == "softmax" and row.pattern == "causal_self" and row.length == 16]
    assert len({row.together for row in forward if row.mode == "forward"}) == 2
    assert len({row.together for row in forward if row.mode == "decode"}) == 1  # nothing else was missing there


def test_superseded_rows_go_when_nothing_is_compared_with_them():
    def row(attention, together, seconds):
        return Point(
            "forward", "causal_self", 1, 16, 2, 8, attention, "float32", "cpu", seconds=seconds, together=together
        )

    first = [row("lavo", "a", 1.0), row("softmax", "a", 2.0)]
    second = merge(first, [row("mine", "b", 3.0), row("softmax", "b", 4.0)], {"softmax"})
    assert [(one.attention, one.together) for one in second] == [
        ("lavo", "a"),
        ("softmax", "a"),
        ("mine", "b"),
        ("softmax", "b"),
    ]
    assert [one.seconds for one in latest(second) if one.attention == "softmax"] == [4.0]
    third = merge(second, [row("lavo", "c", 5.0), row("softmax", "c", 6.0)], {"softmax"})
    assert [(one.attention, one.together) for one in third] == [
        ("mine", "b"),
        ("softmax", "b"),
        ("lavo", "c"),
        ("softmax", "c"),
    ]
    assert merge(first, [row("lavo", "b", 1.0)]) == [first[1], row("lavo", "b", 1.0)]


def test_the_report_compares_times_of_the_same_rounds(tmp_path):
    """The machine was ten times slower in the second sweep; the attention of the first must not seem faster for that."""
    lengths = (256, 512, 1024, 2048)

    def rows(attention, together, law):
        return [
            Point(
                *("forward", "causal_self", 1, n, 8, 64, attention, "float32", "cpu"),
                seconds=law(n),
                seconds_low=law(n) * 0.99,
                seconds_high=law(n) * 1.01,
                together=together,
            )
            for n in lengths
        ]

    add_points(
        tmp_path / points.FILE_NAME, [*rows("lavo", "a", lambda n: 700 * n), *rows("softmax", "a", lambda n: n * n)]
    )
    slow = [*rows("my_att", "b", lambda n: 7000 * n), *rows("softmax", "b", lambda n: 10 * n * n)]
    add_points(tmp_path / points.FILE_NAME, slow, {"softmax"})
    (found,) = read_sweeps([tmp_path])
    assert [point.seconds for point in found.of("softmax")] == [10 * n * n for n in lengths]
    shown = crossing_table([found])
    assert {value["attention"]: value["estimate"] for value in shown.values} == {
        "lavo": pytest.approx(700, rel=0.01),
        "my_att": pytest.approx(700, rel=0.01),
    }
    assert not any("same rounds" in note for note in shown.notes)
    add_points(tmp_path / points.FILE_NAME, rows("performer", "c", lambda n: 700 * n))
    assert any(
        "same rounds" in note and "performer and softmax" in note
        for note in crossing_table(read_sweeps([tmp_path])).notes
    )


CHANGES = {
    "number of threads": lambda patch: patch.setattr(identity.torch, "get_num_threads", lambda: 7),
    "processor": lambda patch: patch.setattr(identity, "hardware_name", lambda _: "Another 9000"),
    "version of the kernels": lambda patch: patch.setattr(identity, "kernel_version", lambda _: "torch 99"),
    "code or options of the attention": lambda patch: patch.setattr(Linear, "version", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_a_point_stale_is_said_and_it_is_measured_again(tmp_path, monkeypatch, change):
    small = {"patterns": ["causal_self"], "modes": ["forward"], "lengths": [16]}
    follow(tmp_path, "quadratic", "linear", **small)
    earlier = table(tmp_path)
    CHANGES[change](monkeypatch)
    grid = Grid(["quadratic", "linear"], **small)
    found = missing_points(grid.attentions, grid.places(), TOY, FIVE_ROUNDS, earlier)
    wanted = {"linear": change} if change.startswith("code") else {"quadratic": change, "linear": change}
    assert [dict(one.wanted) for one in found] == [wanted]
    assert f"linear: 1 points are stale ({change})" in in_words(found)
    again = follow(tmp_path, "quadratic", "linear", **small)
    assert {row.attention for row in again} == {*wanted, "softmax", "flash"}
    assert follow(tmp_path, "quadratic", "linear", **small) == []


def test_another_device_or_shape_is_another_point(tmp_path):
    small = {"patterns": ["causal_self"], "modes": ["forward"], "lengths": [16]}
    follow(tmp_path, "linear", **small)
    wide = follow(tmp_path, "linear", shape=sweep_module.Shape(num_heads=3, head_dim=8), **small)
    assert {row.num_heads for row in wide} == {3}
    assert {row.num_heads for row in table(tmp_path)} == {2, 3}


def test_options_of_an_attention_belong_to_its_code():
    assert code_digest("lavo", "forward", {}) != code_digest("lavo", "forward", {"window": 32})
    assert code_digest("lavo", "forward", {"window": 32, "rank": 8}) == code_digest(
        "lavo", "forward", {"rank": 8, "window": 32}
    )
    assert code_digest("lavo", "forward", {}) != code_digest("lavo", "training", {})


def test_the_digest_covers_what_the_file_imports_and_nothing_else(tmp_path, monkeypatch):
    """``package.helper`` is imported through ``package.middle``, inside a function."""
    package = tmp_path / "package_of_test"
    package.mkdir()
    files = {
        "__init__": "",
        "mine": "from package_of_test import middle\nclass Mine:\n    version = 1\n    unsupported = {}\n",
        "middle": "def f():\n    from .helper import g\n    return g\n",
        "helper": "def g():\n    return 1\n",
        "stranger": "x = 1\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from package_of_test.mine import Mine

    monkeypatch.setitem(registry._decorated, "mine", Mine)

    def digest():
        identity._sources.cache_clear()
        return code_digest("mine", "forward", {})

    first = digest()
    (package / "stranger.py").write_text("x = 2\n")
    assert digest() == first
    (package / "helper.py").write_text("def g():\n    return 2\n")
    assert digest() != first
    del sys.modules["package_of_test.mine"]


def test_a_file_of_before_is_read_and_its_points_are_not_measured_again(tmp_path):
    small = {"patterns": ["causal_self"], "modes": ["forward"], "lengths": [16]}
    follow(tmp_path, "linear", **small)
    path = tmp_path / points.FILE_NAME
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join(line[: len(FIRST_COLUMNS)]) + "\n" for line in lines))
    old = table(tmp_path)
    assert {(row.together, row.code, row.load_average) for row in old} == {(None, None, None)}
    assert follow(tmp_path, "linear", **small) == []
    follow(tmp_path, "linear", "quadratic", **small)
    assert [row for row in table(tmp_path) if row.attention == "linear"] == [r for r in old if r.attention == "linear"]
    assert len([row for row in table(tmp_path) if row.attention == "softmax"]) == 2


def test_what_a_deadline_or_a_smaller_limit_has_left_out_is_tried_again(tmp_path):
    def left_out(reason, budget):
        (row,) = sweep(["linear"], (16,))
        add_points(tmp_path / points.FILE_NAME, [row._replace(seconds=None, status="over_budget", reason=reason)])
        grid = Grid(["linear"], lengths=[16], modes=["forward"])
        limits = sweep_module.Limits(rounds=5, budget_seconds=budget)
        found = missing_points(grid.attentions, grid.places(), TOY, limits, table(tmp_path))
        return [reason for one in found for reason in one.wanted.values()]

    assert left_out(f"judging by shorter lengths, {DEADLINE_WORDS}", 6.0) == ["the sweep before ended first"]
    assert left_out("it would take 9 s; the limit for a point is 6 s", 6.0) == []
    assert left_out("it would take 9 s; the limit for a point is 6 s", 60.0) == ["another limit of time"]
    assert left_out("a call holds 9 GiB; the limit for a call is 2 GiB", 60.0) == []


def test_a_length_is_predicted_from_rows_of_an_earlier_sweep(tmp_path):
    small = {"patterns": ["causal_self"], "modes": ["forward"]}
    follow(tmp_path, "quadratic", lengths=[64, 128], **small)
    limits = sweep_module.Limits(rounds=5, budget_bytes=10_000_000)
    rows = follow(tmp_path, "quadratic", lengths=[2**15], limits=limits, **small)
    (row,) = [row for row in rows if row.attention == "quadratic"]
    assert row.status == "over_budget"
    assert "judging by shorter lengths" in row.reason


@pytest.mark.parametrize(("before", "tried"), [([64], [2048]), ([], [128, 512, 2048])])
def test_what_it_takes_to_build_an_attention_is_not_taken_to_grow_as_from_one_probe(
    tmp_path, monkeypatch, before, tried
):
    """Else a constant 0.5 s at 128 tokens would be 128 s at 2,048.  Where earlier rows tell the time no probe is made."""

    class SlowToBuild(Linear):
        def __init__(self, **options):
            time.sleep(0.5)
            super().__init__(**options)

    monkeypatch.setattr(registry, "_decorated", {"slow": SlowToBuild})
    small = {"patterns": ["causal_self"], "modes": ["forward"]}
    if before:
        follow(tmp_path, "slow", lengths=before, **small)
    lengths, original = [], sweep_module.prepare

    def prepare(point, *arguments):
        lengths.extend([point.length] if point.attention == "slow" else [])
        return original(point, *arguments)

    monkeypatch.setattr(sweep_module, "prepare", prepare)
    limits = sweep_module.Limits(rounds=5, budget_seconds=100.0)
    rows = follow(tmp_path, "slow", lengths=[2048], limits=limits, **small)
    assert [row.status for row in rows if row.attention == "slow"] == ["completed"]
    assert lengths == tried


def test_an_exact_attention_that_could_not_be_measured_again_keeps_its_row(tmp_path, monkeypatch):
    small = {"patterns": ["causal_self"], "modes": ["forward"], "lengths": [16]}
    follow(tmp_path, "quadratic", **small)
    before = [row for row in table(tmp_path) if row.attention == "softmax"]
    original = sweep_module.prepare

    def refused(point, *arguments):
        if point.attention == "softmax":
            return point._replace(status="over_budget", reason="it would take 9 s; the limit for a point is 6 s")
        return original(point, *arguments)

    monkeypatch.setattr(sweep_module, "prepare", refused)
    assert {row.attention for row in follow(tmp_path, "linear", **small)} == {"linear", "flash"}
    assert [row for row in table(tmp_path) if row.attention == "softmax"] == before


def test_the_short_sweep_measures_nothing_twice_and_says_what_it_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "SHORT_LENGTHS", (16,))
    monkeypatch.setattr(sweep_module, "measure_peaks", lambda *_: PEAKS)
    said = []
    rows = short_sweep(["linear"], tmp_path, "cpu", said.append)
    assert {row.attention for row in rows} == {"linear", "softmax", "flash"}
    assert {(row.pattern, row.mode) for row in rows if row.mode == "decode"} == {
        ("causal_self", "decode"),
        ("causal_cross", "decode"),
    }
    assert said == ["efficiency of linear: 10 points are missing"]
    said.clear()
    assert short_sweep(["linear"], tmp_path, "cpu", said.append) == []
    assert said == []


def test_two_processes_that_measure_at_once_keep_each_others_rows(tmp_path):
    rows = sweep(["linear", "quadratic"], (16, 32, 64))
    start = threading.Barrier(len(rows))

    def add(row):
        start.wait()
        add_points(tmp_path / points.FILE_NAME, [row])

    threads = [threading.Thread(target=add, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(map(key_of, table(tmp_path))) == set(map(key_of, rows))


def test_a_folder_lets_one_in_at_a_time(tmp_path):
    inside, most = [0], [0]

    def enter():
        with only_process(tmp_path):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_section_adds_up_cpu_time_and_clock_time(monkeypatch):
    cpu, clock = iter([10.0, 10.5, 20.0, 21.0]), iter([100.0, 101.0, 200.0, 202.0])
    monkeypatch.setattr(load.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(load.time, "perf_counter", lambda: next(clock))
    section = Section()
    assert section.cpu_share is None
    for _ in range(2):
        with section:
            pass
    assert section.cpu_share == pytest.approx(1.5 / 3.0)


def test_every_timed_point_has_the_load_of_its_own_calls(monkeypatch):
    """A fake clock on which the process gets the CPU for a quarter of the time."""
    ticks = itertools.count()
    monkeypatch.setattr(load.time, "process_time", lambda: 0.25 * next(ticks))
    monkeypatch.setattr(load.time, "perf_counter", lambda: 1.0 * next(ticks))
    monkeypatch.setattr(load.os, "getloadavg", lambda: (3.25, 9.0, 9.0))
    rows = sweep(["linear", "quadratic"], (16,))
    for row in rows:
        assert 0.05 < row.cpu_share < 0.9
        assert row.load_average == 3.25
        assert row.cores >= 1


def timed(**columns):
    return Point("forward", "causal_self", 1, 16, 2, 8, "linear", "float32", "cpu", seconds=1.0)._replace(**columns)


@pytest.mark.parametrize(
    ("columns", "disturbed"),
    [
        ({}, False),  # a file of before
        ({"cpu_share": 0.91}, False),
        ({"cpu_share": 0.89}, True),
        ({"cpu_share": 1.9, "load_average": 2.4, "cores": 2}, False),
        ({"cpu_share": 1.9, "load_average": 2.6, "cores": 2}, True),
        ({"cpu_share": 0.2, "load_average": 1.0, "cores": 8, "device": "Some GPU"}, False),
        ({"cpu_share": 0.2, "load_average": 9.0, "cores": 8, "device": "Some GPU"}, True),
        ({"load_average": 9.0}, False),
    ],
)
def test_a_point_is_disturbed_by_a_written_rule(columns, disturbed):
    assert is_disturbed(timed(**columns)) == disturbed


def test_a_disturbed_sweep_says_so_in_its_captions(tmp_path):
    calm = [timed(length=length, cpu_share=1.0, load_average=1.0, cores=2) for length in (16, 32, 64)]
    assert disturbance(calm) is None
    busy = [*calm[:2], calm[2]._replace(cpu_share=0.5)]
    untimed = timed(length=128)._replace(seconds=None, status="failed", cpu_share=0.1)
    assert disturbance([*busy, untimed]).startswith("Disturbed: 1 of 3 points were timed beside other work (")
    for rows, expected in ((calm, False), (busy, True)):
        add_points(tmp_path / points.FILE_NAME, rows)
        (found,) = read_sweeps([tmp_path])
        assert ("Disturbed: 1 of 3" in time_table(found).caption) == expected
        assert "0.9 s of CPU time" in time_table(found).caption or not expected
        assert "Disturbed" not in memory_table(found).caption  # counted, not timed


def test_the_command_line_says_that_a_sweep_was_disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(load.os, "getloadavg", lambda: (1e3, 1e3, 1e3))
    monkeypatch.setattr(sweep_module, "measure_peaks", lambda *_: PEAKS)
    lines = []
    measure_to_file(tmp_path, Grid(["linear"], lengths=[16], modes=["forward"]), TOY, FIVE_ROUNDS, lines.append)
    assert lines[-1].startswith("Disturbed: 1 of 1 points")
