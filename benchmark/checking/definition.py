"""Checks that an attention computes the function it says it is: definition, gradients, causality, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from benchmark.checking.subject import (
    BATCH,
    HEAD_DIM,
    Broken,
    Measurement,
    Measurements,
    NotApplicable,
    Subject,
    close,
    finite,
    gradients_of,
    padding_contents,
    padding_masks,
    same,
    weighted_sum,
)


def shape_and_dtype(subject: Subject) -> Measurements:
    """The output has the shape, dtype and device of q, also where the inputs' precision is below the parameters'."""
    for dtype, parameters in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        module = subject.build(parameters)
        target, source = (7, 5) if subject.is_cross else (7, 7)
        inputs = subject.inputs(target, source, dtype=dtype)
        results = [("forward", module(*inputs))]
        if subject.pattern.startswith("causal"):
            subject.must_stream()
            results.append(("streamed", subject.stream(module, inputs, (4, 1, 2))))
        for way, out in results:
            what = f"{way}, {str(dtype).removeprefix('torch.')} inputs"
            if (out.shape, out.dtype, out.device) != (inputs[0].shape, dtype, inputs[0].device):
                raise Broken(f"{what}: gives {tuple(out.shape)} {out.dtype}, q is {tuple(inputs[0].shape)} {dtype}")
            yield Measurement(what, 0.0, 0.0)


def oracle(subject: Subject) -> Measurements:
    """``forward`` is the attention's own ``definition``, in float64, with and without padding."""
    module = subject.build()
    definition = _definition(module)
    for target, source in subject.shapes(module):
        inputs = subject.inputs(target, source, batch=1)
        yield close(f"{target} queries, {source} keys", module(*inputs), definition(*inputs))
    for place, mask in padding_masks(97, subject.device):
        q, k, v = subject.inputs(97, batch=len(mask))
        real = torch.ones_like(mask) if subject.is_cross else ~mask
        result, expected = (call(q, k, v, key_padding_mask=mask).transpose(1, 2) for call in (module, definition))
        yield close(place, result[real], expected[real])


def _definition(module: Any) -> Callable[..., Tensor]:
    if not callable(getattr(module, "definition", None)):
        raise NotApplicable("declares no definition()")
    return module.definition


def exact(subject: Subject) -> Measurements:
    """What declares itself exact is softmax attention, in float64."""
    if not getattr(subject.cls, "exact", False):
        raise NotApplicable("doesn't declare itself exact")
    module = subject.build()
    for target, source in subject.shapes(module):
        q, k, v = subject.inputs(target, source)
        scores = einsum(q, k, "b h n d, b h m d -> b h n m") * HEAD_DIM**-0.5
        if subject.pattern == "causal_self":
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        yield close(f"{target} queries, {source} keys", module(q, k, v), scores.softmax(-1) @ v)


def gradients(subject: Subject) -> Measurements:
    """Gradients of inputs and parameters are the definition's; without one, those of finite differences."""
    module = subject.build()
    if not callable(getattr(module, "definition", None)):
        yield from _finite_differences(subject, module)
        return
    for length in (7, 65, 130):
        inputs = subject.inputs(length, batch=2)
        ways = (gradients_of(call, inputs, module.parameters()) for call in (module, module.definition))
        names = ["q", "k", "v", *(name for name, _ in module.named_parameters())]
        for name, result, expected in zip(names, *ways, strict=True):
            yield close(f"to {name}, length {length}", result, expected)


def _finite_differences(subject: Subject, module: Any) -> Measurements:
    shape = (7, 5) if subject.is_cross else (7, 7)
    inputs, direction = subject.inputs(*shape, batch=1), subject.inputs(*shape, batch=1, seed=5)
    analytic = gradients_of(module, inputs)
    step = 1e-6  # in float64 the rounding and the curvature are then both about 1e-9 of the slope
    for index, name in enumerate("qkv"):
        ahead, behind = list(inputs), list(inputs)
        ahead[index], behind[index] = (inputs[index] + sign * step * direction[index] for sign in (1, -1))
        slope = (weighted_sum(module(*ahead)) - weighted_sum(module(*behind))) / (2 * step)
        difference = ((analytic[index] * direction[index]).sum() - slope).abs() / slope.abs().clamp_min(1.0)
        yield Measurement(f"to {name}, finite differences", difference.item(), 1e-6)


def causality(subject: Subject) -> Measurements:
    """What comes later, noise or 1e4 times larger, changes no output, not by one bit; nor has it a gradient."""
    if not subject.pattern.startswith("causal"):
        raise NotApplicable("the pattern is noncausal")
    # What is later than query t: all of q, k and v in self-attention, queries alone in front of a finished source.
    moved = (0,) if subject.is_cross else (0, 1, 2)
    module = subject.build(torch.float32)
    inputs = subject.inputs(150, dtype=torch.float32)
    before = module(*inputs)
    for seen in (1, 40, 64, 129):
        for what, scale in (("noise", 1.0), ("noise of 1e4", 1e4)):
            noise = subject.inputs(150, dtype=torch.float32, seed=7)
            changed = [x.clone() for x in inputs]
            for index in moved:
                changed[index][:, :, seen:] = noise[index][:, :, seen:] * scale
            after = module(*changed)[:, :, :seen]
            yield same(f"{what} after token {seen}", after, before[:, :, :seen])
        slopes = gradients_of(lambda *x, seen=seen: module(*x)[:, :, :seen], inputs)
        for index in moved:
            later = slopes[index][:, :, seen:]
            yield same(f"gradient to {'qkv'[index]} after token {seen}", later, torch.zeros_like(later))


