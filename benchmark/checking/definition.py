"""Checks of an attention's outputs and gradients against its definition."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import einsum

from benchmark.checking.measurement import (
    Measurement,
    Measurements,
    NotApplicable,
    close,
    gradients_of,
    weighted_sum,
)
from benchmark.checking.subject import HEAD_DIM, Subject


def oracle(subject: Subject) -> Measurements:
    """Checks that ``forward`` equals the attention's own ``definition`` in float64, with and without padding."""
    module = subject.build()
    if not _has_definition(module):
        raise NotApplicable("declares no definition()")
    for num_queries, num_keys in subject.shapes(module):
        inputs = subject.inputs(num_queries, num_keys, batch=1)
        yield close(f"{num_queries} queries, {num_keys} keys", module(*inputs), module.definition(*inputs))
    for place, mask in subject.padding_masks(97):
        q, k, v = subject.inputs(97, batch=len(mask))
        real = torch.ones_like(mask) if subject.is_cross else ~mask
        ways = (module, module.definition)
        result, expected = (call(q, k, v, key_padding_mask=mask).transpose(1, 2) for call in ways)
        yield close(place, result[real], expected[real])


def exact(subject: Subject) -> Measurements:
    """Checks that an attention which declares itself exact equals softmax attention in float64."""
    if not getattr(subject.cls, "exact", False):
        raise NotApplicable("doesn't declare itself exact")
    module = subject.build()
    for num_queries, num_keys in subject.shapes(module):
        q, k, v = subject.inputs(num_queries, num_keys)
        scores = einsum(q, k, "b h n d, b h m d -> b h n m") * HEAD_DIM**-0.5
        if subject.pattern == "causal_self":
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        yield close(f"{num_queries} queries, {num_keys} keys", module(q, k, v), scores.softmax(-1) @ v)


def equal_values(subject: Subject) -> Measurements:
    """Checks that equal values come out unchanged, with and without padding, if the class declares itself normalised."""
    if not getattr(subject.cls, "normalised", False):
        raise NotApplicable("doesn't declare itself normalised")
    module = subject.build()
    for num_queries, num_keys in subject.shapes(module):
        q, k, v = subject.inputs(num_queries, num_keys)
        v = v[:, :, :1].expand_as(v)
        yield close(f"{num_queries} queries, {num_keys} keys", module(q, k, v), v[:, :, :1].expand_as(q))
    q, k, v = subject.inputs(97)
    v = v[:, :, :1].expand_as(v)
    mask = torch.arange(97, device=subject.device).expand(len(v), -1) >= 60
    out = module(q, k, v, key_padding_mask=mask)
    yield close("padded", out[:, :, :60], v[:, :, :60])


def linear_values(subject: Subject) -> Measurements:
    """Checks that the output is linear in the values, if the class declares that."""
    if not getattr(subject.cls, "linear_values", False):
        raise NotApplicable("doesn't declare itself linear in the values")
    module = subject.build()
    for num_queries, num_keys in ((70, 70), (131, 131)):
        q, k, v = subject.inputs(num_queries, num_keys)
        other = subject.inputs(num_queries, num_keys, seed=13)[2]
        parts = module(q, k, v), module(q, k, other)
        yield close(f"{num_queries} queries", module(q, k, 2 * v - 3 * other), 2 * parts[0] - 3 * parts[1])


def gradients(subject: Subject) -> Measurements:
    """Checks that gradients equal those of the ``definition``, or finite differences if the attention has none."""
    module = subject.build()
    if not _has_definition(module):
        yield from _finite_differences(subject, module)
        return
    for length in (7, 65, 130):
        inputs = subject.inputs(length, batch=2)
        ways = (gradients_of(call, inputs, module.parameters()) for call in (module, module.definition))
        names = ["q", "k", "v", *(name for name, _ in module.named_parameters())]
        for name, result, expected in zip(names, *ways, strict=True):
            yield close(f"to {name}, length {length}", result, expected)


def _has_definition(module: Any) -> bool:
    return callable(getattr(module, "definition", None))


def _finite_differences(subject: Subject, module: Any) -> Measurements:
    """Compares the gradients of q, k and v with finite differences, each along one random direction."""
    shape = (7, 5) if subject.is_cross else (7, 7)
    inputs, direction = subject.inputs(*shape, batch=1), subject.inputs(*shape, batch=1, seed=5)
    analytic = gradients_of(module, inputs)
    # With this step, the errors from rounding in float64 and from curvature are both about 1e-9 of the slope.
    step = 1e-6
    for index, name in enumerate("qkv"):
        ahead, behind = list(inputs), list(inputs)
        ahead[index], behind[index] = (inputs[index] + sign * step * direction[index] for sign in (1, -1))
        slope = (weighted_sum(module(*ahead)) - weighted_sum(module(*behind))) / (2 * step)
        difference = ((analytic[index] * direction[index]).sum() - slope).abs() / slope.abs().clamp_min(1.0)
        yield Measurement(f"to {name}, finite differences", difference.item(), 1e-6)
