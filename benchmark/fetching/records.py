"""What ``prepare`` keeps about a set in ``<data root>/.lavo-bench/``: where it came from, and the SHA-256 of each file.

``<name>.json`` says what was downloaded; ``<name>.sha256`` lists the files as ``sha256sum --check`` reads them, from the data root.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import write_bytes
from benchmark.settings.messages import ConfigError, shortened

FOLDER = ".lavo-bench"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


class Record(NamedTuple):
    """One set of a data root."""

    name: str
    facts: Mapping[str, Any]  # title, makes, downloads, licence and so on
    files: Mapping[str, str]  # path below the data root -> SHA-256


def record_folder(data_root: Path) -> Path:
    """Returns the folder of the records of a data root."""
    return data_root / FOLDER


def write_record(folder: Path, record: Record) -> None:
    """Writes the two files of a record into a folder.

    Raises ConfigError for a name that doesn't fit on a line of UTF-8, as a file that a person put there may have.
    """
    for path in record.files:
        if "\n" in path or "\r" in path or any("\ud800" <= sign <= "\udfff" for sign in path):
            raise ConfigError(f"{record.name}: {shortened(ascii(path), 120)} can't be recorded; rename this file")
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(record.files.items()))
    write_bytes(folder / f"{record.name}.sha256", lines.encode())
    write_bytes(folder / f"{record.name}.json", (json.dumps(record.facts, indent=1, sort_keys=True) + "\n").encode())


def read_record(folder: Path, name: str) -> Record | None:
    """Returns the record of a set; None if there is none.  Raises ConfigError for one that is damaged."""
    label = f"{FOLDER}/{name}"
    if not (folder / f"{name}.json").is_file() and not (folder / f"{name}.sha256").is_file():
        return None
    try:
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        # splitlines() would also cut at U+0085, U+2028 and others, which names may hold.
        lines = (folder / f"{name}.sha256").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        files = dict(_file(line) for line in lines) if lines != [""] else {}
        makes, downloads = facts["makes"], facts["downloads"]
        if not isinstance(makes, list) or not all(isinstance(path, str) and _is_inside(path) for path in makes):
            raise ValueError
        if not all(isinstance(one, dict) for one in downloads):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{label}: this record is damaged; remove it, and prepare {name} again") from None
    return Record(name, facts, files)


def _file(line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None or not _is_inside(match[2]):
        raise ValueError(line)
    return match[2], match[1]


def _is_inside(path: str) -> bool:
    """Whether a path of a record stays below the data root."""
    return bool(path) and not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def record_names(data_root: Path) -> list[str]:
    """Returns the names of the sets that a data root has records of."""
    folder = record_folder(data_root)
    return sorted({path.stem for ending in ("json", "sha256") for path in folder.glob(f"*.{ending}")})


def files_below(path: Path) -> Iterator[Path]:
    """The files of a folder and below it, in the order of their names, or the path itself if it is a file."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from files_below(entry)


def first_digest(record: Record | None, name: str) -> str | None:
    """Returns the SHA-256 of a download when it was first complete; None if that was not recorded."""
    downloads: Iterable[Mapping[str, Any]] = [] if record is None else record.facts["downloads"]
    digest = next((one.get("sha256") for one in downloads if one.get("name") == name), None)
    return digest if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) else None
