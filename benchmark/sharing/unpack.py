"""Reads packs of anyone's.  Nothing of a pack is imported or run, and no file is written outside the folder that is given.

Each name, kind, size and digest is checked before the file is used: names by a pattern without folders above, links and other
special files refused, sizes bounded by what is read and not by what the archive says.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from benchmark.results import Record, read_record
from benchmark.settings.messages import ConfigError, shown
from benchmark.sharing.limits import MOST_BYTES, MOST_FILES, most_bytes, size_fault
from benchmark.sharing.manifest import FILE_NAME, PATH, Manifest, read_manifest, strict_json


class Pack(NamedTuple):
    """A pack whose files are those of its manifest."""

    manifest: Manifest
    records: list[Record]
    sources: dict[str, bytes]  # path in the pack -> content


def read_pack(path: Path, folder: Path) -> Pack:
    """Reads a pack, and writes its records into ``folder``, which must be empty.

    Raises ConfigError, in one line that names the pack and the file in it, for anything that is not as the manifest says.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path.stat().st_size:,} bytes; a pack has at most {MOST_BYTES:,}")
        with zipfile.ZipFile(path) as archive:
            files = _files(archive)
        return _checked(files, folder)
    except ConfigError as error:
        raise ConfigError(f"{path}: refused: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path}: refused: not a sound zip file: {error}") from None


def _files(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Returns name -> content of all files.  Raises ConfigError for a name, a kind or a size that a pack can't have."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES + 1:
        raise ConfigError(f"{len(entries):,} files; a pack has at most {MOST_FILES:,}")
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        if entry.orig_filename != name or (name != FILE_NAME and not re.fullmatch(PATH, name)):
            raise ConfigError(f"{shown(entry.orig_filename)}: no name of a file in a pack")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ConfigError(f"{name}: a link or another special file")
        if entry.flag_bits & 0x1:
            raise ConfigError(f"{name}: encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ConfigError(f"{name}: packed by another method than deflate")
        fault = size_fault(name, entry.file_size)
        if fault is not None:
            raise ConfigError(fault)
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ConfigError(f"{next(name for name in names if names.count(name) > 1)}: is there twice")
    if sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise ConfigError(f"more than {MOST_BYTES:,} bytes when unpacked")
    files: dict[str, bytes] = {}
    for entry in entries:
        with archive.open(entry) as file:
            content = file.read(most_bytes(entry.filename) + 1)  # the archive's own sizes may be false
        if len(content) != entry.file_size:
            raise ConfigError(f"{entry.filename}: is not of the size that the archive says")
        files[entry.filename] = content
    return files


def _checked(files: dict[str, bytes], folder: Path) -> Pack:
    if FILE_NAME not in files:
        raise ConfigError(f"has no {FILE_NAME}; lavo-bench submit writes packs")
    described = read_manifest(files.pop(FILE_NAME))
    for name in sorted(files.keys() ^ described.files.keys()):
        raise ConfigError(f"{name}: {'is not in the manifest' if name in files else 'is missing'}")
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != described.files[name].sha256:
            raise ConfigError(f"{name}: its SHA-256 is not that of the manifest: changed after it was packed")
    for name, entry in described.attentions.items():
        if entry.source is not None and entry.source not in files:
            raise ConfigError(f"attention {name}: its source {entry.source} is missing")
    found = []
    for name in sorted(files):
        if name.startswith("records/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
    for name in sorted(files):
        if name.endswith(".json"):
            strict_json(files[name], name)
            try:
                found.append(read_record(folder / name))
            except ValueError as error:
                raise ConfigError(str(error).replace(f"{folder}/", "")) from None
    if not found:
        raise ConfigError("has no records")
    return Pack(described, found, {name: files[name] for name in sorted(files) if name.startswith("sources/")})
