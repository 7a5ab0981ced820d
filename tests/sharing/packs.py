"""Folders of records for packs, and packs that are changed afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark.settings.messages import ConfigError
from benchmark.sharing.board import verify

RECORDS = Path(__file__).parents[2] / "results" / "quick" / "recall"


def some_records(folder: Path, attentions: tuple[str, ...] = ("softmax", "lavo", "none"), seeds: str = "012") -> Path:
    """Copies committed records of recall in causal self-attention, with their values by example, into a folder."""
    (folder / "recall").mkdir(parents=True)
    for attention in attentions:
        copied = [path for seed in seeds for path in RECORDS.glob(f"probe.causal_self.{attention}.s{seed}.*")]
        assert copied, f"{attention} is not among the committed records"
        for path in copied:
            shutil.copyfile(path, folder / "recall" / path.name)
    return folder


def files_of(pack: Path) -> dict[str, bytes]:
    """Returns name -> content of a pack."""
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(pack: Path, files: Mapping[str, bytes]) -> Path:
    """Writes a pack with these files."""
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return pack


def with_manifest(
    files: Mapping[str, bytes], change: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, bytes]:
    """Returns the files with a manifest that agrees with them, as a careful forger writes it."""
    content = json.loads(files["manifest.json"])
    content["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != "manifest.json"
    }
    change(content)
    return {**files, "manifest.json": json.dumps(content).encode()}


def edited(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Returns a JSON file with a change."""
    found = json.loads(content)
    change(found)
    return json.dumps(found).encode()


def record_named(files: Mapping[str, bytes], part: str) -> str:
    """Returns the name of the first record whose name contains the part."""
    return next(name for name in sorted(files) if part in name and name.endswith(".json") and name != "manifest.json")


def refusal(pack: Path, folder: Path) -> str:
    """The line with which the pack is refused."""
    with pytest.raises(ConfigError) as error:
        verify(pack, folder / "unpacked")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{pack}: ")
    return line.removeprefix(f"{pack}: ")
