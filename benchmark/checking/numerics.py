"""Checks of numerical results: all lengths, low precision, long and large inputs, and equal results on every run."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from benchmark.checking.measurement import TOLERANCES, Broken, Measurements, close, finite, gradients_of, same
from benchmark.checking.subject import Subject


def lengths(subject: Subject) -> Measurements:
    """Checks that lengths just below, at and above each block size of the mechanism work in float32 as in float64."""
    module32, module64 = subject.build(torch.float32), subject.build()
    for num_queries, num_keys in subject.shapes(module32):
        inputs = subject.inputs(num_queries, num_keys, dtype=torch.float32)
        out, where = module32(*inputs), f"{num_queries} queries, {num_keys} keys"
        if out.shape != inputs[0].shape:
            raise Broken(f"{where}: gives {tuple(out.shape)}, q is {tuple(inputs[0].shape)}")
        yield close(where, out, module64(*(x.double() for x in inputs)))


def precision(subject: Subject) -> Measurements:
    """Checks that sums over tokens are accumulated in float32 or better, in the streaming state as well."""
    # A sum of ones stops growing at 256 in bfloat16 and at 2,048 in float16, so 2,600 tokens show both.  If the state grows with
    # the length, streaming is expensive, and 1,300 tokens must do.  A float16 sum shows there in the values: their sum is then off
    # by 3 %, and the limit is 0.5 %.
    length = 2600 if subject.linear_state else 1300
    # Added to the values, so that their mean changes from token to token, and a sum that stops growing gives a wrong mean.
    ramp = torch.linspace(0, 2, length)[:, None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = subject.inputs(64 if subject.is_cross else length, length, batch=1, dtype=dtype)
        inputs = [(x * 0.1).to(dtype) for x in inputs]  # gives nearly equal weights, so that every token counts
        inputs[2] = (inputs[2] + ramp.to(inputs[2])).to(dtype)
        expected = subject.build(max_length=length)(*(x.double() for x in inputs))
        module = subject.build(torch.float32, max_length=length)
        yield close(f"forward, {str(dtype).removeprefix('torch.')} inputs", module(*inputs), expected, dtype)
        if subject.streams:
            whole, left = divmod(inputs[0].shape[2], 20)
            out = subject.stream(module, inputs, [20] * whole + [left])
            yield close(f"streamed, {str(dtype).removeprefix('torch.')} inputs", out, expected, dtype)


def long_inputs(subject: Subject) -> Measurements:
    """Checks that constant inputs of 65,536 tokens (2,048 if the state grows with the length) give the known output."""
    length = 65_536 if subject.linear_state else 2048
    module64 = subject.build(max_length=length)

    def constant(n: int, dtype: torch.dtype) -> list[Tensor]:
        """Returns q, k and v that repeat one token n times (in a cross-attention, q repeats it 8 times)."""
        num_queries = 8 if subject.is_cross else n
        row = subject.inputs(1, batch=1)
        return [x.expand(-1, -1, size, -1).to(dtype) for x, size in zip(row, (num_queries, n, n), strict=True)]

    # Whether the mechanism returns an average of the values, so that equal values come out unchanged.  Tried with 5 tokens.
    short = constant(5, torch.float64)
    off = close("", module64(*short), short[2][:, :, :1].expand_as(short[0])).difference
    averages = off <= TOLERANCES[torch.float64]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = constant(length, dtype)
        out = subject.build(torch.float32, max_length=length)(*inputs)
        # An average of equal values is this value.  Any other mechanism is compared with itself in float64.
        expected = inputs[2][:, :, :1].expand_as(inputs[0]) if averages else module64(*(x.double() for x in inputs))
        measured = close(f"{length} tokens, {str(dtype).removeprefix('torch.')}", out, expected)
        # The rounding error of a sum grows with the number of its terms, so float32 gets three times the usual limit.
        yield measured if dtype == torch.bfloat16 else measured._replace(limit=3 * measured.limit)


def large_inputs(subject: Subject) -> Measurements:
    """Checks that queries and keys 30 times larger than usual give finite outputs and gradients in float32."""
    module = subject.build(torch.float32)
    q, k, v = subject.inputs(70, dtype=torch.float32)
    yield finite("outputs", module(q * 30, k * 30, v))
    yield finite("gradients", *gradients_of(module, [q * 30, k * 30, v]))


def determinism(subject: Subject) -> Measurements:
    """Checks that a seed always builds the same module, and that two calls in evaluation mode give the same bits."""
    inputs = subject.inputs(70, dtype=torch.float32)
    module = subject.build(torch.float32)
    first = module(*inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)  # another state of the generator, so that a call that draws random numbers shows
        yield same("a second call", module(*inputs), first)
    yield same("a second module of the same seed", subject.build(torch.float32)(*inputs), first)


def state_dict(subject: Subject) -> Measurements:
    """Checks that a module from another seed gives the same output, to the last bit, after it has loaded a saved state."""
    inputs = subject.inputs(70, dtype=torch.float32)
    saved, other = subject.build(torch.float32, seed=1), subject.build(torch.float32, seed=2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    yield same("after loading", other(*inputs), saved(*inputs))
