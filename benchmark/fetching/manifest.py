"""The manifest of a task, ``sources.yaml``: which public data sets there are, where they lie, and how they are checked."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator, model_validator

from benchmark.settings import Settings
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.yaml_files import read_yaml

MOST_BYTES = 1 << 30  # of a file whose size the manifest does not state
# Loopback may do without encryption: a mirror on this machine, and the servers of the tests.
_ADDRESS = re.compile(r"https://[^\s/]+/\S*|http://127\.0\.0\.1(:\d+)?/\S*")


def is_address(url: str) -> bool:
    """Returns whether a file may be fetched from here: https, or http on this machine itself."""
    return _ADDRESS.fullmatch(url) is not None


def may_redirect(url: str, target: str) -> bool:
    """Returns whether a redirect is followed: to https, or from this machine to itself.  No other server may ask this machine."""
    return is_address(target) and (target.startswith("https://") or not url.startswith("https://"))


def _inside(path: str) -> str:
    """Returns the path if it stays below the folder that it is relative to.  Raises ValueError otherwise."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or {".", ".."} & set(path.split("/")) or re.search(r"[\\:\0]", path):
        raise ValueError("must stay below the data root")
    return path


def _address(url: str) -> str:
    if not is_address(url):
        raise ValueError("must be an https address")
    return url


class Source(Settings):
    """One file to download, with the digests that its publisher or somebody who had it has published."""

    name: str  # where it stands among the downloads of the set, with / as separator
    urls: tuple[str, ...] = ()  # its address, then mirrors of the same bytes; none if it must be fetched by hand
    bytes: int | None = Field(default=None, ge=0)
    archive: bool = Field(default=False, description="it is unpacked before the conversion")
    at_most: int = Field(default=MOST_BYTES, ge=1, description="bytes, where the exact number is not known")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    git_sha1: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$", description="the name of its blob in git")

    @field_validator("name")
    @classmethod
    def _name_stays_inside(cls, name: str) -> str:
        return _inside(name)

    @field_validator("urls")
    @classmethod
    def _urls_are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(url) for url in urls)

    @property
    def digests(self) -> dict[str, str]:
        """The published digests by the name of their kind; empty if none is known."""
        known = {"sha256": self.sha256, "md5": self.md5, "git_sha1": self.git_sha1}
        return {kind: digest for kind, digest in known.items() if digest is not None}

    @property
    def limit(self) -> int:
        """The number of bytes beyond which a download is ended."""
        return self.at_most if self.bytes is None else self.bytes


class Listing(Settings):
    """A bucket of Google's storage whose listing names the files, with their sizes and MD5 digests."""

    url: str  # of the JSON listing
    files_at: str  # the address to which a file's name is appended
    prefixes: dict[str, int]  # folder in the bucket -> the number of files that it must have
    names: str  # a regular expression for the names of files; all other names are refused

    @field_validator("url", "files_at")
    @classmethod
    def _are_addresses(cls, url: str) -> str:
        return _address(url)


class Unpacked(Settings):
    """Limits for what the archives of a set hold; more is refused."""

    bytes: int = Field(ge=1)
    files: int = Field(ge=1)


class DataSet(Settings):
    """One data set."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    title: str
    makes: tuple[str, ...] = Field(min_length=1)  # files or folders in the data root, all in one folder
    files: tuple[Source, ...] = ()
    listing: Listing | None = None
    unpack: Unpacked | None = None  # needed if a file is an archive
    convert: str | None = None  # a function of the task's conversions.py; None: the files are placed as they are
    licence: str = Field(min_length=1)
    terms: str | None = None  # what one must agree to; then --accept-terms is needed
    by_hand: str | None = None  # why and where the files must be fetched by hand
    cite: str = Field(min_length=1)
    home: str  # the page of the data set
    is_data: bool = True  # False: it belongs to data, such as a vocabulary, and can't be read alone
    read_by: dict[str, str] = {}  # the settings with which the task reads it

    @field_validator("makes")
    @classmethod
    def _makes_stay_inside(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        if len({PurePosixPath(_inside(path)).parent for path in paths}) > 1:
            raise ValueError("all must lie in one folder")
        return paths

    @model_validator(mode="after")
    def _says_where_from(self) -> DataSet:
        if not self.files and self.listing is None:
            raise ValueError("needs files or a listing")
        if any(source.archive for source in self.files) and (self.unpack is None or self.convert is None):
            raise ValueError("an archive needs unpack, its limits, and convert")
        if self.by_hand is None and any(not source.urls for source in self.files):
            raise ValueError("a file without urls needs by_hand")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether its files are placed as they are downloaded, so that the digests of the downloads are theirs."""
        return self.convert is None and self.listing is None

    @property
    def folder(self) -> str:
        """The folder of the data root in which the set lies."""
        return PurePosixPath(self.makes[0]).parent.as_posix()


class Manifest(Settings):
    """The file ``sources.yaml`` of a task."""

    sets: list[DataSet]

    @field_validator("sets")
    @classmethod
    def _names_are_different(cls, sets: list[DataSet]) -> list[DataSet]:
        names = [dataset.name for dataset in sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sets are called {twice[0]}")
        return sets


def read_manifest(path: Path) -> dict[str, DataSet]:
    """Returns the sets of a manifest by name; none if it doesn't exist.  Raises ConfigError for a wrong manifest."""
    if not path.is_file():
        return {}
    manifest = validate(Manifest, read_yaml(path), lambda _: str(path))
    return {dataset.name: dataset for dataset in manifest.sets}


def choose_set(sets: dict[str, DataSet], name: str, task: str) -> DataSet:
    """Returns the set of this name.  Raises ConfigError, which names what there is, if the task has none of this name."""
    if name not in sets:
        raise ConfigError(f"--name {name}: {task} has {', '.join(sets) or 'no public data set'}")
    return sets[name]
