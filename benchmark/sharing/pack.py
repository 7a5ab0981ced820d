"""``lavo-bench submit``: checks a folder of records, and packs it with the sources of its attentions and a manifest."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark import registry
from benchmark.checking.conformance import check_attention
from benchmark.files import write_bytes
from benchmark.interface import EVERY
from benchmark.report.versions import fingerprints_of
from benchmark.results import SOURCES, Record, record_files, records
from benchmark.settings.command import include_files, process_state_kept
from benchmark.settings.messages import ConfigError
from benchmark.sharing import manifest, privacy
from benchmark.sharing.audit import (
    Attention,
    built_in,
    cell_hash,
    faults,
    reference_version,
    task_version,
)
from benchmark.sharing.limits import MOST_FILES, size_fault
from benchmark.sharing.manifest import AttentionEntry, CheckRow, FileEntry, Manifest

Say = Callable[[str], None]


class Submission(NamedTuple):
    """What a folder holds, and what is wrong with it; ``files`` is path in the pack -> content."""

    manifest: Manifest
    files: Mapping[str, bytes]
    faults: list[str]  # one line each


def check_folder(
    folder: Path, name: str, include: Sequence[Path] = (), *, say: Say = lambda _: None, conformance: bool = True
) -> Submission:
    """Checks a folder of records for ``lavo-bench submit``.

    name: what tables will call the pack.  include: files that register attentions of the records.
    conformance: whether to run the conformance suite on the attentions.
    Raises ConfigError for a name that breaks its rule, and for a folder without records.
    """
    import re

    from benchmark.report.inputs import package_version

    if not re.fullmatch(manifest.PACK_NAME, name):
        raise ConfigError(f"--name {name!r:.60}: 1 to 40 letters, digits, dots, dashes and underscores are wanted")
    if not folder.is_dir() or not record_files(folder):
        raise ConfigError(f"{folder}: no folder of records; lavo-bench run -o writes one")
    damaged: list[str] = []
    found = records([folder], damaged=damaged.append)
    lines = [line.replace(f"{folder}/", "") for line in damaged]
    sources = _Sources(folder, include)
    attentions: dict[str, Attention] = {}
    for attention in sorted({record.cell.attention for record in found}):
        own = [record for record in found if record.cell.attention == attention]
        try:
            chosen = built_in(attention) or sources.chosen(attention, own, found)
        except ValueError as error:
            lines.append(f"attention {attention}: {error}")
            continue
        if chosen is not None:
            attentions[attention] = chosen
    say(f"{len(found)} records: names, hashes, values by example, seeds")
    lines = [f"{where}: {line}" if where else line for where, line in faults(found, attentions, damaged=lines)]
    files = dict(_content(found))
    entries = {}
    for attention, chosen in attentions.items():
        source = sources.by_digest.get(chosen.source or "")
        if source is not None:
            files[f"sources/{source.name}"] = source.read_bytes()
            lines += [
                f"sources/{source.name}: imports {module}, which is not in the pack; put both into one file, so that others can run it"
                for module in uncopied_modules(source.read_text(encoding="utf-8", errors="replace"))
            ]
        checks: list[CheckRow] = []
        if conformance:
            own = [record for record in found if record.cell.attention == attention]
            say(f"attention {attention}: conformance")
            checks = _checked(attention, own)
            lines += [
                f"attention {attention}: fails the check {row.check} at {row.pattern}"
                for row in checks
                if row.outcome == "failed"
            ]
        entries[attention] = AttentionEntry(
            version=chosen.version, source=None if source is None else f"sources/{source.name}", checks=checks
        )
    described = Manifest(
        name=name,
        lavo_bench=package_version()[:40],
        reference=reference_version(),
        tasks={task: task_version(task) for task in sorted({r.cell.task for r in found}) if task in registry.TASKS},
        attentions=entries,
        files={path: FileEntry(sha256=_sha256(files[path]), bytes=len(files[path])) for path in sorted(files)},
    )
    lines += _published_faults({**files, manifest.FILE_NAME: described.as_bytes()})
    return Submission(described, files, lines)


def write_pack(submission: Submission, path: Path) -> None:
    """Writes the pack.  Equal submissions give equal bytes.  Raises ConfigError if a fault was found."""
    if submission.faults:
        raise ConfigError(f"{submission.manifest.name}: has {len(submission.faults)} faults, so it is not packed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in [(manifest.FILE_NAME, submission.manifest.as_bytes()), *sorted(submission.files.items())]:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".gz") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    write_bytes(path, buffer.getvalue())


def uncopied_modules(source: str) -> list[str]:
    """Returns the modules that a copy of a Python class imports and that are not installed, as its comments name them."""
    begin = "# Imported, and not copied: "
    return [line.removeprefix(begin).partition(",")[0] for line in source.splitlines() if line.startswith(begin)]


class _Sources:
    """The files from which attentions of the records may come: those of ``--include-path``, and copies of Python classes."""

    def __init__(self, folder: Path, include: Sequence[Path]) -> None:
        include_files(include)
        self.copies = sorted((folder / SOURCES).glob("*.py"))
        paths = [*(path.resolve() for path in include), *self.copies]
        self.by_digest = {_sha256(path.read_bytes()): path for path in paths}

    def chosen(self, name: str, own: Sequence[Record], found: Sequence[Record]) -> Attention | None:
        """Returns the version and source of an attention; None if there is none.

        If the folder has copies of several versions, the one of the newest record is taken.
        Raises ValueError, in one line, for a file that can't be included.
        """
        newest = max(own, key=lambda record: record.started or "")
        for path in self.copies:
            if path.name.partition(".")[0] == name and self._is_of(path, name, newest, found):
                return Attention(_version(name), _sha256(path.read_bytes()))
        if name in registry.attention_names():
            return Attention(_version(name), registry.included_digest(name))
        return None

    def _is_of(self, path: Path, name: str, record: Record, found: Sequence[Record]) -> bool:
        """Includes the copy, and returns whether the record's hash covers it."""
        with process_state_kept():
            registry.include_copy(path, name)
        attention = Attention(_version(name), _sha256(path.read_bytes()))
        candidates = (
            [record.data.sha256] if record.data.sha256 else sorted(set().union(*fingerprints_of(found).values()))
        )
        return any(cell_hash(record, attention, one) == record.cell.hash for one in candidates)


