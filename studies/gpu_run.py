"""Tests and times LAVO's kernels on a GPU, in at most 8 minutes: ``python -m studies.gpu_run -o DIR``.

Three parts run one after the other, each in its own process with its own time limit.  If one fails or hangs, the others still
run, and what it has written is kept:

correctness  compares outputs and gradients of the kernels with the definition in float64: ``correctness.csv``
speed        compares LAVO (with its defaults, and with a learned basis) with flash attention: ``efficiency.csv``.  bfloat16,
             8 heads of 64, causal, lengths from 256 to 131,072, some 16,384 tokens in a batch, forward and forward+backward
one-pass     compares the causal form in one pass (lavo/one_pass.py) with the usual one in two passes: ``one_pass.csv`` says
             whether the outputs agree, whether repeated runs give the same bits, and how long each takes.  It runs last,
             because its programs wait for each other, and a fault could make them wait for ever

``summary.txt`` contains the results.  Times are taken with CUDA events.  The cache is emptied before each call, and the
contenders take turns.  ``--dry-run`` runs the first two parts on a CPU, with the backend "torch" and small inputs, to see that
they run; its figures mean nothing.
"""

from __future__ import annotations

import copy
import csv
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.measuring.peaks import measure_peaks, read_peaks, write_peaks
from benchmark.measuring.points import Point, read_points, write_points
from benchmark.measuring.shape import device_column
from benchmark.measuring.timing import cache_emptier, call_seconds, interleaved, rounds_within, wall_seconds
from benchmark.registry import build_attention
from benchmark.report.crossing import crossing
from benchmark.statistics import bootstrap_interval

PARTS = {"correctness": 180, "speed": 220, "one-pass": 70}  # seconds that each may take
LIMITS = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}  # largest error allowed, as ``relative`` computes it
NUM_HEADS, HEAD_DIM, TOKENS = 8, 64, 16384
LENGTHS = [2**power for power in range(8, 18)]
ROUNDS, SECONDS_A_POINT = 20, 3.0

# The cases of ``correctness``.  Each changes only a few settings of the first one, because new combinations of settings must be
# compiled.
CASES: list[dict[str, Any]] = [
    {"pattern": pattern, "output": "joint", "basis": "learned"} | change
    for pattern in ("causal_self", "noncausal_self")
    for change in (
        {},
        {"dtype": "float32"},
        {"dtype": "float16", "output": "sum", "basis": "identity"},
        {"window": 256, "n": 1000},
        {"window": 48, "rank": 17, "head_dim": 80},
        {"head_dim": 128, "output": "sum"},
        {"padded": True},
    )
] + [
    {"pattern": "causal_cross", "basis": "learned"},
    {"pattern": "noncausal_cross", "padded": True, "dtype": "float32"},
]


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("results/gpu"),
    dry_run: Annotated[bool, typer.Option(help="Run on a CPU, to try the command; figures mean nothing.")] = False,
    part: Annotated[str | None, typer.Option(help="Run only this part, in this process.")] = None,
) -> None:
    """Runs all parts and prints the summary; with --part, runs only this part and prints nothing."""
    if part is not None and part not in PARTS:
        raise typer.BadParameter(f"must be one of {', '.join(PARTS)}, got {part!r}", param_hint="--part")
    if not dry_run and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device; use --dry-run to try the command on a CPU")
    output.mkdir(parents=True, exist_ok=True)
    if part is not None:
        run = {"correctness": correctness, "speed": speed, "one-pass": one_pass}[part]
        run(output, torch.device("cpu" if dry_run else "cuda"))
        return
    ended = {name: in_a_process(name, seconds, output, dry_run) for name, seconds in PARTS.items()}
    text = summary(output, ended)
    (output / "summary.txt").write_text(text, encoding="utf-8")
    typer.echo(text)
    if any(outcome != "completed" for outcome in ended.values()):
        raise typer.Exit(1)


