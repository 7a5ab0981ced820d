"""The sweep on attentions of known cost: its counters, budgets, failures and table.  No test compares times."""

from __future__ import annotations

import csv
import math
import time

import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.measuring import memory, points
from benchmark.measuring import peaks as peaks_module
from benchmark.measuring import sweep as sweep_module
from benchmark.measuring.limits import History, Limits, predict, row_without_trying
from benchmark.measuring.operations import count_operations
from benchmark.measuring.peaks import Peaks, read_peaks, write_peaks
from benchmark.measuring.points import COLUMNS, FIRST_COLUMNS, Point, read_points, write_points
from benchmark.measuring.shape import Shape
from benchmark.measuring.sweep import Grid, measure, measure_to_file, parse_dtype, parse_lengths, short_sweep

CONTRACT = (
    "mode pattern batch length num_heads head_dim attention dtype device kernel rounds seconds seconds_low seconds_high "
    "compile_seconds base_bytes peak_bytes flops moved_bytes status reason"
)
ADDED = "together threads processor kernel_version code cpu_share load_average cores"  # at the end, so that old files can be read


class Quadratic(nn.Module):
    """Holds the scores: n² floats a head at a time, 4·n²·d operations."""

    version = 1
    unsupported = {"noncausal_cross": "is a toy"}
    kernel = "toy_quadratic"

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, q, k, v, key_padding_mask=None):
        return (q @ k.mT) @ v * self.scale

    def init_state(self, batch_size, *, device=None, dtype=None):
        return (torch.zeros(batch_size, 0),)

    def extend(self, q, k, v, state):
        return v, (torch.cat([state[0], k[:, 0, :, 0]], 1),)

    def state_bytes(self, state):
        return state[0].nbytes


class Linear(Quadratic):
    """Holds d² floats a head, 4·n·d² operations."""

    kernel = "toy_linear"

    def forward(self, q, k, v, key_padding_mask=None):
        return q @ (k.mT @ v) * self.scale


class Failing(Quadratic):
    def forward(self, q, k, v, key_padding_mask=None):
        raise KeyError("a stranger's mistake")


class Memoryless(Quadratic):
    def forward(self, q, k, v, key_padding_mask=None):
        if q.shape[2] >= 32:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: 1 GB")
        return v * self.scale


