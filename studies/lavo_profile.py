"""Shows where the time of a LAVO call goes on this machine: ``python -m studies.lavo_profile``.

It prints the time of matrix products, softmaxes and the rest, from torch's profiler.  It compares the rate of the products
with the peak rate of the machine, measured in the same run.  It also prints the time to decode one token after contexts of
several lengths, and for comparison the time of one linear projection as wide as the layer.  This time is the mean over the
64 tokens of a window, which all continue from the token before.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmark.measuring.memory import keep_freed_memory
from benchmark.measuring.operations import count_operations
from benchmark.measuring.peaks import measure_peaks
from studies.versus_exact import HEAD_DIM, NUM_HEADS, Step, interleaved, lavo, step

CALLS = 10
CONTEXTS = (1024, 16_384, 131_072)
KINDS = {  # kind -> names of operators
    "products": ("bmm", "baddbmm", "addmm", "mm"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "elementwise": ("mul", "add", "sub", "addcmul", "div", "exp", "sigmoid", "fill", "zero", "copy", "reciprocal"),
    "sums and maxima": ("sum", "amax", "cumsum", "log", "arange"),
}


def shares(call: Any, calls: int) -> dict[str, float]:
    """Returns the milliseconds of one call for each kind of operator, on the calling thread.

    calls: the number of calls over which the mean is taken.
    """
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(calls):
            call()
    found = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiler.key_averages():
        found[_kind(event.key)] += event.self_cpu_time_total / 1e3 / calls
    return found


def _kind(operator: str) -> str:
    name = operator.removeprefix("aten::").rstrip("_")
    return next((kind for kind, names in KINDS.items() if name in {x.rstrip("_") for x in names}), "other")


def products(length: int, mode: str, basis: str, peak: float) -> None:
    """Prints a line: where the time of a call goes, and at what rate its products run.

    peak: the machine's rate of matrix products, in operations a second.
    """
    call = step(lavo(basis=basis), mode, length)
    found = shares(call, max(3, CALLS * 1024 // length))
    operations = count_operations(call) or 0
    rate = operations / (found["products"] / 1e3)
    parts = ", ".join(f"{kind} {value:.2f}" for kind, value in found.items())
    print(
        f"{mode:17} {length:6} tokens  basis {basis:8}  ms by kind: {parts}; {operations / 1e9:.3g} GFLOP in products at "
        f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / peak:.0f} % of the machine's",
        flush=True,
    )


@torch.no_grad()
def decoding(basis: str) -> None:
    """Prints a line for each length of context: the time of one more token, and of a projection of the layer's width."""
    attention = lavo(basis=basis)
    width = NUM_HEADS * HEAD_DIM
    x, weight = torch.randn(1, width), torch.randn(width, width)
    for context in CONTEXTS:
        state = attention.init_state(1, device="cpu", dtype=torch.float32)
        chunk = torch.randn(1, NUM_HEADS, 1024, HEAD_DIM)
        for _ in range(context // 1024):
            _, state = attention.extend(chunk, chunk, chunk, state)
        token = torch.randn(1, NUM_HEADS, 1, HEAD_DIM)
        steps: dict[str, Step] = {
            "lavo": partial(decode_window, attention, token, state),
            "projection": lambda: [F.linear(x, weight) for _ in range(attention.window)],
        }
        found = interleaved(steps, rounds=50, turn_seconds=0.02)
        seconds = {name: statistics.median(values) / attention.window for name, values in found.items()}
        print(
            f"decode            {context:6} tokens  basis {basis:8}  {1e6 * seconds['lavo']:.0f} us a token, a projection "
            f"{width} wide {1e6 * seconds['projection']:.0f} us: {seconds['lavo'] / seconds['projection']:.1f} times",
            flush=True,
        )


def decode_window(attention: Any, token: Tensor, state: Any) -> None:
    """Decodes as many tokens, one after the other, as a window has.  token: (1, heads, 1, head_dim)."""
    for _ in range(attention.window):
        _, state = attention.extend(token, token, token, state)


def main(threads: Annotated[int, typer.Option(help="Number of threads of torch; 0 does not change it.")] = 0) -> None:
    """Prints the peak rate of the machine, then the lines of ``products`` and ``decoding``."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    peak = measure_peaks(torch.device("cpu"), torch.float32).flops_per_second
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, batch 1, {NUM_HEADS} heads of {HEAD_DIM}; "
        f"matrix product of this machine: {peak / 1e9:.0f} GFLOP/s"
    )
    for basis in ("identity", "learned"):
        for mode in ("forward", "forward+backward"):
            for length in (1024, 16_384):
                products(length, mode, basis, peak)
        decoding(basis)


if __name__ == "__main__":
    typer.run(main)
