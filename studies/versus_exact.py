"""Measures how many times faster LAVO is than exact attention: ``python -m studies.versus_exact``.

LAVO with its defaults (window 64, rank 64, output sum, basis identity) and with a learned basis is compared with
``scaled_dot_product_attention(is_causal=True)``: batch 1, 8 heads of 64, causal, float32, one line for each length and
contender.  The contenders take turns in every round, so that a busy machine slows all of them.  A turn lasts some 50 ms, so
that it does not matter whose data is in the cache when it begins.  The ratio is that of the medians over rounds.  The spread
is the range of the middle half of the rounds.

On a machine that does other work, ``--cpu-time --threads 1`` compares the CPU time of one thread.  It leaves out the time in
which other processes run, but not what they take of the caches.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from benchmark.measuring import timing
from benchmark.measuring.memory import keep_freed_memory
from benchmark.registry import build_attention

Step = Callable[[], object]
Clock = Callable[..., float]

POINTS = [
    ("forward", 1024),
    ("forward", 8192),
    ("forward", 16384),
    ("forward", 131_072),
    ("forward+backward", 1024),
    ("forward+backward", 8192),
    ("forward+backward", 16384),
]
NUM_HEADS, HEAD_DIM = 8, 64
LONG_SECONDS = 30.0  # a call that takes longer is made only once, and its line says so


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes exact causal attention.  q, k, v: (batch, heads, length, head_dim)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def lavo(**options: Any) -> Any:
    """Returns LAVO with these options, and defaults for all others."""
    return build_attention("lavo", pattern="causal_self", num_heads=NUM_HEADS, head_dim=HEAD_DIM, **options)


def step(attend: Callable[[Tensor, Tensor, Tensor], Tensor], mode: str, length: int) -> Step:
    """Returns a function that calls ``attend`` once.

    Mode "forward+backward" also computes the gradients of inputs and parameters.
    """
    generator = torch.Generator().manual_seed(length)
    q, k, v, grad = (torch.randn(1, NUM_HEADS, length, HEAD_DIM, generator=generator) for _ in range(4))
    if mode == "forward":
        return torch.no_grad()(lambda: attend(q, k, v))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    parameters = list(attend.parameters()) if isinstance(attend, torch.nn.Module) else []
    # The inputs are views, because torch's counter of operations hooks a module's inputs and refuses leaves of the graph.
    return lambda: torch.autograd.grad(attend(*(x.view_as(x) for x in inputs)), [*inputs, *parameters], grad)


def interleaved(
    steps: dict[str, Step], *, rounds: int, turn_seconds: float = 0.05, seconds_of: Clock = timing.call_seconds
) -> dict[str, list[float]]:
    """Returns for each step the seconds of a call in every round.

    In a round each step has one turn, which is so many calls that it lasts ``turn_seconds``; the mean of these calls counts.
    A step whose call takes longer than LONG_SECONDS has only its first call.
    seconds_of: takes the time of a call, as ``timing.call_seconds`` does.
    """
    first = {name: seconds_of(run) for name, run in steps.items()}
    seconds = {name: [taken] if taken > LONG_SECONDS else [] for name, taken in first.items()}
    short = {name: run for name, run in steps.items() if not seconds[name]}
    calls = {name: max(1, round(turn_seconds / seconds_of(run))) for name, run in short.items()}
    turns = {name: partial(seconds_of, run, repeats=calls[name]) for name, run in short.items()}
    return seconds | timing.interleaved(turns, range(rounds))


def cpu_seconds(call: Step, *, repeats: int = 1) -> float:
    """Returns the CPU seconds that this process takes for one call, the mean of ``repeats`` calls in a row."""
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def milliseconds(values: list[float]) -> str:
    """Returns the median and the range of the middle half, as text.  values: seconds."""
    if len(values) == 1:
        return f"{1e3 * values[0]:8.2f} ms (one call)"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{1e3 * middle:8.2f} ms ({1e3 * low:.2f} to {1e3 * high:.2f})"


def main(
    rounds: Annotated[
        int, typer.Option(help="Number of rounds at 1,024 tokens; longer lengths have fewer, but at least 5.")
    ] = 30,
    threads: Annotated[int, typer.Option(help="Number of threads of torch; 0 does not change it.")] = 0,
    longest: Annotated[int, typer.Option(help="Lengths above this number of tokens are left out.")] = 131_072,
    cpu_time: Annotated[bool, typer.Option(help="Compare CPU time instead of the clock's.")] = False,
) -> None:
    """Prints the times of all contenders at all lengths, and how many times faster LAVO is."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, batch 1, {NUM_HEADS} heads of {HEAD_DIM}, "
        f"{'CPU time' if cpu_time else 'clock'}, load {os.getloadavg()[0]:.1f} at the start"
    )
    forms = {"exact": exact, "lavo": lavo(), "lavo, learned basis": lavo(basis="learned")}
    for mode, length in POINTS:
        if length > longest:
            continue
        steps = {name: step(attend, mode, length) for name, attend in forms.items()}
        seconds_of = cpu_seconds if cpu_time else timing.call_seconds
        seconds = interleaved(steps, rounds=max(5, rounds * 1024 // length), seconds_of=seconds_of)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            ratio = "" if name == "exact" else f"  {median['exact'] / median[name]:6.1f} times as fast as exact"
            print(f"{mode:17} {length:6} tokens  {name:19} {milliseconds(values)}{ratio}", flush=True)


if __name__ == "__main__":
    typer.run(main)
