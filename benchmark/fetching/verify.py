"""The work of ``lavo-bench data verify``: the files of a data root against the digests recorded or published for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmark.fetching.download import WrongFileError, digests_of, sha256_of
from benchmark.fetching.manifest import DataSet, Source
from benchmark.fetching.prepare import manifest_of
from benchmark.fetching.records import FOLDER, Record, files_below, read_record, record_folder, record_names
from benchmark.files import is_companion, is_machine_fault
from benchmark.registry import TASKS
from benchmark.settings.messages import ConfigError


class Compared(NamedTuple):
    """What the comparison of one file gave."""

    path: str  # below the data root
    good: bool
    text: str


def verify_data(data_root: Path) -> Iterator[Compared]:
    """Compares all files of the sets that the data root holds, and yields a line for each.

    A set that ``prepare`` made is compared with its record; files in its folders that are not of the set count as differing,
    because readers would take them for data.  A file that came another way is compared with the manifest's digests, if it has
    some.  Raises ConfigError if the data root holds nothing that is known.
    """
    if not data_root.is_dir():
        raise ConfigError(f"{data_root}: no such folder; a data root is wanted")
    names, count = record_names(data_root), 0
    for name in names:
        for line in _with_record(data_root, name):
            count += 1
            yield line
    for task in TASKS:
        for name, dataset in manifest_of(task).items():
            if name not in names:
                for line in _with_manifest(data_root, dataset):
                    count += 1
                    yield line
    if not count:
        raise ConfigError(
            f"{data_root}: holds no public data set that prepare fetched or whose digests are known; is it a data root?"
        )


def _with_record(data_root: Path, name: str) -> Iterator[Compared]:
    try:
        record = read_record(record_folder(data_root), name)
    except ConfigError as error:
        yield Compared(f"{FOLDER}/{name}", False, str(error).partition(": ")[2])
        return
    if record is None:
        return
    for path, wanted in record.files.items():
        try:
            found = digests_of(data_root / path)["sha256"]
        except OSError as error:
            if is_machine_fault(error):
                raise
            yield Compared(path, False, "is missing" if isinstance(error, FileNotFoundError) else "can't be read")
            continue
        good = found == wanted
        yield Compared(path, good, f"as recorded for {name}" if good else _differs(found, wanted))
    for path in _strangers(data_root, record):
        yield Compared(path, False, f"is no file of {name}, but lies among them")


def _strangers(data_root: Path, record: Record) -> Iterator[str]:
    """The files in the folders of a set that are not recorded.  What operating systems leave there is passed by, as the readers do."""
    for one in record.facts["makes"]:
        if (data_root / one).is_dir():
            for path in files_below(data_root / one):
                name = path.relative_to(data_root).as_posix()
                if name not in record.files and not any(map(is_companion, name.split("/"))):
                    yield name


def _with_manifest(data_root: Path, dataset: DataSet) -> Iterator[Compared]:
    """Files that are placed as they were downloaded, so that the digests of the downloads are theirs."""
    if dataset.unpack is not None or dataset.convert is not None:
        return
    for source in dataset.files:
        path = f"{dataset.folder}/{source.name}"
        if source.digests and (data_root / path).is_file():
            yield _with_published(data_root / path, path, source)


def _with_published(file: Path, path: str, source: Source) -> Compared:
    try:
        sha256_of(file, source)
    except WrongFileError as error:
        return Compared(path, False, str(error))
    return Compared(path, True, "as published")


def _differs(found: str, wanted: str) -> str:
    return f"differs: SHA-256 {found[:16]}…, recorded {wanted[:16]}…"
