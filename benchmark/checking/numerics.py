"""Checks of lengths, precision, large and long inputs, determinism, and of tensors as they lie in memory."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.checking.subject import (
    BATCH,
    TOLERANCES,
    Broken,
    Measurements,
    Subject,
    close,
    finite,
    gradients_of,
    padding_masks,
    same,
)


def lengths(subject: Subject) -> Measurements:
    """Lengths beside every boundary work in float32, agree with float64, and keep the queries' length."""
    single, double = subject.build(torch.float32), subject.build()
    for target, source in subject.shapes(single):
        inputs = subject.inputs(target, source, dtype=torch.float32)
        out, where = single(*inputs), f"{target} queries, {source} keys"
        if out.shape != inputs[0].shape:
            raise Broken(f"{where}: gives {tuple(out.shape)}, q is {tuple(inputs[0].shape)}")
        yield close(where, out, double(*(x.double() for x in inputs)))


def precision(subject: Subject) -> Measurements:
    """Sums over 2,600 tokens (1,300 where the state isn't linear) are kept in float32 at least, in the state as well."""
    length = 2600 if subject.linear_state else 1300  # a float16 sum of ones stops at 2,048, one in bfloat16 at 256
    ramp = torch.linspace(0, 2, length)[:, None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = subject.inputs(64 if subject.is_cross else length, length, batch=1, dtype=dtype)
        inputs = [(x * 0.1).to(dtype) for x in inputs]  # nearly equal weights, so that all terms count
        inputs[2] = (inputs[2] + ramp.to(inputs[2])).to(dtype)
        expected = subject.build(max_length=length)(*(x.double() for x in inputs))
        module = subject.build(torch.float32, max_length=length)
        yield close(f"forward, {str(dtype).removeprefix('torch.')} inputs", module(*inputs), expected, dtype)
        if subject.pattern.startswith("causal"):
            subject.must_stream()
            whole, left = divmod(inputs[0].shape[2], 20)
            out = subject.stream(module, inputs, [20] * whole + [left])
            yield close(f"streamed, {str(dtype).removeprefix('torch.')} inputs", out, expected, dtype)


def long_inputs(subject: Subject) -> Measurements:
    """Constant inputs of 65,536 tokens (2,048 where the state isn't linear): finite, and the value that is known."""
    length = 65_536 if subject.linear_state else 2048
    double = subject.build(max_length=length)

    def constant(n: int, dtype: torch.dtype) -> list[Tensor]:
        row = subject.inputs(1, batch=1)
        return [x.expand(-1, -1, size, -1).to(dtype) for x, size in zip(row, (8 if subject.is_cross else n, n, n))]  # noqa: B905

    few = constant(5, torch.float64)
    averages = close("", double(*few), few[2][:, :, :1].expand_as(few[0])).difference <= TOLERANCES[torch.float64]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = constant(length, dtype)
        out = subject.build(torch.float32, max_length=length)(*inputs)
        # A mechanism that averages gives back the constant; any other is held against itself in float64.
        expected = inputs[2][:, :, :1].expand_as(inputs[0]) if averages else double(*(x.double() for x in inputs))
        measured = close(f"{length} tokens, {str(dtype).removeprefix('torch.')}", out, expected)
        # Rounding of a sum grows with its terms: three times what some hundred terms are allowed in float32.
        yield measured if dtype == torch.bfloat16 else measured._replace(limit=3 * measured.limit)


def large_inputs(subject: Subject) -> Measurements:
    """Queries and keys 30 times larger than usual give finite outputs and gradients in float32."""
    module = subject.build(torch.float32)
    q, k, v = subject.inputs(70, dtype=torch.float32)
    yield finite("outputs", module(q * 30, k * 30, v))
    yield finite("gradients", *gradients_of(module, [q * 30, k * 30, v]))


def determinism(subject: Subject) -> Measurements:
    """One seed gives one module, and in evaluation two calls are equal to the last bit."""
    inputs = subject.inputs(70, dtype=torch.float32)
    module = subject.build(torch.float32)
    first = module(*inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield same("a second call", module(*inputs), first)
    yield same("a second module of the same seed", subject.build(torch.float32)(*inputs), first)


def state_dict(subject: Subject) -> Measurements:
    """A module of another seed that loads the saved state gives the same to the last bit."""
    inputs = subject.inputs(70, dtype=torch.float32)
    saved, other = subject.build(torch.float32, seed=1), subject.build(torch.float32, seed=2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    yield same("after loading", other(*inputs), saved(*inputs))


def strides(subject: Subject) -> Measurements:
    """Tensors that aren't contiguous give what contiguous ones give."""
    module = subject.build()
    inputs = subject.inputs(70)
    expected = module(*inputs)
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "heads split from (batch, length, embed_dim)": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "every second of a wider head": lambda x: x.repeat_interleave(2, -1)[..., ::2],
        "length last in memory": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for what, layout in layouts.items():
        yield close(what, module(*(layout(x) for x in inputs)), expected)
    row = [x[:1].expand(BATCH, -1, -1, -1) for x in inputs]
    yield close("one row expanded to a batch", module(*row), expected[:1].expand(BATCH, -1, -1, -1))


def inputs_untouched(subject: Subject) -> Measurements:
    """Inputs and mask hold afterwards what they held before."""
    module = subject.build()
    mask = next(padding_masks(70, subject.device))[1]
    given = [*subject.inputs(70), mask]
    before = [x.clone() for x in given]
    module(*given[:3], key_padding_mask=mask)
    ways = ["forward"]
    if subject.pattern.startswith("causal"):
        subject.must_stream()
        subject.stream(module, given[:3], (1, 69), mask)
        ways.append("streamed")
    for name, after, was in zip(("q", "k", "v", "the mask"), given, before, strict=True):
        yield same(f"{name}, {' and '.join(ways)}", after, was)
