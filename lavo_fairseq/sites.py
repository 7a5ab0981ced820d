"""The attention of each site of a backbone, from the flags of ``fairseq-train``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmark.interface import Pattern
from benchmark.multihead import AttentionSites
from benchmark.registry import load_attention, takes_max_length

UNLIMITED = 10**6  # fairseq's value for "any length"


def attention_sites(attention: str, pattern: str, options: str, *, patterns: Sequence[Pattern]) -> AttentionSites:
    """The factory of the attention layers: ``attention`` at the sites of ``pattern``, exact softmax at the others.

    options: the keyword options of the attention as JSON.  patterns: those of the backbone's sites.
    Raises ValueError with one line that names the flag, the bad value and what is allowed.
    """
    if pattern not in patterns:
        raise ValueError(f"--attention-pattern {pattern}: this architecture has {', '.join(patterns)}")
    return AttentionSites(attention, pattern, _read_options(options))  # type: ignore[arg-type]


def longest_input(attention: str, pattern: str, options: str, *, side: Sequence[Pattern], built_for: int) -> int:
    """The longest input of an encoder or decoder, limited only if its attention needs ``max_length``.

    side: the patterns of its sites.  built_for: the limit, unless the attention's options have their own ``max_length``.
    """
    if pattern not in side or not takes_max_length(load_attention(attention)):
        return UNLIMITED
    return int(_read_options(options).get("max_length", built_for))


def _read_options(options: str) -> dict[str, Any]:
    try:
        values = json.loads(options)
    except ValueError as error:
        raise ValueError(f"--attention-options {options}: no JSON ({error}); write it as '{{\"rank\": 32}}'") from None
    if not isinstance(values, dict):
        raise ValueError(f"--attention-options {options}: a JSON object of option and value is wanted")
    return values
