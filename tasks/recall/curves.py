"""Accuracy by family and difficulty on the test part, beside the bytes of the attentions' states and ceilings by counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.interface import Pattern
from tasks.recall import ceilings
from tasks.recall.data import Set
from tasks.recall.families import FAMILIES
from tasks.recall.metrics import accuracy
from tasks.recall.probe import Probe

TEXTS_AT_ONCE = 256


def curve_rows(model: nn.ModuleDict, sets: Sequence[Set], *, vocab_size: int, pattern: Pattern) -> list[dict[str, Any]]:
    """Returns one row for each set: family, pairs, length, whether it was trained, accuracy in per cent, and what bounds it.

    state_bytes  of the attentions' states after one text; None for noncausal patterns, which have no state
    window       the ceiling of windows, if the attentions have an attribute ``window``; else None
    state        the ceiling of a state of this size; None without one, and where counting gives none
    guess, bag   what guessing gets: among all possible answers, and among those of the text
    """
    rows = []
    for one in sets:
        probe: Any = model[one.family]
        state_bytes = _state_bytes(probe, one)
        rows.append(
            {
                "family": one.family,
                "pairs": one.pairs,
                "length": one.length,
                "is_trained": one.is_trained,
                "accuracy": _accuracy(probe, one),
                "state_bytes": state_bytes,
                "window": _window_ceiling(probe, one, vocab_size, pattern),
                "state": _state_ceiling(one, vocab_size, state_bytes),
                "guess": 100 / FAMILIES[one.family].num_answers(vocab_size),
                "bag": 100 / one.pairs if FAMILIES[one.family].values == "different" else None,
            }
        )
    return rows


def _tensors(probe: Probe, one: Set, rows: slice) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    device = next(probe.parameters()).device
    tokens, source, asked, answers = (
        None if array is None else torch.from_numpy(array[rows]).long().to(device) for array in one.texts[:4]
    )
    assert tokens is not None
    assert asked is not None
    assert answers is not None
    return tokens, source, asked, answers


def _accuracy(probe: Probe, one: Set) -> float:
    shares = []
    for first in range(0, len(one.texts.answers), TEXTS_AT_ONCE):
        tokens, source, asked, answers = _tensors(probe, one, slice(first, first + TEXTS_AT_ONCE))
        shares.append(accuracy(probe(tokens, source, asked).argmax(-1), answers))
    return float(torch.cat(shares).mean())


def _state_bytes(probe: Probe, one: Set) -> int | None:
    tokens, source, *_ = _tensors(probe, one, slice(0, 1))
    return probe.state_bytes(tokens, source)


def _window_ceiling(probe: Probe, one: Set, vocab_size: int, pattern: Pattern) -> float | None:
    """None for attentions without windows.  Over several layers, overlapping windows carry words farther than one of them."""
    attention, family = probe.blocks[0].attention.attention, FAMILIES[one.family]
    window, overlap = getattr(attention, "window", None), bool(getattr(attention, "window_overlap", False))
    if window is None or pattern.endswith("cross") or family.values is None or (overlap and len(probe.blocks) > 1):
        return None
    seen = ceilings.visible(
        one.texts.evidence, one.texts.asked, window=window, is_causal=pattern == "causal_self", overlap=overlap
    )
    # Answers that differ from each other can be told apart from those that are seen.
    others = one.pairs - 1 if family.values == "different" else 0
    return ceilings.window_ceiling(float(seen.mean()), family.num_answers(vocab_size) - others)


def _state_ceiling(one: Set, vocab_size: int, state_bytes: int | None) -> float | None:
    family = FAMILIES[one.family]
    if state_bytes is None or family.values is None:
        return None
    return ceilings.state_ceiling(
        8 * state_bytes, one.pairs, family.num_answers(vocab_size), repeated=family.values == "independent"
    )