def in_a_process(part: str, seconds: float, output: Path, dry_run: bool) -> str:
    """Runs a part in a new process with a time limit.  Returns in words how it ended."""
    command = [sys.executable, "-m", "studies.gpu_run", "-o", str(output), "--part", part]
    try:
        ended = subprocess.run(command + ["--dry-run"] * dry_run, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:g} s"
    return "completed" if ended.returncode == 0 else f"failed with status {ended.returncode}"


# Correctness.


def correctness(output: Path, device: torch.device) -> None:
    """Writes a row for the output and for each gradient of every case.  Exits with status 1 if an error exceeds its limit."""
    wrong = 0
    untuned: AbstractContextManager[None] = nullcontext()
    if device.type == "cuda":
        from lavo.fused import first_configurations

        untuned = first_configurations()  # because tuning every case would exceed the time limit
    header = ["case", "kernel", "quantity", "error", "limit"]
    with untuned, rows_into(output / "correctness.csv", header) as write:
        for case in CASES if device.type == "cuda" else [CASES[0] | {"n": 70}]:
            kernel, errors = errors_of(case, device)
            limit = LIMITS[case.get("dtype", "bfloat16")]
            for quantity, error in errors.items():
                write([describe(case), kernel, quantity, f"{error:.3g}", limit])
                wrong += not error <= limit
    if wrong:
        raise typer.Exit(1)


