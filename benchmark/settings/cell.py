"""A cell: one training and evaluation of one attention in one backbone; its hash identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmark.interface import REFERENCE
from benchmark.results import CellName, Record, Versions
from benchmark.settings.messages import ConfigError


@dataclass(frozen=True)
class Cell:
    """One training and evaluation.  ``hash`` covers everything that decides its figures."""

    task: str
    backbone: str
    pattern: str
    attention: str
    variant: str  # the attention's name in tables; not part of the hash
    preset: str
    seed: int
    config: dict[str, Any] = field(hash=False)  # settings: data, model, eval, train, options, limit
    hash: str
    data_root: Path | None = field(default=None, hash=False)
    sites: tuple[str, ...] = ()  # whose tables its record serves; only its own pattern if empty
    # Where the learning rate comes from: "preset", "set" (an override) or "tuned".  Not part of the hash.
    rate_from: str = "preset"
    parallel: str = (
        "data"  # how several processes share the training, "data", "fsdp" or "sequence"; not part of the hash
    )
    unsupported: str | None = None  # why the attention can't do the pattern; None if it can
    versions: Versions | None = None  # of the code, which the hash covers

    @property
    def threads(self) -> int:
        """Number of torch's threads with which the cell runs."""
        return int(self.config["train"]["threads"])

    @property
    def stem(self) -> str:
        """The record's file name without its ending."""
        return f"{self.backbone}.{self.pattern}.{self.attention}.s{self.seed}.{self.hash}"

    def path(self, output: Path) -> Path:
        """Returns the path of the cell's record in the output folder."""
        return output / self.task / f"{self.stem}.json"

    @property
    def title(self) -> str:
        """The cell's name in progress and messages."""
        return f"{self.task}/{self.backbone}.{self.pattern}.{self.variant}.s{self.seed}"

    @property
    def name(self) -> CellName:
        """The names that its record stores."""
        return CellName(
            task=self.task,
            backbone=self.backbone,
            pattern=self.pattern,
            attention=self.attention,
            preset=self.preset,
            seed=self.seed,
            hash=self.hash,
            variant=self.variant,
            sites=self.sites or (self.pattern,),
        )


def cell_hash(
    task: str,
    backbone: str,
    pattern: str,
    attention: str,
    seed: int,
    *,
    versions: Versions,
    config: Mapping[str, Any],
    fingerprint: str | None,
) -> str:
    """Returns the hash of a cell.

    config: all settings, without absolute paths.  fingerprint: of the data.
    """
    identity = {
        "task": [task, versions.task],
        "backbone": backbone,
        "pattern": pattern,
        "attention": [attention, versions.attention],
        "others": [REFERENCE, versions.reference],
        "included": versions.source,
        "seed": seed,
        "config": config,
        "data": fingerprint,
    }
    return digest(identity)


def hash_of_record(record: Record, versions: Versions, fingerprint: str | None) -> str:
    """Returns the hash that the cell of a record has with these versions of the code and these data."""
    cell, parts = record.cell, fields(record.config)
    config = {part.name: getattr(record.config, part.name) for part in parts if part.name != "learning_rate_from"}
    names = (cell.task, cell.backbone, cell.pattern, cell.attention, cell.seed)
    return cell_hash(*names, versions=versions, config=config, fingerprint=fingerprint)


def without_places(value: Any) -> Any:
    """Returns the settings with each absolute path replaced by its last part.

    Records are published, and a hash must not depend on where a file lies.  The data's fingerprint covers its content.
    """
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def digest(identity: Any) -> str:
    """Returns twelve hex digits of SHA-256 over canonical JSON, in which the order of keys doesn't matter."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_not_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _not_plain(value: Any) -> Any:
    """Converts a value that JSON lacks.  Raises ConfigError for one that can't be a setting."""
    if isinstance(value, tuple | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    if isinstance(value, Path):
        return value.name
    raise ConfigError(f"{value!r}: a setting must be a number, a text, a list or a mapping of these")
