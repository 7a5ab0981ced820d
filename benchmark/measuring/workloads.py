"""The calls that a sweep times: an attention with its inputs, as a function without arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.interface import UnsupportedPattern
from benchmark.measuring import whole_model
from benchmark.measuring.points import WHOLE_MODEL, Point
from benchmark.measuring.shape import PREFILL_TOKENS, Shape, Workload
from benchmark.registry import build_attention, load_attention, takes_max_length

MODES = ("forward", "backward", "prefill", "decode", *WHOLE_MODEL)
"""What one call does:

forward       computes the outputs, without gradients
backward      computes outputs and gradients, as in a training step
prefill       reads the prompt, or the source of a cross-attention, into an empty state
decode        computes one more token after a context of the point's length
training      takes one training step of a whole model (``whole_model.py``)
checkpointed  the same, but the backward pass computes the blocks of the model again
generation    generates one more token with a whole model
"""


BY_STATE = ("prefill", "decode")
"""Modes that fill or read the state of an attention, which exists only for patterns that are run token by token."""

_STATE_METHODS = {
    "causal_self": ("init_state", "extend", "state_bytes"),
    "causal_cross": ("init_cross", "read", "state_bytes"),
}


def exists(mode: str, pattern: str) -> bool:
    """Returns whether there is such a call at all, for any attention."""
    if mode in WHOLE_MODEL:
        return pattern == "causal_self"
    return mode not in BY_STATE or pattern in _STATE_METHODS


def lacking_methods(attention: str, mode: str, pattern: str) -> list[str]:
    """Returns the streaming methods that a mode calls and the attention doesn't have."""
    cls, methods = load_attention(attention), _STATE_METHODS.get(pattern, ()) if mode in BY_STATE else ()
    return [name for name in methods if not callable(getattr(cls, name, None))]


def build_workload(shape: Shape, point: Point) -> Workload:
    """Builds module, inputs and call of a point.  Raises UnsupportedPattern if the mode doesn't exist for the pattern."""
    if point.mode in WHOLE_MODEL:
        if point.mode == "generation":
            return whole_model.generation(shape, point)
        return whole_model.training_step(shape, point, checkpointing=point.mode == "checkpointed")
    lacking = lacking_methods(point.attention, point.mode, point.pattern)
    if lacking and point.pattern not in dict(load_attention(point.attention).unsupported):
        raise UnsupportedPattern(f"{point.attention} has no {', no '.join(lacking)}")
    build = {"forward": _forward, "backward": _backward, "prefill": _prefill, "decode": _decode}[point.mode]
    return build(_module(shape, point), shape, point)


def _module(shape: Shape, point: Point) -> nn.Module:
    """Returns the attention, with parameters in float32, as in training with autocast; in float64 if the inputs are."""
    options = dict(shape.options.get(point.attention, {}))
    cls = load_attention(point.attention)
    if takes_max_length(cls):
        options.setdefault("max_length", 2 * point.length)  # the calls of "decode" lengthen the context a little
    torch.manual_seed(shape.seed)
    module = build_attention(
        point.attention, pattern=point.pattern, num_heads=shape.num_heads, head_dim=shape.head_dim, **options
    )
    dtype = torch.float64 if shape.dtype == torch.float64 else torch.float32
    return module.to(device=shape.device, dtype=dtype).train(point.mode == "backward")


def _random(shape: Shape, count: int, point: Point) -> list[Tensor]:
    """Returns ``count`` random tensors (batch, heads, length, head_dim), the same for every attention."""
    generator = torch.Generator().manual_seed(shape.seed)
    size = (point.batch, shape.num_heads, point.length, shape.head_dim)
    return [torch.randn(size, generator=generator).to(shape.device, shape.dtype) for _ in range(count)]


def _forward(module: nn.Module, shape: Shape, point: Point) -> Workload:
    q, k, v = _random(shape, 3, point)

    @torch.no_grad()
    def call() -> Tensor:
        return module(q, k, v)

    return Workload(module, call, (q, k, v), lambda: 4 * q.nbytes)


def _backward(module: nn.Module, shape: Shape, point: Point) -> Workload:
    q, k, v, gradient = _random(shape, 4, point)
    wanted = [*(x.requires_grad_() for x in (q, k, v)), *(p for p in module.parameters() if p.requires_grad)]

    def call() -> tuple[Tensor, ...]:
        # The inputs are views, because torch's counter of operations hooks a module's inputs and refuses leaves of the graph.
        out = module(q.view_as(q), k.view_as(k), v.view_as(v))
        return torch.autograd.grad(out, wanted, gradient, allow_unused=True)

    # Forward reads q, k, v and writes the output (4).  Backward reads q, k, v and the output's gradient and writes three
    # gradients (7).
    return Workload(module, call, (q, k, v, gradient), lambda: (4 + 7) * q.nbytes)


def _prefill(module: Any, shape: Shape, point: Point) -> Workload:
    """Reads ``length`` tokens into an empty state; for ``causal_self`` this also computes their outputs."""
    q, k, v = _random(shape, 3, point)

    @torch.no_grad()
    def read_prompt() -> Any:
        return module.extend(q, k, v, module.init_state(point.batch, device=shape.device, dtype=shape.dtype))

    @torch.no_grad()
    def read_source() -> Any:
        return module.init_cross(k, v)

    if point.pattern == "causal_self":
        return Workload(module, read_prompt, (q, k, v), lambda: 4 * q.nbytes)
    if point.pattern == "causal_cross":
        return Workload(module, read_source, (k, v), lambda: 2 * k.nbytes)
    raise UnsupportedPattern(f"{point.pattern} is not run token by token, so there is no state to fill")


@torch.no_grad()
def _decode(module: Any, shape: Shape, point: Point) -> Workload:
    """Reads one more token.  Every call continues from the last one, so the context grows during the measurement.

    ``sweep`` limits the number of calls so that all of them lengthen it by an eighth at most.
    """
    q, k, v = _random(shape, 3, point)
    new = tuple(x[:, :, -1:].clone() for x in (q, k, v))
    state: Any
    if point.pattern == "causal_self":
        state = module.init_state(point.batch, device=shape.device, dtype=shape.dtype)
        for start in range(0, point.length, PREFILL_TOKENS):
            part = slice(start, start + PREFILL_TOKENS)
            _, state = module.extend(q[:, :, part], k[:, :, part], v[:, :, part], state)
        advance, operands = module.extend, new
    elif point.pattern == "causal_cross":
        state = module.init_cross(k, v)
        advance, operands = module.read, new[:1]
    else:
        raise UnsupportedPattern(f"{point.pattern} is not run token by token, so there is nothing to decode")

    # Every call continues from the last one, because a growing cache is copied if an earlier state is used again.
    @torch.no_grad()
    def call() -> Tensor:
        nonlocal state
        out, state = advance(*operands, state)
        return out

    def state_bytes() -> int:
        return module.state_bytes(state)

    return Workload(module, call, operands, lambda: (len(operands) + 1) * new[0].nbytes + state_bytes(), state_bytes)
