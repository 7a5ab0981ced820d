"""Unpacks zip and tar archives, and single packed files, of which nothing is believed: neither names nor sizes.

Only plain files and folders below the target are made, with the rights of any new file.  An archive with anything else is
refused as a whole, and what was unpacked of it is removed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from benchmark.files import as_machine_fault, is_machine_fault
from benchmark.settings.messages import ConfigError, shortened

PIECE = 1 << 18
MOST_RATIO = 200  # unpacked bytes for each packed one; texts reach 10, a bomb a million
MOST_DEPTH = 32
MOST_NAME_BYTES = 255
# zipfile expands bzip2 and LZMA at once, whatever size the archive states.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADERS_AT_ONCE = 1 << 20  # bytes between the contents of two files of a tar, such as a long name
FAULTS = (  # what the libraries raise for damaged archives
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    OverflowError,
    ValueError,  # tarfile turns the texts of PAX headers into numbers without a look at them
    LookupError,
    struct.error,
)


class Limits(NamedTuple):
    """What an archive may hold."""

    bytes: int
    files: int


class TooLargeError(ConfigError):
    """An archive holds more bytes than were granted."""

    def __init__(self, message: str, granted: int) -> None:
        super().__init__(message)
        self.granted = granted


def unpack(archive: Path, target: Path, limits: Limits) -> None:
    """Unpacks an archive into a folder that does not exist yet.  A packed file that is no archive goes in under its own name.

    Raises ConfigError, in one line, for an archive that is damaged, hostile or larger than the limits, and MachineFault if
    the disk is full; the folder is then gone.
    """
    target.mkdir(parents=True)
    try:
        into = _Target(target, limits, packed=archive.stat().st_size)
        if zipfile.is_zipfile(archive):
            _unzip(archive, into)
        else:
            _unpack_stream(archive, into)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, _HostileError):
            message = f"{archive.name}: {error}; nothing was unpacked"
            raise (
                TooLargeError(message, into.room) if isinstance(error, _TooLarge) else ConfigError(message)
            ) from None
        if isinstance(error, OSError) and is_machine_fault(error):
            raise as_machine_fault(error, str(target)) from error
        if isinstance(error, (*FAULTS, OSError)) and not isinstance(error, ConfigError):
            reason = shortened(" ".join(str(error).split()) or type(error).__name__, 120)
            raise ConfigError(f"{archive.name}: can't be unpacked ({reason}); is it cut off or damaged?") from error
        raise


class _HostileError(Exception):
    """The archive holds what is not allowed."""


class _TooLarge(_HostileError):
    """It holds more bytes than were granted."""


class _Target:
    """The folder, and the count of what went into it."""

    def __init__(self, folder: Path, limits: Limits, packed: int) -> None:
        self.folder, self.limits = folder, limits
        self.room = min(limits.bytes, MOST_RATIO * packed + (1 << 20))
        self.bytes = self.entries = 0
        self._files: set[str] = set()  # names as a file system without upper and lower case would compare them
        self._folders: set[str] = set()

    def count(self, name: str) -> None:
        """Counts an entry, of whatever kind."""
        self.entries += 1
        if self.entries > self.limits.files:
            raise _HostileError(f"holds more than {self.limits.files:,} files, which is the limit ({_quoted(name)} …)")

    def make_folder(self, name: str) -> None:
        """Makes a folder of the archive."""
        parts = self._parts(name)
        if not parts:
            return  # "./", the folder itself
        self._claim_folders(name, parts)
        self.folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, read: Callable[[int], bytes], size: int | None = None) -> None:
        """Writes a file of the archive.  read: gives the next bytes.  size: as the archive states it, if it does."""
        parts = self._parts(name)
        if not parts:
            raise _HostileError(f"has a file called {_quoted(name)}")
        self._claim_folders(name, parts[:-1])
        key = _key(parts)
        if key in self._files or key in self._folders:
            raise _HostileError(f"holds {_quoted(name)} twice")
        self._files.add(key)
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with path.open("xb") as file:
            while piece := read(PIECE):
                self.bytes += len(piece)
                written += len(piece)
                if self.bytes > self.room:
                    raise _TooLarge(f"unpacks to more than {self.room:,} bytes, which is the limit for it")
                file.write(piece)
        if size is not None and written != size:
            raise EOFError(f"{_quoted(name)} ends after {written:,} of {size:,} bytes")

    def _claim_folders(self, name: str, parts: list[str]) -> None:
        for depth in range(1, len(parts) + 1):
            key = _key(parts[:depth])
            if key in self._files:
                raise _HostileError(f"holds {_quoted(name)} below a file")
            self._folders.add(key)

    def _parts(self, name: str) -> list[str]:
        """Returns the folders and the name of an entry.  Raises _HostileError if they lead out of the target."""
        drive = len(name) > 1 and name[1] == ":"
        if name.startswith("/") or "\\" in name or drive or any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
            raise _HostileError(f"has the name {_quoted(name)}, which no file may have here")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise _HostileError(f"has the name {_quoted(name)}, which leads out of its folder")
        if len(parts) > MOST_DEPTH or any(len(part.encode()) > MOST_NAME_BYTES for part in parts):
            raise _HostileError(f"has the name {_quoted(name)}, which is too long or too deep")
        return parts


def _key(parts: list[str]) -> str:
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def _quoted(name: str) -> str:
    return shortened(ascii(name), 80)


def _unzip(archive: Path, into: _Target) -> None:
    with zipfile.ZipFile(archive) as content:
        entries = content.infolist()
        if sum(entry.file_size for entry in entries) > into.room:
            raise _TooLarge(f"unpacks to more than {into.room:,} bytes, which is the limit for it")
        for entry in entries:
            into.count(entry.filename)
            if entry.orig_filename != entry.filename:  # zipfile cuts a name at NUL
                raise _HostileError(f"has the name {_quoted(entry.orig_filename)}, which no file may have here")
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _HostileError(f"holds {_quoted(entry.filename)}, a {_kind(kind)}; only plain files are unpacked")
            if entry.flag_bits & 1:
                raise _HostileError(f"holds {_quoted(entry.filename)}, which is encrypted")
            if entry.compress_type not in ZIP_METHODS:
                raise _HostileError(f"holds {_quoted(entry.filename)}, packed by another method than deflate")
            if entry.is_dir():
                into.make_folder(entry.filename)
                continue
            with content.open(entry) as file:
                into.write(entry.filename, file.read, entry.file_size)


def _kind(mode: int) -> str:
    return {
        stat.S_IFLNK: "link",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }.get(mode, "special file")


_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_ENDINGS = (".gz", ".bz2", ".xz")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The unpacked bytes of a file, and whether it was packed at all."""
    with path.open("rb") as file:
        start = file.read(8)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    with opener(path) if opener else path.open("rb") as file:
        yield file, opener is not None


