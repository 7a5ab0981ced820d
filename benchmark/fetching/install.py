"""Puts a public data set into a data root: downloads, unpacks, converts, and only then gives it its name.

All work is done in ``.<name>.making`` beside the place of the set; readers of data pass names with a dot by.  A complete set is
renamed to ``.<name>.ready``, its parts are renamed to their places, and its record is written.  Whatever moment a process is
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
from benchmark.fetching.partial import partial_path
from benchmark.fetching.records import (
    FOLDER,
    Record,
    files_below,
    first_digest,
    read_record,
    record_folder,
    record_names,
    write_record,
)
from benchmark.fetching.unpack import Limits, TooLargeError, unpack
from benchmark.files import MachineFault, as_machine_fault, is_companion
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
            self._take_what_is_there(places)
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
            self._take_what_is_there(places)
            return False
        if places.taken:
            raise places.refusal(places.taken[0])
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
                try:
                    futures = [pool.submit(self._obtained, source, places, known) for source in sources]
                    return [future.result() for future in futures]
                except BaseException:
                    with self.downloader.stopped():  # a thread may wait for minutes, because a server asked it to
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
        """Raises ConfigError if the disk has less room than what is still to come, and archives once more for what is in them."""
        needed = 0
        for source in sources:
            there = places.num_bytes(source)
            size = source.bytes or there
            needed += max(0, size - there) + size * source.archive
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
            inputs = {one.name: self._unpacked(places, one) if one.name in archives else one.path for one in downloads}
            with _faults_named(places.name):
                convert(inputs, places.made)
        for path in places.dataset.makes:
            if not (places.made / path).exists():
                raise ConfigError(f"{places.name}: its files don't hold {path}; has the source changed?")

    def _unpacked(self, places: _Places, one: Downloaded) -> Path:
        """Unpacks an archive, and returns the folder.  Raises MachineFault if it holds more than the disk has room for."""
        limits = places.dataset.unpack
        assert limits is not None  # the manifest was checked for that
        folder, room = places.unpacked / one.name, max(0, self.free_bytes(places.home) - SPARE_BYTES)
        try:
            unpack(one.path, folder, Limits(min(limits.bytes, room), limits.files))
        except TooLargeError as error:
            if error.granted == room:  # the disk's, not the manifest's or what the packed size allows
                raise MachineFault(
                    f"{places.name}: {one.name} unpacks to more than the {room / 1e9:.1f} GB that the disk of {places.home} "
                    "has room for; make room, then repeat this command"
                ) from None
            raise
        return folder

    def _take_what_is_there(self, places: _Places) -> None:
        """Checks that the files in the place of a set are this set, and records them if a person put them there.

        Files that are placed as they are downloaded are compared.  Of a converted set the recorded files must be there, and
        ``data verify`` compares them; without a record nothing vouches for them, so they are refused, except where a person must
        fetch them.  Raises ConfigError for files that are not those of the set.
        """
        dataset, known = places.dataset, read_record(record_folder(self.data_root), places.name)
        if known is None and (places.owner() or not (dataset.is_plain or dataset.by_hand)):
            raise places.refusal(places.taken[0])
        if dataset.is_plain:
            for source in dataset.files:
                self._compare(places, source, known)
        elif known is not None and (
            lost := next((path for path in known.files if not (self.data_root / path).is_file()), None)
        ):
            raise ConfigError(
                f"{places.name}: {shortened(lost, 100)} is missing, which {FOLDER}/{places.name}.sha256 lists; {places.way_out}"
            )
        if known is None and not (dataset.is_plain and all(source.digests for source in dataset.files)):
            self._record_as_it_is(places)

    def _compare(self, places: _Places, source: Source, known: Record | None) -> None:
        """Compares a file in its place with what is published, or else recorded.  Raises ConfigError if it is another one."""
        path, way_out = f"{places.dataset.folder}/{source.name}", places.way_out
        if not source.digests and known is not None:
            source = source.model_copy(update={"sha256": known.files.get(path)})
            way_out = f"put back the recorded file, or remove {FOLDER}/{places.name}.* to take this one"
        try:
            if not (self.data_root / path).is_file():
                raise WrongFileError("is missing")
            sha256_of(self.data_root / path, source)
        except WrongFileError as error:
            raise ConfigError(f"{places.name}: {path} {error}; {way_out}") from None

    def _record_as_it_is(self, places: _Places) -> None:
        """Records files that somebody put in their place by hand, so that ``data verify`` can check them from now on."""
        paths = {
            path.relative_to(self.data_root).as_posix(): path
            for one in places.dataset.makes
            for path in files_below(self.data_root / one)
        }
        files = {
            name: digests_of(path)["sha256"]
            for name, path in paths.items()
            if not any(map(is_companion, PurePosixPath(name).parts))
        }
        if not files:
            raise places.refusal(places.taken[0])
        write_record(record_folder(self.data_root), Record(places.name, _facts(places.dataset, []), files))
        self.say(f"{places.name}: recorded {len(files):,} files as they are")


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
    def taken(self) -> list[str]:
        """The paths of the set where something lies.  An empty folder is nothing."""
        paths = {one: self.data_root / one for one in self.dataset.makes}
        return [one for one, path in paths.items() if path.is_file() or (path.is_dir() and any(path.iterdir()))]

    @property
    def has_names(self) -> bool:
        """Whether all parts have their names."""
        return len(self.taken) == len(self.dataset.makes)

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

    def owner(self) -> str | None:
        """The name of another set whose record says that it made one of the paths; None if there is none."""
        for name in record_names(self.data_root):
            with suppress(ConfigError):  # a damaged record says nothing, and ``data verify`` names it
                record = read_record(record_folder(self.data_root), name)
                if name != self.name and record and set(record.facts["makes"]) & set(self.dataset.makes):
                    return name
        return None

    @property
    def way_out(self) -> str:
        """What a person can do about files that are not those of the set."""
        return f"move {', '.join(self.dataset.makes)} away, and prepare fetches the set"

    def refusal(self, path: str, more: str = "") -> ConfigError:
        """What is raised if something else lies at a path of the set."""
        owner = self.owner()
        return ConfigError(
            f"{self.name}: {path} is there already, and {f'is of {owner}' if owner else 'not of this set'}; "
            f"give another --data-root, or move it away{more}"
        )

    def num_bytes(self, source: Source) -> int:
        """How many bytes of a source are on the disk: of the whole file, or of a download that can go on."""
        target = self.downloads / source.name
        for path in (self.local(source), target, partial_path(target)):
            if path is not None and path.is_file():
                return path.stat().st_size
        return 0

    def publish(self) -> None:
        """Gives the parts of the ready set their names, and then writes its record.  May be repeated after an interruption.

        Raises ConfigError if something else has taken one of the names since they were looked at; the ready set is kept.
        """
        # One set at a time in a folder: of two that make the same paths the second one must see the first one's.
        with alone(self.home / ".publishing.lock", lambda: None):
            record = read_record(self.ready / ".record", self.name)
            waiting = [path for path in self.dataset.makes if (self.ready / path).exists()]
            if met := [path for path in self.taken if path in waiting]:
                raise self.refusal(met[0], f"; this set waits in {self.dataset.folder}/{self.ready.name}")
            for path in waiting:
                os.rename(self.ready / path, self.data_root / path)
            if record is not None:
                write_record(record_folder(self.data_root), record)
        # In one step, because a process killed while it removes the record would leave a damaged one.
        self.staging.mkdir(exist_ok=True)
        os.rename(self.ready, self.made)
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
