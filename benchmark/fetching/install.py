"""Puts a public data set into a data root: downloads, unpacks, converts, and only then gives it its name.

All work is done in ``.<name>.making`` beside the place of the set; readers of data pass names with a dot by.  A complete set is
renamed to ``.<name>.ready``, its record is written, and its parts are renamed to their places.  Whatever moment a process is
killed at, the next one goes on: with the downloads if they were not complete, with the renaming if the set was ready.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from benchmark.fetching.download import Downloaded, Downloader, WrongFileError, digests_of, sha256_of
from benchmark.fetching.listing import list_files
from benchmark.fetching.locking import alone
from benchmark.fetching.manifest import DataSet, Source
from benchmark.fetching.records import (
    FOLDER,
    Record,
    files_below,
    first_digest,
    read_record,
    record_folder,
    write_record,
)
from benchmark.fetching.unpack import Limits, unpack
from benchmark.files import as_machine_fault
from benchmark.settings.messages import ConfigError, shortened

AT_ONCE = 8  # downloads of a set of many files, such as the books of PG-19
SPARE_BYTES = 1 << 26  # that must stay free on the disk

# Takes the paths of the downloads by their names in the manifest (of an archive: the folder with what was in it), and a folder,
# which it fills with the layout of the data root.
Convert = Callable[[Mapping[str, Path], Path], None]


class Installer(NamedTuple):
    """What the installing of sets shares."""

    data_root: Path
    downloader: Downloader
    say: Callable[[str], None]
    accept_terms: bool = False
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def install(self, dataset: DataSet, convert: Convert | None) -> bool:
        """Puts the set into the data root if it isn't there, and returns whether it did.

        Raises ConfigError, in one line, if it must be fetched by hand or its terms must be accepted, and for every fault of
        its sources; MachineFault if the disk is full, after removing what was half made.
        """
        places = _Places(self.data_root, dataset)
        if places.is_complete:
            self._record_what_is_there(dataset)
            return False
        created = [folder for folder in (places.home, self.data_root) if not folder.exists()]
        try:
            with alone(places.lock, lambda: self.say(f"{dataset.name}: waiting for another process that prepares it")):
                return self._install_alone(places, convert)
        except OSError as error:
            raise as_machine_fault(error, str(places.home)) from error
        finally:
            for folder in created:
                with suppress(OSError):  # rmdir refuses a folder that holds anything
                    folder.rmdir()

    def _install_alone(self, places: _Places, convert: Convert | None) -> bool:
        name, dataset = places.name, places.dataset
        if places.ready.is_dir():
            places.publish()
            return True
        if places.has_names:  # by the process that held the lock before, or by one that was killed while it cleaned up
            shutil.rmtree(places.staging, ignore_errors=True)
            return False
        if there := [path for path in dataset.makes if (self.data_root / path).exists()]:
            raise ConfigError(
                f"{name}: {there[0]} is there already, and not of this set; give another --data-root, or move it away"
            )
        self._check_permission(places)
        known = read_record(record_folder(self.data_root), name)
        try:
            downloads = self._downloaded(places, known)
            places.clear_half_made()
            try:
                self._fill(places, downloads, convert)
            except ConfigError:
                places.drop_unchecked(downloads)
                raise
            files = {
                path.relative_to(places.made).as_posix(): digests_of(path)["sha256"]
                for path in files_below(places.made)
            }
            write_record(places.made / ".record", Record(name, _facts(dataset, downloads), files))
            if hasattr(os, "sync"):  # after a power cut no name may stand for a file whose bytes were not written yet
                os.sync()
            os.rename(places.made, places.ready)
        except BaseException:
            places.clear_half_made()
            raise
        places.publish()
        return True

    def _check_permission(self, places: _Places) -> None:
        """Raises ConfigError if a person must do something first."""
        dataset, missing = places.dataset, [source for source in places.dataset.files if not places.local(source)]
        if not missing and dataset.listing is None:
            return
        if dataset.by_hand is not None and (by_hand := [source.name for source in missing if not source.urls]):
            names = ", ".join(by_hand)
            raise ConfigError(
                f"{places.name}: fetch {names} by hand {dataset.by_hand}; put it into {dataset.folder}/ of the data root, "
                "then repeat this command"
            )
        if dataset.terms is not None and not self.accept_terms:
            raise ConfigError(
                f"{places.name}: {dataset.terms}; add --accept-terms if you accept this, or put the files "
                f"into {dataset.folder}/ yourself ({dataset.home})"
            )

    def _downloaded(self, places: _Places, known: Record | None) -> list[Downloaded]:
        """The files of the set, downloaded or found beside its place, and checked."""
        sources = list(places.dataset.files)
        if places.dataset.listing is not None:
            sources += list_files(places.dataset.listing, self.downloader)
        self._check_space(places, sources)
        sizes = [source.bytes for source in sources]
        self.downloader.listener.expect(None if None in sizes else sum(size or 0 for size in sizes))
        try:
            if len(sources) <= AT_ONCE:
                return [self._obtained(source, places, known) for source in sources]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                futures = [pool.submit(self._obtained, source, places, known) for source in sources]
                try:
                    return [future.result() for future in futures]
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        except ConfigError as error:
            raise ConfigError(f"{places.name}, {error}") from error.__cause__
        finally:
            self.downloader.listener.finish()

    def _obtained(self, source: Source, places: _Places, known: Record | None) -> Downloaded:
        first = None if source.digests else first_digest(known, source.name)
        wanted = source.model_copy(update={"sha256": first}) if first else source
        if (local := places.local(source)) is not None:
            try:
                return Downloaded(
                    source.name, local, None, sha256_of(local, wanted), local.stat().st_size, tuple(source.digests)
                )
            except WrongFileError as error:
                raise ConfigError(f"{source.name}: the file in {places.dataset.folder}/ {error}") from None
        try:
            fetched = self.downloader.fetch(wanted, places.downloads / source.name)
            return fetched._replace(checked_by=tuple(source.digests))  # the first digest was recorded, not published
        except ConfigError as error:
            if first is not None and "is expected" in str(error):
                raise ConfigError(
                    f"{error}; the first download was another one: remove {FOLDER}/{places.name}.* to take what comes now"
                ) from None
            kept = "what has come is kept, repeat the command to go on" if places.has_downloads else "try again later"
            raise ConfigError(
                f"{error}; {kept}, or put it into {places.dataset.folder}/ of the data root yourself"
            ) from None

    def _check_space(self, places: _Places, sources: Iterable[Source]) -> None:
        """Raises ConfigError if the disk has less room than the downloads need, archives twice."""
        needed = 0
        for source in sources:
            size = source.bytes or 0
            absent = places.local(source) is None and not (places.downloads / source.name).exists()
            needed += size * (absent + source.archive)
        free = self.free_bytes(places.home)
        if needed + SPARE_BYTES > free:
            raise ConfigError(
                f"{places.name}: needs at least {needed / 1e9:.1f} GB on the disk of {places.home}, which has {free / 1e9:.1f} GB"
            )

    def _fill(self, places: _Places, downloads: list[Downloaded], convert: Convert | None) -> None:
        """Fills the folder ``made`` with the layout of the data root."""
        places.made.mkdir(parents=True)
        if convert is None:
            _place(places, downloads)
        else:
            archives = {source.name for source in places.dataset.files if source.archive}
            inputs = {one.name: _unpacked(places, one) if one.name in archives else one.path for one in downloads}
            with _faults_named(places.name):
                convert(inputs, places.made)
        for path in places.dataset.makes:
            if not (places.made / path).exists():
                raise ConfigError(f"{places.name}: its files don't hold {path}; has the source changed?")

    def _record_what_is_there(self, dataset: DataSet) -> None:
        """Records a file that somebody put in its place by hand, so that ``data verify`` can check it from now on."""
        folder, name = record_folder(self.data_root), dataset.name
        if dataset.by_hand is None or read_record(folder, name) is not None:
            return
        files = {
            path.relative_to(self.data_root).as_posix(): digests_of(path)["sha256"]
            for one in dataset.makes
            for path in files_below(self.data_root / one)
        }
        write_record(folder, Record(name, _facts(dataset, []), files))
        self.say(f"{name}: recorded {len(files):,} files as they are")


def _unpacked(places: _Places, one: Downloaded) -> Path:
    """Unpacks an archive, and returns the folder."""
    limits = places.dataset.unpack
    assert limits is not None  # the manifest was checked for that
    folder = places.unpacked / one.name
    unpack(one.path, folder, Limits(limits.bytes, limits.files))
    return folder


@contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """Puts the set's name before the messages of its conversion."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{name}: {shortened(str(error), 220)}") from error