def errors_of(case: Mapping[str, Any], device: torch.device) -> tuple[str, dict[str, float]]:
    """Returns the kernel that ran, and the relative error of the output and of each gradient, by name."""
    dtype = getattr(torch, case.get("dtype", "bfloat16"))
    head_dim, n = case.get("head_dim", 64), case.get("n", 777)
    options = {name: case[name] for name in ("window", "rank", "basis", "output") if name in case}
    if case["pattern"].endswith("cross"):
        options.pop("window", None)
    module = build_attention("lavo", pattern=case["pattern"], num_heads=3, head_dim=head_dim, **options).to(device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():  # noise, because a bias of zeros would hide faults in its use
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(device))
    inputs = [torch.randn(2, 3, n, head_dim, generator=generator).to(device, dtype) for _ in range(3)]
    upstream = torch.randn(2, 3, n, head_dim, generator=generator).to(device, dtype)
    mask = None
    if case.get("padded"):
        mask = torch.arange(n, device=device) >= torch.tensor([[n], [n // 3]], device=device)
    exact: Any = copy.deepcopy(module).double()
    results = []
    for attend, layer, precision in ((module, module, dtype), (exact.definition, exact, torch.float64)):
        leaves = [x.to(precision, copy=True).requires_grad_() for x in inputs]
        parameters = list(layer.parameters())
        out = attend(*leaves, key_padding_mask=mask)
        found = torch.autograd.grad(out, [*leaves, *parameters], upstream.to(out.dtype), allow_unused=True)
        results.append([out, *found])
    names = ["out", "q", "k", "v", *(name for name, _ in module.named_parameters())]
    pairs = zip(names, *results, strict=True)
    return str(module.kernel), {
        name: relative(got, want) for name, got, want in pairs if got is not None and want is not None
    }


def relative(got: Tensor, want: Tensor) -> float:
    """Returns the root mean square of the difference, divided by that of ``want`` unless ``want`` is zero."""
    got, want = got.detach(), want.detach()
    norm = float(want.double().square().mean().sqrt())
    return float((got.double() - want).square().mean().sqrt()) / (norm if norm > 1e-9 else 1.0)


def describe(case: Mapping[str, Any]) -> str:
    """Returns the settings of a case in one line, for ``correctness.csv`` and the summary."""
    return " ".join(f"{name}={value}" for name, value in case.items())


# Speed.


def speed(output: Path, device: torch.device) -> None:
    """Measures all lengths.  Writes the points to ``efficiency.csv``, and the peak rates of the device to ``machine.json``.

    The table is written anew after every length and mode, so that it is complete up to there if the time limit ends the part.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    write_peaks(output, measure_peaks(device, dtype))
    contenders = {"flash": flash, "lavo": lavo("identity", device), "lavo:learned": lavo("learned", device)}
    points: list[Point] = []
    for length in LENGTHS if device.type == "cuda" else LENGTHS[:3]:
        for mode in ("forward", "backward"):
            points += timed(contenders, mode, length, dtype, device)
            write_points(output / "efficiency.csv", points)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes exact causal attention with the flash kernel; on a CPU, with the kernel that torch chooses."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def lavo(basis: str, device: torch.device) -> nn.Module:
    """Returns LAVO with this basis, and defaults for all other options."""
    module = build_attention("lavo", pattern="causal_self", num_heads=NUM_HEADS, head_dim=HEAD_DIM, basis=basis)
    return module.to(device)


def timed(
    contenders: Mapping[str, Any], mode: str, length: int, dtype: torch.dtype, device: torch.device
) -> list[Point]:
    """Returns a point for each contender: the median over rounds, its interval, and how much longer the first call took."""
    batch = max(1, (TOKENS if device.type == "cuda" else 256) // length)
    q, k, v, grad = (torch.randn(batch, NUM_HEADS, length, HEAD_DIM, device=device, dtype=dtype) for _ in range(4))
    empty_cache = cache_emptier(device)
    calls = {name: step(attend, mode, q, k, v, grad) for name, attend in contenders.items()}
    first = {name: wall_seconds(call, device) for name, call in calls.items()}
    samplers = {name: partial(cold_seconds, call, empty_cache, device) for name, call in calls.items()}
    samples = interleaved(samplers, rounds_within(SECONDS_A_POINT, least=5, most=ROUNDS))
    # Every tensor is moved once: forward q, k, v and the output (4); backward q, k, v, the output's gradient, and the three
    # gradients that are written (7).
    moved = q.nbytes * (4 if mode == "forward" else 11)
    points = []
    for name, values in samples.items():
        median, (low, high) = float(np.median(values)), bootstrap_interval(values)
        points.append(
            Point(
                mode=mode,
                pattern="causal_self",
                batch=batch,
                length=length,
                num_heads=NUM_HEADS,
                head_dim=HEAD_DIM,
                attention=name,
                dtype=str(dtype).removeprefix("torch."),
                device=device_column(device),
                kernel=str(
                    getattr(
                        contenders[name], "kernel", "flash" if device.type == "cuda" else "scaled_dot_product_attention"
                    )
                ),
                rounds=len(values),
                seconds=median,
                seconds_low=low,
                seconds_high=high,
                compile_seconds=max(0.0, first[name] - median),
                moved_bytes=moved,
                status="completed",
            )
        )
    return points


def step(attend: Any, mode: str, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Callable[[], object]:
    """Returns a function that makes one call; mode "backward" also computes the gradients of inputs and parameters."""
    if mode == "forward":
        return torch.no_grad()(lambda: attend(q, k, v))
    parameters = list(attend.parameters()) if isinstance(attend, nn.Module) else []
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    return lambda: torch.autograd.grad(attend(*leaves), [*leaves, *parameters], grad)


def cold_seconds(call: Callable[[], object], empty_cache: Callable[[], None], device: torch.device) -> float:
    """Returns the seconds of one call with a cold cache, without launches of kernels for which the GPU needs not wait."""
    empty_cache()
    return call_seconds(call, device, idle_start=False)


# The causal form in one pass.


def one_pass(output: Path, device: torch.device) -> None:
    """Compares the causal form in one pass with that in two passes, at several lengths.  On a CPU it writes only the header."""
    header = ["length", "two_passes_seconds", "one_pass_seconds", "error", "same_bits_in_20_runs"]
    with rows_into(output / "one_pass.csv", header) as write:
        if device.type != "cuda":
            return
        for length in (256, 1024, 16384, 131072):
            write([length, *passes_compared(length, device)])


def passes_compared(length: int, device: torch.device) -> list[Any]:
    """Returns a row of ``one_pass.csv`` without the length.

    The batch has some 16,384 tokens, so that many programs run at once and may disturb each other.
    """
    from lavo import fused

    module: Any = lavo("learned", device)
    q, k, v = torch.randn(3, max(1, TOKENS // length), NUM_HEADS, length, HEAD_DIM, device=device, dtype=torch.bfloat16)
    options: dict[str, Any] = {"window": module.window, "bias": module.bias, "output": module.output, "causal": True}

    @torch.no_grad()
    def call(one_pass: bool) -> Tensor:
        return fused.self_attention(q, k, v, module.basis(), dissect=True, lengths=None, one_pass=one_pass, **options)

    two, *_ = [call(False) for _ in range(20)]
    first, *others = [call(True) for _ in range(20)]
    empty_cache = cache_emptier(device)
    seconds = [
        float(np.median([cold_seconds(partial(call, one_pass), empty_cache, device) for _ in range(ROUNDS)]))
        for one_pass in (False, True)
    ]
    same = all(torch.equal(out, first) for out in others)
    return [*(f"{x:.6g}" for x in seconds), f"{relative(first, two.double()):.3g}", same]


# What came out.


def summary(output: Path, ended: Mapping[str, str]) -> str:
    """Returns the text of the summary: how the parts ended, and the results in their files."""
    lines = [f"{name}: {outcome}" for name, outcome in ended.items()]
    if (output / "correctness.csv").exists():
        with (output / "correctness.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        wrong = [row for row in rows if not float(row["error"]) <= float(row["limit"])]
        lines.append(f"correctness: {len(rows) - len(wrong)} of {len(rows)} errors within their limits")
        lines += [f"  {row['case']}: {row['quantity']} {row['error']}, limit {row['limit']}" for row in wrong]
    points = read_points(output / "efficiency.csv") if (output / "efficiency.csv").exists() else []
    peaks = read_peaks([output])
    for mode in dict.fromkeys(point.mode for point in points):
        lines += ["", *table(mode, [point for point in points if point.mode == mode], peaks)]
    if (output / "one_pass.csv").exists():
        lines += ["", (output / "one_pass.csv").read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


def table(mode: str, points: Sequence[Point], peaks: Sequence[Any]) -> list[str]:
    """Returns lines for one mode.

    There is one line for each contender and length: milliseconds, speed as a multiple of flash, and share of the measured
    bandwidth.  One more line for each form of LAVO says from which length on it is faster than flash.
    """
    exact = {point.length: point for point in points if point.attention == "flash"}
    lines = [f"{mode}, {points[0].dtype}, {NUM_HEADS} heads of {HEAD_DIM}, {points[0].device}"]
    for name in dict.fromkeys(point.attention for point in points):
        own = [point for point in points if point.attention == name]
        for point in own:
            seconds, flash_seconds = point.seconds or float("nan"), exact[point.length].seconds or float("nan")
            share = (point.moved_bytes or 0) / seconds / peaks[0].bytes_per_second if peaks else float("nan")
            lines.append(
                f"  {name:14} {point.length:7} x {point.batch:3}: {1e3 * seconds:9.3f} ms ({point.kernel}), "
                f"{flash_seconds / seconds:7.2f} times flash, {share:5.1%} of the bandwidth"
            )
        found = crossing(own, list(exact.values())) if name != "flash" else None
        if found is not None:
            reached = f"about {found.estimate:.0f}" if found.estimate else f"{found.high or 'not reached'}"
            lines.append(f"  {name}: faster than flash from {reached} (between {found.low} and {found.high})")
    return lines


@contextmanager
def rows_into(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Opens a CSV file and gives a function that writes one row, which is on disk at once."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)

        def write(row: Sequence[Any]) -> None:
            writer.writerow(row)
            file.flush()

        write(header)
        yield write


if __name__ == "__main__":
    typer.run(main)
