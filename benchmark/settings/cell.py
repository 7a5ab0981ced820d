"""A cell is one training and evaluation; its hash names it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.interface import Pattern
from benchmark.results import CellName
from benchmark.settings.messages import ConfigError


@dataclass(frozen=True)
class Cell:
    """One training and evaluation.  ``hash`` covers everything that decides its figures."""

    task: str
    backbone: str
    pattern: Pattern
    attention: str
    variant: str  # the name in tables; not part of the hash
    preset: str
    seed: int
    config: dict[str, Any] = field(hash=False)  # data, model, eval, train, options, limit
    hash: str
    data_root: Path | None = field(default=None, hash=False)
    parallel: str = "data"  # how several processes share the training; not part of the hash
    unsupported: str | None = None  # why the attention can't do the pattern; None where it can

    @property
    def threads(self) -> int:
        """Threads of torch that the cell is run with."""
        return int(self.config["train"]["threads"])

    @property
    def stem(self) -> str:
        """The record's file name without its ending."""
        return f"{self.backbone}.{self.pattern}.{self.attention}.s{self.seed}.{self.hash}"

    def path(self, output: Path) -> Path:
        """Where its record lies below the output folder."""
        return output / self.task / f"{self.stem}.json"

    @property
    def title(self) -> str:
        """How progress and messages name it."""
        return f"{self.task}/{self.backbone}.{self.pattern}.{self.variant}.s{self.seed}"

    @property
    def name(self) -> CellName:
        """How its record names it."""
        return CellName(
            task=self.task,
            backbone=self.backbone,
            pattern=self.pattern,
            attention=self.attention,
            preset=self.preset,
            seed=self.seed,
            hash=self.hash,
            variant=self.variant,
        )


def without_places(value: Any) -> Any:
    """Settings with absolute paths cut to their last part.

    Records are published, and a hash must not depend on where a file lies; the data's fingerprint covers its content.
    """
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def digest(identity: Any) -> str:
    """Twelve hex digits of SHA-256 over canonical JSON: the order of keys changes nothing."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_not_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _not_plain(value: Any) -> Any:
    if isinstance(value, tuple | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    if isinstance(value, Path):
        return value.name
    raise ConfigError(f"{value!r}: a setting must be a number, a text, a list or a mapping of these")