def _place(places: _Places, downloads: list[Downloaded]) -> None:
    """Gives files that are not converted their names, below the folder of the set."""
    for one in downloads:
        target = places.made / places.dataset.folder / one.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if places.downloads in one.path.parents:
            os.rename(one.path, target)
        else:  # a file that somebody put there stays
            shutil.copyfile(one.path, target)


def _facts(dataset: DataSet, downloads: list[Downloaded]) -> dict[str, Any]:
    return {
        "title": dataset.title,
        "makes": list(dataset.makes),
        "licence": dataset.licence,
        "cite": dataset.cite,
        "home": dataset.home,
        "fetched": datetime.now(UTC).date().isoformat(),
        "downloads": [
            {
                "name": one.name,
                "url": one.url,
                "bytes": one.bytes,
                "sha256": one.sha256,
                "checked_by": list(one.checked_by),
            }
            for one in downloads
        ],
    }


class _Places:
    """The paths of one set that is being made."""

    def __init__(self, data_root: Path, dataset: DataSet) -> None:
        self.data_root, self.name, self.dataset = data_root, dataset.name, dataset
        self.home = data_root / dataset.folder
        self.staging = self.home / f".{dataset.name}.making"
        self.ready = self.home / f".{dataset.name}.ready"
        self.lock = self.home / f".{dataset.name}.lock"
        self.downloads, self.unpacked, self.made = (self.staging / one for one in ("downloads", "unpacked", "made"))

    @property
    def has_names(self) -> bool:
        """Whether all parts have their names."""
        return all((self.data_root / path).exists() for path in self.dataset.makes)

    @property
    def is_complete(self) -> bool:
        """Whether all parts have their names, and neither a working nor a killed process has left anything beside them."""
        return self.has_names and not any(path.exists() for path in (self.ready, self.staging, self.lock))

    @property
    def has_downloads(self) -> bool:
        """Whether anything has been downloaded."""
        return any(path.is_file() for path in self.downloads.rglob("*"))

    def local(self, source: Source) -> Path | None:
        """The file of a source if somebody has put it beside the place of the set; None if not."""
        path = self.home / PurePosixPath(source.name).name
        return path if path.is_file() else None

    def publish(self) -> None:
        """Writes the record of the ready set and gives its parts their names.  May be repeated after an interruption."""
        unpublished = [path for path in self.dataset.makes if (self.ready / path).exists()]
        if unpublished and (record := read_record(self.ready / ".record", self.name)) is not None:
            write_record(record_folder(self.data_root), record)
        for path in unpublished:
            os.rename(self.ready / path, self.data_root / path)
        shutil.rmtree(self.ready)
        shutil.rmtree(self.staging, ignore_errors=True)

    def drop_unchecked(self, downloads: Iterable[Downloaded]) -> None:
        """Removes downloads that can't be used and that no digest vouches for: the next call must fetch them again."""
        for one in downloads:
            if not one.checked_by and self.downloads in one.path.parents:
                one.path.unlink()

    def clear_half_made(self) -> None:
        """Removes what was unpacked and converted.  Complete downloads stay, and those that can go on."""
        for folder in (self.unpacked, self.made):
            shutil.rmtree(folder, ignore_errors=True)
        if not self.has_downloads:
            shutil.rmtree(self.staging, ignore_errors=True)
