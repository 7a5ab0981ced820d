"""The manifest of a pack: who it is from, the versions behind its hashes, and the SHA-256 of each file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.results import Name
from benchmark.settings.messages import ConfigError, shortened, shown

FILE_NAME = "manifest.json"
FORMAT: Literal[1] = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[int, Field(ge=0, le=10**6)]
# Of a file in a pack: a record, its values by example, or the source of an attention.  No dot begins a part, so none is "..".
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}"
PATH = rf"^(records/[a-z0-9_]{{1,64}}/{PART}\.(json|examples\.csv\.gz)|sources/{PART}\.py)$"
# What tables call a pack.
PACK_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CheckRow(_Part):
    """One result of the conformance suite, as the submitter's machine found it."""

    pattern: Name
    check: Name
    outcome: Literal["passed", "failed", "missing", "not applicable"]


class AttentionEntry(_Part):
    """An attention of the pack: the version in the hashes of its cells, its source if it has a file, and its checks."""

    version: Version
    source: Annotated[str, Field(pattern=rf"^sources/{PART}\.py$")] | None = None
    checks: Annotated[Sequence[CheckRow], Field(max_length=500)] = ()


class FileEntry(_Part):
    """A file of the pack."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class Manifest(_Part):
    """The content of ``manifest.json``."""

    format: Literal[1] = FORMAT
    name: Annotated[str, Field(pattern=PACK_NAME)]
    lavo_bench: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+ _-]{1,40}$")]
    reference: Version  # of softmax, which every cell keeps at its other sites
    tasks: Mapping[Name, Version]
    attentions: Mapping[Name, AttentionEntry]
    files: Mapping[Annotated[str, Field(pattern=PATH)], FileEntry]

    def as_bytes(self) -> bytes:
        """Returns the file's content, the same bytes for equal manifests."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


def read_manifest(content: bytes) -> Manifest:
    """Checks the bytes of a manifest.  Raises ConfigError in one line."""
    strict_json(content, FILE_NAME)
    try:
        # Only from JSON text does strict validation take lists for sequences.
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = shortened(".".join(str(part) for part in fault["loc"]), 80)
        raise ConfigError(f"{FILE_NAME}: {key} = {shown(fault.get('input'))}: {fault['msg'][:120]}") from None


def strict_json(content: bytes, name: str) -> Any:
    """Parses JSON without repeated keys, NaN and infinities.  Raises ConfigError that names the file."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not strict JSON: {shortened(str(error), 120)}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        repeated = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {shown(repeated)} stands twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