TOYS = {"quadratic": Quadratic, "linear": Linear, "failing": Failing, "memoryless": Memoryless}


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setattr(registry, "_decorated", dict(TOYS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # toys are too small to share, and other tests may hold the cores
    yield
    torch.set_num_threads(threads)


FIVE_ROUNDS = Limits(rounds=5)
TOY = Shape(num_heads=2, head_dim=8)


def sweep(attentions, lengths=(16, 32, 64), modes=("forward",), shape=TOY, limits=FIVE_ROUNDS, **named):
    return measure(Grid(attentions, lengths=lengths, modes=modes), shape, limits, **named)


def column(rows, attention, name, mode="forward"):
    return [getattr(row, name) for row in rows if row.attention == attention and row.mode == mode]


def held(rows, attention, mode="forward"):
    peaks, bases = (column(rows, attention, name, mode) for name in ("peak_bytes", "base_bytes"))
    return [peak - base for peak, base in zip(peaks, bases, strict=True)]


def slope(lengths, values):
    return math.log(values[-1] / values[0]) / math.log(lengths[-1] / lengths[0])


def test_columns_are_the_contracts():
    assert " ".join(COLUMNS) == f"{CONTRACT} {ADDED}"
    assert " ".join(FIRST_COLUMNS) == CONTRACT


def test_counters_see_the_difference_between_quadratic_and_linear():
    lengths = (64, 128, 256)
    rows = sweep(["quadratic", "linear"], lengths, ("forward", "backward"))
    for mode in ("forward", "backward"):
        assert slope(lengths, column(rows, "quadratic", "flops", mode)) == pytest.approx(2)
        assert slope(lengths, column(rows, "linear", "flops", mode)) == pytest.approx(1)
        assert slope(lengths, held(rows, "quadratic", mode)) > 1.7
        assert slope(lengths, held(rows, "linear", mode)) < 1.1
    assert column(rows, "quadratic", "flops") == [2 * 4 * n * n * 8 for n in lengths]
    assert column(rows, "linear", "flops") == [2 * 4 * n * 8 * 8 for n in lengths]
    assert {row.status for row in rows} == {"completed"}


def test_memory_is_counted_to_the_byte():
    rows = sweep(["quadratic"], (64,))
    scores, out = 2 * 64 * 64 * 4, 2 * 64 * 8 * 4
    assert held(rows, "quadratic") == [max(scores + out, out + out)]
    assert column(rows, "quadratic", "base_bytes") == [3 * out + 4]
    assert column(rows, "quadratic", "moved_bytes") == [4 * out]


def test_what_autograd_saves_is_counted():
    rows = sweep(["quadratic"], (64,), ("forward", "backward"))
    assert held(rows, "quadratic", "backward")[0] > held(rows, "quadratic")[0]


def test_peak_does_not_depend_on_what_was_measured_before():
    once = sweep(["quadratic"], (32, 64, 128))
    after = sweep(["linear", "quadratic"], (128, 256)) and sweep(["quadratic"], (32, 64, 128))
    assert held(once, "quadratic") == held(after, "quadratic")
    alone = [memory.allocated_by(lambda n=n: torch.ones(n)) for n in (4096, 1024, 4096)]
    assert alone == [4 * 4096, 4 * 1024, 4 * 4096]


def test_process_peak_is_set_back_between_cells():
    if not memory.peak_is_exact():
        pytest.skip("this system doesn't let the mark be set back")
    # Freed pieces that are small stay in malloc's heap.  What is allocated later must be seen although it may lie there.
    pieces = [torch.ones(16_000) for _ in range(1_500)]
    kept = pieces[::100]
    del pieces
    base = memory.reset_peak()
    block = [torch.ones(16_000) for _ in range(1_000)]
    del block, kept
    high = memory.peak_bytes() - base
    assert high > 50e6
    base = memory.reset_peak()
    assert memory.peak_bytes() - base < high / 4


def test_rows_have_intervals_kernels_and_interleaved_rounds(monkeypatch):
    called = []
    real = sweep_module.call_seconds
    monkeypatch.setattr(
        sweep_module, "call_seconds", lambda call, *device, **named: called.append(call) or real(call, *device, **named)
    )
    rows = sweep(["quadratic", "linear"], (16,))
    both = set(called)
    assert len(both) == 2
    timed = called[-10:]
    assert all(set(timed[start : start + 2]) == both for start in range(0, 10, 2))
    for row in rows:
        assert row.rounds == 5
        assert row.seconds_low <= row.seconds <= row.seconds_high
        assert row.compile_seconds >= 0
        assert row.kernel == f"toy_{row.attention}"


def test_decoding_goes_on_from_the_filled_context():
    (row,) = sweep(["quadratic"], (64,), ("decode",))
    assert row.status == "completed"
    assert row.moved_bytes >= 64 * 4  # the state counts


def test_fused_causal_kernels_count_what_they_compute():
    b, h, n, d = 2, 3, 96, 16
    q, k, v = (torch.randn(b, h, n, d, requires_grad=True) for _ in range(3))

    def fused(causal):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    full = b * h * 4 * n * n * d
    assert count_operations(lambda: fused(False)) == full
    assert count_operations(lambda: fused(True)) == full * (n + 1) // (2 * n)
    both = count_operations(lambda: fused(True).sum().backward())
    assert both == (full + full * 5 // 2) * (n + 1) // (2 * n)
    assert count_operations(lambda: q + k) is None


@pytest.mark.parametrize("length", [64, 256])
def test_exact_attentions_count_as_their_formula(length):
    grid = Grid(["softmax", "flash"], ["noncausal_self"], [length], ["forward"])
    rows = measure(grid, Shape(num_heads=2, head_dim=16), FIVE_ROUNDS)
    assert column(rows, "softmax", "flops") == column(rows, "flash", "flops") == [2 * 4 * length * length * 16]


def test_filling_a_state_reads_every_token():
    (quadratic,) = sweep(["quadratic"], (64,), ("prefill",))
    assert quadratic.status == "completed"
    assert quadratic.moved_bytes == 4 * 2 * 64 * 8 * 4
    grid = Grid(["flash", "lavo"], ["causal_cross", "noncausal_self"], [64], ["prefill"])
    rows = measure(grid, Shape(num_heads=2), FIVE_ROUNDS)
    assert [row.status for row in rows] == ["completed", "completed", "unsupported", "unsupported"]
    assert rows[0].moved_bytes == 2 * 2 * 64 * 64 * 4


def test_fixed_tokens_shrink_the_batch_as_lengths_grow():
    rows = sweep(["linear"], (16, 32, 256), shape=Shape(num_heads=2, head_dim=8, tokens=64))
    assert [row.batch for row in rows] == [4, 2, 1]
    assert column(rows, "linear", "flops")[:2] == [2 * 4 * 64 * 8 * 8] * 2


def test_peaks_are_kept_by_device_and_dtype(tmp_path):
    slow, fast, half = (
        Peaks("cpu", dtype, 1, rate, 2.0) for dtype, rate in (("float32", 1.0), ("float32", 3.0), ("bfloat16", 9.0))
    )
    for peaks in (slow, half, fast):
        write_peaks(tmp_path, peaks)
    assert read_peaks([tmp_path]) == [half, fast]
    (tmp_path / "machine.json").write_text('[{"speed": 1}]')
    with pytest.raises(ValueError, match=r"machine\.json: not the measured peaks"):
        read_peaks([tmp_path])


def test_peaks_count_what_a_product_and_a_copy_do(monkeypatch):
    monkeypatch.setattr(peaks_module, "_SIZES", {"cpu": (64, 4096)})
    monkeypatch.setattr(peaks_module, "_best_seconds", lambda call, device: call() is not None and 0.5)
    found = peaks_module.measure_peaks(torch.device("cpu"), torch.float32)
    assert found.flops_per_second == 2 * 64**3 / 0.5
    assert found.bytes_per_second == 2 * 4096 / 0.5


def test_what_cannot_be_done_is_a_row_with_its_reason():
    grid = Grid(["quadratic"], ["noncausal_cross", "noncausal_self"], [16], ["decode"])
    rows = measure(grid, Shape(), FIVE_ROUNDS)
    assert [row.status for row in rows] == ["unsupported", "unsupported"]
    assert "is a toy" in rows[0].reason
    assert "nothing to decode" in rows[1].reason


def test_failures_and_full_memory_are_rows_and_the_rest_goes_on():
    rows = sweep(["failing", "memoryless", "linear"])
    assert column(rows, "failing", "status") == ["failed"] * 3
    assert "a stranger's mistake" in column(rows, "failing", "reason")[0]
    assert column(rows, "memoryless", "status") == ["completed", "out_of_memory", "out_of_memory"]
    assert "already out of memory at length 32" in column(rows, "memoryless", "reason")[2]
    assert column(rows, "linear", "status") == ["completed"] * 3


def test_budgets_of_time_and_memory_end_in_rows():
    rows = sweep(["quadratic"], limits=Limits(rounds=5, budget_seconds=1e-6))
    assert column(rows, "quadratic", "status") == ["over_budget"] * 3
    rows = sweep(["quadratic", "linear"], (64, 128, 256), limits=Limits(rounds=5, budget_bytes=100_000))
    assert column(rows, "quadratic", "status") == ["completed", "over_budget", "over_budget"]
    assert "would hold" in column(rows, "quadratic", "reason")[1]
    assert column(rows, "linear", "status") == ["completed"] * 3
    rows = sweep(["quadratic"], limits=Limits(rounds=5, deadline=time.monotonic()))
    assert "whole sweep" in rows[0].reason


def test_a_long_first_length_is_predicted_from_probes():
    rows = sweep(["quadratic"], (2**15,), limits=Limits(rounds=5, budget_bytes=10_000_000))
    assert [row.status for row in rows] == ["over_budget"]
    assert "by shorter lengths" in rows[0].reason


def test_prediction_follows_the_measured_growth():
    assert predict([], 512) == 0
    assert predict([(256, 1.0)], 512) == pytest.approx(4)  # after one point quadratic growth is expected
    assert predict([(256, 1.0), (512, 2.0)], 2048) == pytest.approx(8)
    assert predict([(256, 1.0), (512, 1.0)], 1024) == pytest.approx(2)  # no growth so far is taken for overhead
    limits = Limits(rounds=5, budget_seconds=10.0, budget_bytes=10**9, deadline=math.inf)
    history = History(seconds=[(256, 0.5), (512, 2.0)])
    point = Point("forward", "causal_self", 1, 1024, 2, 8, "toy", "float32", "cpu")
    refused = row_without_trying(point, limits, history)
    assert refused is not None
    assert refused.status == "over_budget"
    assert row_without_trying(point._replace(length=2048), limits, history).reason == refused.reason


def test_table_is_written_as_it_grows_and_keeps_other_rows(tmp_path):
    seen = []
    sweep(
        ["linear"],
        (16,),
        directory=tmp_path,
        on_point=lambda point: seen.append(len(read_points(tmp_path / points.FILE_NAME))),
    )
    sweep(["linear"], (16, 32), directory=tmp_path)
    rows = read_points(tmp_path / points.FILE_NAME)
    assert seen == [1]
    assert [row.length for row in rows] == [16, 32]
    with (tmp_path / points.FILE_NAME).open() as file:
        assert next(csv.reader(file)) == [*CONTRACT.split(), *ADDED.split()]


def test_table_reads_back_as_written(tmp_path):
    point = Point("forward", "causal_self", 1, 16, 2, 8, "my_att", "float32", "cpu", seconds=1.5e-5, reason='a, b"c')
    write_points(tmp_path / "efficiency.csv", [point])
    assert read_points(tmp_path / "efficiency.csv") == [point]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv: columns a, b"):
        read_points(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"modes": ("sideways",)}, "sideways"), ({"lengths": ()}, "lengths"), ({"patterns": ("causal",)}, "causal")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(["linear"], **arguments)


def test_too_few_rounds_for_an_interval_are_refused():
    with pytest.raises(ValueError, match="rounds 4: must be at least 5"):
        Limits(rounds=4)


def test_short_sweep_is_bounded(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(sweep_module, "measure", lambda *arguments, **_: asked.extend(arguments) or [])
    short_sweep(["linear"], tmp_path, "cpu")
    grid, shape, limits = asked
    assert grid.attentions == ["linear"]
    assert shape.device.type == "cpu"
    assert 0 < limits.deadline - time.monotonic() <= 120


def test_the_sweep_of_the_command_line_says_every_point_and_reads_its_options(tmp_path):
    assert parse_lengths("256:2048") == [256, 512, 1024, 2048]
    assert parse_lengths("100,1000") == [100, 1000]
    for bad in ("256:", "0:8", "a", "8:4"):
        with pytest.raises(ValueError, match="lengths"):
            parse_lengths(bad)
    assert parse_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match="float8"):
        parse_dtype("float8")
    lines = []
    grid = Grid(["linear", "failing"], lengths=[16], modes=["forward"])
    path = measure_to_file(tmp_path, grid, TOY, FIVE_ROUNDS, lines.append)
    assert [row.status for row in read_points(path)] == ["completed", "failed"]
    points = [line for line in lines if not line.startswith("Disturbed")]  # which the machine may be
    assert len(points) == 3  # the machine's own peaks first
    (peaks,) = read_peaks([tmp_path])
    assert peaks.device == read_points(path)[0].device
