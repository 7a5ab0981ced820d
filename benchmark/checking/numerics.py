"""Checks of numerical results: any length, low precision, long and large inputs, and the same result on every run."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from benchmark.checking.measurement import TOLERANCES, Broken, Measurements, close, finite, gradients_of, same
from benchmark.checking.subject import Subject


def lengths(subject: Subject) -> Measurements:
    """Lengths around every boundary work in float32, agree with float64, and give as many outputs as queries."""
    single, double = subject.build(torch.float32), subject.build()
    for target, source in subject.shapes(single):
        inputs = subject.inputs(target, source, dtype=torch.float32)
        out, where = single(*inputs), f"{target} queries, {source} keys"
        if out.shape != inputs[0].shape:
            raise Broken(f"{where}: gives {tuple(out.shape)}, q is {tuple(inputs[0].shape)}")
        yield close(where, out, double(*(x.double() for x in inputs)))


def precision(subject: Subject) -> Measurements:
    """Sums over 2,600 tokens (1,300 if the state isn't linear) are kept in float32 at least, in the state as well."""
    length = 2600 if subject.linear_state else 1300  # a sum of ones stops at 2,048 in float16 and at 256 in bfloat16
    ramp = torch.linspace(0, 2, length)[:, None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = subject.inputs(64 if subject.is_cross else length, length, batch=1, dtype=dtype)
        inputs = [(x * 0.1).to(dtype) for x in inputs]  # nearly equal weights, so that all terms count
        inputs[2] = (inputs[2] + ramp.to(inputs[2])).to(dtype)
        expected = subject.build(max_length=length)(*(x.double() for x in inputs))
        module = subject.build(torch.float32, max_length=length)
        yield close(f"forward, {str(dtype).removeprefix('torch.')} inputs", module(*inputs), expected, dtype)
        if subject.is_causal:
            subject.must_stream()
            whole, left = divmod(inputs[0].shape[2], 20)
            out = subject.stream(module, inputs, [20] * whole + [left])
            yield close(f"streamed, {str(dtype).removeprefix('torch.')} inputs", out, expected, dtype)


def long_inputs(subject: Subject) -> Measurements:
    """Constant inputs of 65,536 tokens (2,048 if the state isn't linear) give finite outputs with the known value."""
    length = 65_536 if subject.linear_state else 2048
    double = subject.build(max_length=length)

    def constant(n: int, dtype: torch.dtype) -> list[Tensor]:
        """q, k and v that repeat one token n times (q 8 times in a cross-attention)."""
        num_queries = 8 if subject.is_cross else n
        row = subject.inputs(1, batch=1)
        return [x.expand(-1, -1, size, -1).to(dtype) for x, size in zip(row, (num_queries, n, n), strict=True)]

    few = constant(5, torch.float64)
    averages = close("", double(*few), few[2][:, :, :1].expand_as(few[0])).difference <= TOLERANCES[torch.float64]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = constant(length, dtype)
        out = subject.build(torch.float32, max_length=length)(*inputs)
        # A mechanism that averages returns the constant; any other is compared with itself in float64.
        expected = inputs[2][:, :, :1].expand_as(inputs[0]) if averages else double(*(x.double() for x in inputs))
        measured = close(f"{length} tokens, {str(dtype).removeprefix('torch.')}", out, expected)
        # The rounding error of a sum grows with the number of its terms, so float32 gets three times the usual limit.
        yield measured if dtype == torch.bfloat16 else measured._replace(limit=3 * measured.limit)


def large_inputs(subject: Subject) -> Measurements:
    """Queries and keys 30 times larger than usual give finite outputs and gradients in float32."""
    module = subject.build(torch.float32)
    q, k, v = subject.inputs(70, dtype=torch.float32)
    yield finite("outputs", module(q * 30, k * 30, v))
    yield finite("gradients", *gradients_of(module, [q * 30, k * 30, v]))


def determinism(subject: Subject) -> Measurements:
    """The same seed builds the same module, and two calls in evaluation mode are equal to the last bit."""
    inputs = subject.inputs(70, dtype=torch.float32)
    module = subject.build(torch.float32)
    first = module(*inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield same("a second call", module(*inputs), first)
    yield same("a second module of the same seed", subject.build(torch.float32)(*inputs), first)


def state_dict(subject: Subject) -> Measurements:
    """A module built from another seed gives the same output, to the last bit, once it has loaded the saved state."""
    inputs = subject.inputs(70, dtype=torch.float32)
    saved, other = subject.build(torch.float32, seed=1), subject.build(torch.float32, seed=2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    yield same("after loading", other(*inputs), saved(*inputs))