def _unpack_stream(archive: Path, into: _Target) -> None:
    with _opened(archive) as (file, packed):
        is_tar = _begins_as_tar(file.read(tarfile.BLOCKSIZE))
    with _opened(archive) as (file, packed):
        if is_tar:
            _untar(file, into)
        elif packed:
            name = archive.name
            into.count(name)
            into.write(name[: name.rindex(".")] if name.lower().endswith(_ENDINGS) else name, file.read)
        else:
            raise _HostileError("is neither a zip nor a tar archive nor packed by gzip, bzip2 or xz")


def _begins_as_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


class _Rationed:
    """A stream that gives no more than was granted: a tar may state a name of a gigabyte, which would be read into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.granted, self.what = file, 0, "a header"

    def read(self, size: int) -> bytes:
        """Returns the next bytes."""
        piece = self._file.read(size)
        self.granted -= len(piece)
        if self.granted < 0:
            raise _HostileError(f"has {self.what} of more than {HEADERS_AT_ONCE:,} bytes")
        return piece


class _StrictHeader(tarfile.TarInfo):
    """A header that must be sound: ``TarFile.next`` takes a damaged or missing one, unless it is the first, for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        """Returns the header of a block.  Raises ReadError for one that is neither a header nor the end of the archive."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # a block of zeros, the end
            raise tarfile.ReadError(f"no end of the archive, but {error}") from None


def _untar(file: BinaryIO, into: _Target) -> None:
    stream = _Rationed(file)
    stream.granted = HEADERS_AT_ONCE
    with tarfile.open(fileobj=stream, mode="r|", errorlevel=2, tarinfo=_StrictHeader) as content:  # type: ignore[call-overload]  # only read() is called
        while True:
            stream.granted = HEADERS_AT_ONCE
            entry = content.next()
            if entry is None:
                _check_end(content.fileobj, stream)
                return
            content.members = []  # else tarfile keeps all entries in memory
            into.count(entry.name)
            if entry.isdir():
                into.make_folder(entry.name)
                continue
            if not entry.isreg() or entry.issparse():
                what = "link" if entry.islnk() or entry.issym() else "device, pipe or sparse file"
                raise _HostileError(f"holds {_quoted(entry.name)}, a {what}; only plain files are unpacked")
            if entry.size > into.room - into.bytes:
                raise _TooLarge(f"unpacks to more than {into.room:,} bytes, which is the limit for it")
            stream.granted = entry.size + HEADERS_AT_ONCE
            member = content.extractfile(entry)
            assert member is not None  # it is a plain file
            into.write(entry.name, member.read, entry.size)


def _check_end(rest: BinaryIO, stream: _Rationed) -> None:
    """Raises ReadError if more than zeros follows the first block of zeros, or less than a second one.

    The stream is read to its end, because only there do gzip, bzip2 and xz compare their check sums.
    """
    stream.granted, stream.what = HEADERS_AT_ONCE, "an end"
    count = 0
    while piece := rest.read(PIECE):
        count += len(piece)
        if any(piece):
            raise tarfile.ReadError("files follow after its end")
    if count < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end is missing")
