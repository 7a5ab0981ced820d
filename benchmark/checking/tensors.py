"""Checks of input and output tensors: shape and dtype, memory layout, and inputs that must stay unchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.checking.measurement import Broken, Measurement, Measurements, close, same
from benchmark.checking.subject import BATCH, Subject


def shape_and_dtype(subject: Subject) -> Measurements:
    """Checks that the output has the shape, dtype and device of q, also if q is less precise than the parameters."""
    for dtype, parameters in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        module = subject.build(parameters)
        num_queries, num_keys = (7, 5) if subject.is_cross else (7, 7)
        inputs = subject.inputs(num_queries, num_keys, dtype=dtype)
        results = [("forward", module(*inputs))]
        if subject.streams:
            results.append(("streamed", subject.stream(module, inputs, (4, 1, 2))))
        for way, out in results:
            what = f"{way}, {str(dtype).removeprefix('torch.')} inputs"
            if (out.shape, out.dtype, out.device) != (inputs[0].shape, dtype, inputs[0].device):
                raise Broken(f"{what}: gives {tuple(out.shape)} {out.dtype}, q is {tuple(inputs[0].shape)} {dtype}")
            yield Measurement(what, 0.0, 0.0)


def strides(subject: Subject) -> Measurements:
    """Checks that tensors that aren't contiguous give the same output as contiguous ones."""
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
    """Checks that a call leaves its inputs and its mask unchanged."""
    module = subject.build()
    mask = next(subject.padding_masks(70))[1]
    given = [*subject.inputs(70), mask]
    before = [x.clone() for x in given]
    module(*given[:3], key_padding_mask=mask)
    ways = ["forward"]
    if subject.streams:
        subject.stream(module, given[:3], (1, 69), mask)
        ways.append("streamed")
    for name, after, was in zip(("q", "k", "v", "the mask"), given, before, strict=True):
        yield same(f"{name}, {' and '.join(ways)}", after, was)
