"""Chooses the attention of each attention layer of a model, from the flags of ``fairseq-train``.

A site is a place of the model with an attention layer; its pattern says whether it is causal, and self- or cross-attention.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmark.interface import Pattern
from benchmark.multihead import AttentionSites
from benchmark.registry import load_attention, takes_max_length

UNLIMITED = 10**6  # fairseq's value for "any length"


def attention_sites(attention: str, pattern: str, options: str, *, patterns: Sequence[Pattern]) -> AttentionSites:
    """Returns the factory of the attention layers: ``attention`` at the sites of ``pattern``, exact softmax at all others.

    options: the options of the attention, as JSON.  patterns: the patterns of the model's sites.
    Raises a ValueError of one line that names the flag, the bad value and what is allowed.
    """
    if pattern not in patterns:
        raise ValueError(f"--attention-pattern {pattern}: this architecture has {', '.join(patterns)}")
    return AttentionSites(attention, pattern, _read_options(options))


def longest_input(attention: str, pattern: str, options: str, *, side: Sequence[Pattern], built_for: int) -> int:
    """Returns the longest input of an encoder or a decoder.  It is limited only if its attention takes ``max_length``.

    side: the patterns of the sites of this encoder or decoder.
    built_for: the limit, unless the options of the attention have their own ``max_length``.
    """
    if pattern not in side or not takes_max_length(load_attention(attention)):
        return UNLIMITED
    return int(_read_options(options).get("max_length", built_for))


def _read_options(options: str) -> dict[str, Any]:
    try:
        values = json.loads(options)
    except ValueError as error:
        raise ValueError(f"--attention-options {options}: not JSON ({error}); write it as '{{\"rank\": 32}}'") from None
    if not isinstance(values, dict):
        raise ValueError(f"--attention-options {options}: must be a JSON object of options and their values")
    return values
