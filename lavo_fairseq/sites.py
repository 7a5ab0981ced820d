"""Which attention stands at which sites, from what ``fairseq-train`` was told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmark.interface import Pattern
from benchmark.multihead import AttentionSites
from benchmark.registry import load_attention, takes_max_length

UNLIMITED = 10**6  # fairseq's own word for "any length"


def attention_sites(attention: str, pattern: str, options: str, *, patterns: Sequence[Pattern]) -> AttentionSites:
    """The factory of the attention layers: ``attention`` at the sites of ``pattern``, exact softmax at the others.

    options: JSON, the keyword options of the attention.  patterns: those that the backbone has.
    Raises ValueError with one line that names the flag, the bad value and what is allowed.
    """
    if pattern not in patterns:
        raise ValueError(f"--attention-pattern {pattern}: this architecture has {', '.join(patterns)}")
    return AttentionSites(attention, pattern, _read_options(options))  # type: ignore[arg-type]


def longest_input(attention: str, pattern: str, options: str, *, side: Sequence[Pattern], built_for: int) -> int:
    """How many tokens an encoder or decoder may be given: ``built_for`` where an attention of it must know, else any.

    side: the patterns of the sites that this encoder or decoder has.
    """
    if pattern not in side or not takes_max_length(load_attention(attention)):
        return UNLIMITED
    return int(_read_options(options).get("max_length", built_for))


def _read_options(options: str) -> dict[str, Any]:
    try:
        values = json.loads(options)
    except ValueError as error:
        raise ValueError(f"--attention-options {options}: no JSON ({error}); give one as '{{\"rank\": 32}}'") from None
    if not isinstance(values, dict):
        raise ValueError(f"--attention-options {options}: a JSON object of option and value is wanted")
    return values
