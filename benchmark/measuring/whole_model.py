"""A whole model to measure, ``gpt`` with an attention inside: one training step, or the generation of one token."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.interface import UnsupportedPattern
from benchmark.measuring.points import Point
from benchmark.measuring.shape import PREFILL_TOKENS, Shape, Workload
from benchmark.multihead import AttentionSites
from benchmark.registry import load_task
from benchmark.settings.models import AttentionSpec, Override
from benchmark.settings.resolve import resolve

# Layers of the measured model.  Two are enough, because only the cost of a layer depends on the length, and all layers cost the
# same.
NUM_LAYERS = 2


def make_gpt(
    attention: str, length: int, *, preset: str, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Any, int]:
    """Returns the model of the language-modelling task with this attention, and the size of its vocabulary.

    length: the longest text.  settings: changes to the preset, by their dotted keys.  options: those of the attention.
    """
    overrides = [Override(key, value, key) for key, value in {**settings, "eval.lengths": [1]}.items()]
    spec = AttentionSpec(name=attention, options=dict(options))
    resolved = resolve("language_modeling", "gpt", preset, spec, overrides)
    task: Any = load_task("language_modeling")(resolved.settings, backbone="gpt")
    with tempfile.TemporaryDirectory() as cache:
        task.load_data(None, Path(cache))  # makes the tokenizer, which determines the vocabulary
    sites = AttentionSites(attention, "causal_self", resolved.options)

    def attention_for(pattern: Any, **sizes: Any) -> Any:
        return sites(pattern, **(sizes | {"max_length": length}))

    torch.manual_seed(0)
    return task.build_model(attention_for), task.tokenizer.vocab_size


def training_step(shape: Shape, point: Point, *, checkpointing: bool) -> Workload:
    """Returns a workload whose call is one training step: the loss of every next token, its gradients, an AdamW update.

    With ``checkpointing`` the backward pass computes each block of the model again.  In both cases the loss is computed in
    pieces of the sequence.
    Raises UnsupportedPattern for a pattern that gpt doesn't have.
    """
    model, vocab_size = _model(shape, point, checkpointing)
    tokens, targets = _tokens(shape, point, vocab_size, point.length + 1).unfold(1, point.length, 1).unbind(1)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5)

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(shape.device.type, shape.dtype, enabled=shape.dtype != torch.float32):
            loss = model.nats(tokens, targets).mean()
        loss.backward()
        optimizer.step()

    # Nine times the bytes of the weights: a weight is read twice and written once, its gradient is written and read, and
    # each of AdamW's two moments is read and written.
    return Workload(model, call, (tokens,), lambda: 9 * _weight_bytes(model) + tokens.nbytes)


def generation(shape: Shape, point: Point) -> Workload:
    """Returns a workload whose call generates one more token, the likeliest one, after a text of the point's length.

    Raises UnsupportedPattern for a pattern that gpt doesn't have.
    """
    model, vocab_size = _model(shape, point, False)
    model.eval()
    text = _tokens(shape, point, vocab_size, point.length)
    token = text[:, -1:]
    with torch.no_grad():
        state = model.init_state(point.batch)
        for start in range(0, point.length, PREFILL_TOKENS):
            _, state = model.extend(text[:, start : start + PREFILL_TOKENS], state)

    @torch.no_grad()
    def call() -> Tensor:
        nonlocal state, token
        with torch.autocast(shape.device.type, shape.dtype, enabled=shape.dtype != torch.float32):
            logits, state = model.extend(token, state)
        token = logits.argmax(-1)
        return token

    def state_bytes() -> int:
        return model.state_bytes(state)

    return Workload(model, call, (token,), lambda: _weight_bytes(model) + state_bytes(), state_bytes)


def _model(shape: Shape, point: Point, checkpointing: bool) -> tuple[Any, int]:
    if point.pattern != "causal_self":
        raise UnsupportedPattern(f"gpt has only causal_self, not {point.pattern}")
    settings = {
        "model.embed_dim": shape.num_heads * shape.head_dim,
        "model.num_heads": shape.num_heads,
        "model.num_layers": NUM_LAYERS,
        "model.checkpointing": checkpointing,
    }
    options = shape.options.get(point.attention, {})
    longest = 2 * point.length  # the calls of ``generation`` lengthen the context a little
    model, vocab_size = make_gpt(point.attention, longest, preset="smoke", settings=settings, options=options)
    return model.to(shape.device), vocab_size


def _tokens(shape: Shape, point: Point, vocab_size: int, length: int) -> Tensor:
    """Returns random tokens (batch, length), the same for every attention."""
    generator = torch.Generator().manual_seed(shape.seed)
    return torch.randint(vocab_size, (point.batch, length), generator=generator).to(shape.device)


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
