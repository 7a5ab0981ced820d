"""Checks that an output does not depend on future tokens, on padding, or on the other samples of its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.checking.measurement import Measurements, NotApplicable, close, finite, gradients_of, same
from benchmark.checking.subject import BATCH, NUM_HEADS, Subject


def causality(subject: Subject) -> Measurements:
    """Checks that later tokens, however large, change no bit of an earlier output and get no gradient from it."""
    if not subject.is_causal:
        raise NotApplicable("the pattern is noncausal")
    # In self-attention, the later tokens of q, k and v are changed.  A query of a cross-attention may see the whole source, so
    # there only later queries are changed.
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
    """Checks that outputs at real positions equal those without the padded tokens, whatever values these have."""
    module = subject.build()
    for place, mask in subject.padding_masks(97):
        inputs = subject.inputs(97, batch=len(mask))
        expected = [_without_padding(subject, module, inputs, mask, row) for row in range(len(mask))]
        contents = [_padding_contents(x) for x in inputs]
        for content in contents[0]:
            filled = _fill(subject, inputs, [each[content] for each in contents], mask)
            out = module(*filled, key_padding_mask=mask)
            for row, wanted in enumerate(expected):
                yield close(f"{place}, {content}", _real(subject, out, mask, row), wanted)


def padding_gradients(subject: Subject) -> Measurements:
    """Checks that padded tokens get no gradient, and real tokens the same gradient as in the sequence without padding."""
    module = subject.build()
    for place, mask in subject.padding_masks(70):
        inputs = subject.inputs(70, batch=len(mask))
        filled = _fill(subject, inputs, [_padding_contents(x)["noise of 1e4"] for x in inputs], mask)
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


def _padding_contents(x: Tensor) -> dict[str, Tensor]:
    """Returns named tensors of the shape of x, with values at padded positions that must have no effect."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).to(x)
    return {
        "zeros": torch.zeros_like(x),
        "noise": noise,
        "noise of 1e4": noise * 1e4,
        "NaN": torch.full_like(x, math.nan),
        "infinity": torch.full_like(x, math.inf),
    }


def _fill(subject: Subject, inputs: Sequence[Tensor], contents: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Returns the inputs with ``contents`` at their padded positions.  Queries of a cross-attention have no padding."""
    filled = [torch.where(mask[:, None, :, None], fill, x) for x, fill in zip(inputs, contents, strict=True)]
    return [inputs[0], *filled[1:]] if subject.is_cross else filled


def _real(subject: Subject, out: Tensor, mask: Tensor, row: int) -> Tensor:
    """Returns one row of the output at its real positions."""
    return out[row] if subject.is_cross else out[row][:, ~mask[row]]


def _without_padding(subject: Subject, module: Any, inputs: Sequence[Tensor], mask: Tensor, row: int) -> Tensor:
    """Returns the output for one row alone, with its padded tokens removed."""
    q, k, v = (x[row : row + 1] for x in inputs)
    real = ~mask[row]
    return module(q if subject.is_cross else q[:, :, real], k[:, :, real], v[:, :, real])[0]


def empty_context(subject: Subject) -> Measurements:
    """Checks that a query that sees no key gives zeros with zero gradients, and does not change other rows of the batch."""
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
    if subject.is_cross and subject.streams:
        out = subject.stream(module, inputs, (1, 69), mask)
        yield same("read from a source that is all padding", out[1], torch.zeros_like(out[1]))
    if subject.is_cross:
        q, k, v = inputs
        out = module(q, k[:, :, :0], v[:, :, :0])
        yield same("a source of length 0", out, torch.zeros_like(q))


def heads(subject: Subject) -> Measurements:
    """Checks that a head's output follows its own queries, keys and values, and none of another head."""
    if getattr(subject.cls, "mixes_heads", False):
        raise NotApplicable("declares that it mixes heads")
    module = subject.build()
    inputs = subject.inputs(70)
    expected = module(*inputs)
    for index, name in enumerate("qkv"):
        for head in range(NUM_HEADS):
            changed = [x.clone() for x in inputs]
            others = [other for other in range(NUM_HEADS) if other != head]
            changed[index][:, others] = subject.inputs(70, seed=12)[index][:, others]
            yield close(f"{name} of other heads than {head}", module(*changed)[:, head], expected[:, head])


def batch_invariance(subject: Subject) -> Measurements:
    """Checks that a sample gives the same output alone and in a batch, whatever values its neighbours have."""
    module = subject.build()
    inputs = subject.inputs(70)
    alone = [module(*(x[row : row + 1] for x in inputs))[0] for row in range(BATCH)]
    for row, expected in enumerate(alone):
        for what, scale in (("its neighbours", 1.0), ("neighbours of 1e4", 1e4)):
            scaled = [x * scale for x in inputs]
            for x, whole in zip(inputs, scaled, strict=True):
                whole[row] = x[row]
            yield close(f"beside {what}", module(*scaled)[row], expected)