def padding(subject: Subject) -> Measurements:
    """The result at real positions is that of the sequence without its padded tokens, whatever those hold."""
    module = subject.build()
    length = 97
    for place, mask in padding_masks(length, subject.device):
        inputs = subject.inputs(length, batch=len(mask))
        expected = [_without_padding(subject, module, inputs, mask, row) for row in range(len(mask))]
        contents = [padding_contents(x) for x in inputs]
        for content in contents[0]:
            filled = _fill(subject, inputs, [each[content] for each in contents], mask)
            out = module(*filled, key_padding_mask=mask)
            for row, wanted in enumerate(expected):
                yield close(f"{place}, {content}", _real(subject, out, mask, row), wanted)


def padding_gradients(subject: Subject) -> Measurements:
    """Padded tokens get no gradient, and the real ones that of the sequence without padding."""
    module = subject.build()
    for place, mask in padding_masks(70, subject.device):
        inputs = subject.inputs(70, batch=len(mask))
        filled = _fill(subject, inputs, [padding_contents(x)["noise of 1e4"] for x in inputs], mask)
        for row in range(len(mask)):
            real = ~mask[row]

            def padded(*x: Tensor, mask: Tensor = mask, row: int = row) -> Tensor:
                return _real(subject, module(*x, key_padding_mask=mask), mask, row)

            def bare(*x: Tensor, mask: Tensor = mask, row: int = row) -> Tensor:
                return _without_padding(subject, module, x, mask, row)

            ways = zip("qkv", gradients_of(padded, filled), gradients_of(bare, inputs), strict=True)
            for name, result, expected in ways:
                kept = slice(None) if name == "q" and subject.is_cross else real
                yield close(f"{place}, to {name}", result[row][:, kept], expected[row][:, kept])
                if kept is real:
                    lost = result[row][:, ~real]
                    yield same(f"{place}, to padded {name}", lost, torch.zeros_like(lost))


def _fill(subject: Subject, inputs: Sequence[Tensor], contents: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """The inputs with padded places overwritten; the queries of a cross-attention have none."""
    filled = [torch.where(mask[:, None, :, None], fill, x) for x, fill in zip(inputs, contents, strict=True)]
    return [inputs[0], *filled[1:]] if subject.is_cross else filled


def _real(subject: Subject, out: Tensor, mask: Tensor, row: int) -> Tensor:
    return out[row] if subject.is_cross else out[row][:, ~mask[row]]


def _without_padding(subject: Subject, module: Any, inputs: Sequence[Tensor], mask: Tensor, row: int) -> Tensor:
    """The output for one row alone with its padded tokens taken out."""
    q, k, v = (x[row : row + 1] for x in inputs)
    real = ~mask[row]
    return module(q if subject.is_cross else q[:, :, real], k[:, :, real], v[:, :, real])[0]


def empty_context(subject: Subject) -> Measurements:
    """A query without any visible key gives zeros with zero gradients, and leaves the other rows as they were."""
    module = subject.build()
    inputs = subject.inputs(70)
    mask = torch.zeros(BATCH, 70, dtype=torch.bool, device=subject.device)
    mask[1] = True

    def masked(*x: Tensor) -> Tensor:
        return module(*x, key_padding_mask=mask)

    out = masked(*inputs)
    yield same("a row that is all padding", out[1], torch.zeros_like(out[1]))
    yield close("the rows beside it", out[[0, 2]], module(*inputs)[[0, 2]])
    slopes = gradients_of(masked, inputs)
    yield finite("gradients of the batch", *slopes)
    for name, slope in zip("qkv", slopes, strict=True):
        yield same(f"gradient to {name} of that row", slope[1], torch.zeros_like(slope[1]))
    if subject.pattern == "causal_self":
        mask[1], mask[0, :9] = False, True
        lost = masked(*inputs)[0, :, :9]
        yield same("queries before the first real token", lost, torch.zeros_like(lost))
    if subject.pattern == "causal_cross":
        subject.must_stream()
        out = subject.stream(module, inputs, (1, 69), mask)
        yield same("read from a source that is all padding", out[1], torch.zeros_like(out[1]))
    if subject.is_cross:
        q, k, v = inputs
        out = module(q, k[:, :, :0], v[:, :, :0])
        yield same("a source of length 0", out, torch.zeros_like(q))


def batch_invariance(subject: Subject) -> Measurements:
    """A sample alone and in a batch give the same, whatever its neighbours hold."""
    module = subject.build()
    inputs = subject.inputs(70)
    alone = [module(*(x[row : row + 1] for x in inputs))[0] for row in range(BATCH)]
    for row, expected in enumerate(alone):
        for what, scale in (("its neighbours", 1.0), ("neighbours of 1e4", 1e4)):
            scaled = [x * scale for x in inputs]
            for x, whole in zip(inputs, scaled, strict=True):
                whole[row] = x[row]
            yield close(f"beside {what}", module(*scaled)[row], expected)