def _version(name: str) -> int:
    return int(registry.attention_declarations(name)["version"])


def _checked(name: str, own: Iterable[Record]) -> list[CheckRow]:
    """Runs the conformance suite at the patterns of these records."""
    patterns: dict[str, None] = {}
    for record in own:
        of_backbone = registry.task_declarations(record.cell.task)["backbones"].get(record.cell.backbone, ())
        cell = record.cell
        patterns |= dict.fromkeys(of_backbone if EVERY in (cell.pattern, *cell.sites) else (cell.pattern,))
    return [
        CheckRow(pattern=row.pattern, check=row.check, outcome=row.outcome)
        for row in check_attention(name, patterns=sorted(patterns))
    ]


def _content(found: Sequence[Record]) -> Iterator[tuple[str, bytes]]:
    """Yields the path in the pack and the content of each record and of its values by example.  Curves stay behind."""
    for record in found:
        if record.path is None:
            continue
        folder = f"records/{record.path.parent.name}"
        yield f"{folder}/{record.path.name}", record.path.read_bytes()
        examples = record.path.with_name(record.examples_file) if record.examples_file else None
        if examples is not None and examples.is_file():
            yield f"{folder}/{examples.name}", examples.read_bytes()


def _published_faults(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yields a line for each file that is too large for a pack, or that names this machine."""
    import gzip
    import zlib

    if len(files) > MOST_FILES:
        yield f"{len(files)} files: a pack has at most {MOST_FILES}"
    for path, content in files.items():
        fault = size_fault(path, len(content))
        if fault is not None:
            yield fault
            continue
        try:
            plain = gzip.decompress(content) if path.endswith(".gz") else content
        except (OSError, EOFError, zlib.error):
            continue  # the audit has a line on it
        yield from (f"{path}: contains {what}, which must not be published" for what in privacy.found_in(plain))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
