"""Unpacking: what a hostile archive holds neither leaves its folder nor fills the disk, and nothing of it stays."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.fetching.unpack import HEADERS_AT_ONCE, Limits, unpack
from benchmark.settings.messages import ConfigError

FILES = {"a.txt": b"alpha", "sub/b.txt": b"beta" * 1000, "sub/deep/c.bin": bytes(range(256)), "empty": b""}
LIMITS = Limits(bytes=1 << 20, files=20)


def tar_of(entries: list[tuple[tarfile.TarInfo | str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as content:
        for entry, text in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(text) if info.isreg() else 0
            content.addfile(info, io.BytesIO(text) if info.isreg() else None)
    return packed.getvalue()


def zip_of(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as content:
        for entry, text in entries:
            content.writestr(entry, text)
    return packed.getvalue()


def info(name: str, kind: bytes, **fields) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry, b""


def special(name: str, mode: int, text: bytes = b"") -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (mode | 0o777) << 16
    return entry, text


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", PACKERS)
def test_a_tar_is_unpacked(ending, form, tmp_path):
    long = {**FILES, "/".join(["n" * 60] * 3): b"a long name"}
    (tmp_path / f"x.{ending}").write_bytes(PACKERS[ending](tar_of([info("sub", tarfile.DIRTYPE), *long.items()], form)))
    unpack(tmp_path / f"x.{ending}", tmp_path / "out", LIMITS)
    assert contents(tmp_path / "out") == long


def test_a_zip_is_unpacked_with_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "x.zip").write_bytes(
        zip_of([("sub/", b""), *FILES.items(), special("run.sh", stat.S_IFREG | stat.S_ISUID, b"exit")])
    )
    before = os.umask(0o027)
    try:
        unpack(tmp_path / "x.zip", tmp_path / "out", LIMITS)
    finally:
        os.umask(before)
    assert contents(tmp_path / "out") == {**FILES, "run.sh": b"exit"}
    assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_packed_file_is_unpacked_under_its_own_name(ending, pack, tmp_path):
    (tmp_path / f"series.txt.{ending}").write_bytes(pack(b"1,2\n3,4\n"))
    unpack(tmp_path / f"series.txt.{ending}", tmp_path / "out", LIMITS)
    assert contents(tmp_path / "out") == {"series.txt": b"1,2\n3,4\n"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


GOOD = ("good.txt", b"good")
OUTSIDE = ["../x", "/tmp/lavo-x", "a/../../x", "..", "C:/x", "C:x", "a\\..\\x", "\\\\host\\x", "a\nb", "a/\x7f"]
HOSTILE_TARS = {
    **{f"the name {name!r}": ([GOOD, (name, b"x")], "name") for name in OUTSIDE},
    "a name that is too long": ([("d/" * 40 + "x", b"")], "too long or too deep"),
    "a link out": ([info("l", tarfile.SYMTYPE, linkname="../../etc"), ("l/passwd", b"x")], "link"),
    "a link inside": ([GOOD, info("l", tarfile.SYMTYPE, linkname="good.txt")], "link"),
    "a hard link": ([GOOD, info("l", tarfile.LNKTYPE, linkname="good.txt")], "link"),
    "a hard link out": ([info("l", tarfile.LNKTYPE, linkname="/etc/passwd")], "link"),
    "a character device": ([info("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "device"),
    "a block device": ([info("sda", tarfile.BLKTYPE, devmajor=8)], "device"),
    "a pipe": ([info("pipe", tarfile.FIFOTYPE)], "pipe"),
    "a name twice": ([GOOD, GOOD], "twice"),
    "a name twice but for case": ([("a/B.txt", b"1"), ("A/b.TXT", b"2")], "twice"),
    "a name twice but for accents": ([("\u00e9", b"1"), ("e\u0301", b"2")], "twice"),
    "a file that is a folder too": ([("a/b", b"1"), ("a", b"2")], "twice"),
    "a file below a file": ([("a", b"1"), ("a/b", b"2")], "below a file"),
    "a folder below a file": ([("a", b"1"), info("a/b", tarfile.DIRTYPE)], "below a file"),
    "a file without a name": ([(".", b"1")], "called"),
    "more files than are allowed": ([(f"f{i}", b"") for i in range(21)], "more than 20 files"),
    "more folders than are allowed": ([info(f"d{i}", tarfile.DIRTYPE) for i in range(21)], "more than 20 files"),
    "more bytes than are allowed": ([("a", bytes(1 << 19)), ("b", bytes((1 << 19) + 1))], "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("entries", "reason"), HOSTILE_TARS.values(), ids=HOSTILE_TARS)
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_hostile_tar_is_refused_as_a_whole(ending, entries, reason, tmp_path):
    refused(tmp_path, f"x.{ending}", PACKERS[ending](tar_of(entries)), reason)


HOSTILE_ZIPS = {
    **{f"the name {name!r}": ([GOOD, (zipfile.ZipInfo(name), b"x")], "name") for name in OUTSIDE if name != ".."},
    "a link": ([special("l", stat.S_IFLNK, b"../../etc/passwd")], "a link"),
    "a device": ([special("d", stat.S_IFCHR)], "a device"),
    "a pipe": ([special("p", stat.S_IFIFO)], "a pipe"),
    "a name twice but for case": ([("a/B.txt", b"1"), ("A/b.TXT", b"2")], "twice"),
    "a file below a file": ([("a", b"1"), ("a/b", b"2")], "below a file"),
    "more files than are allowed": ([(f"f{i}", b"") for i in range(21)], "more than 20 files"),
    "more bytes than are allowed": ([("a", bytes(1 << 21))], "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("entries", "reason"), HOSTILE_ZIPS.values(), ids=HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused_as_a_whole(entries, reason, tmp_path):
    refused(tmp_path, "x.zip", zip_of(entries), reason)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(tmp_path):
    refused(tmp_path, "x.zip", zip_of([GOOD, GOOD]), "twice")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    """Its directory says 1 byte; the entry holds a thousand.  zipfile reads one byte, whose check sum is wrong."""
    packed = zip_of([("a", bytes(1000))])
    lie = packed.replace(struct.pack("<L", 1000), struct.pack("<L", 1))
    assert lie != packed
    refused(tmp_path, "x.zip", lie, "can't be unpacked")


def test_an_encrypted_zip_is_refused(tmp_path):
    packed = bytearray(zip_of([("a", b"secret")]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + offset] |= 1
    refused(tmp_path, "x.zip", bytes(packed), "encrypted")


BOMBS = {
    "gz": lambda size: gzip.compress(bytes(size)),
    "bz2": lambda size: bz2.compress(bytes(size)),
    "xz": lambda size: lzma.compress(bytes(size)),
    "tar.gz": lambda size: gzip.compress(tar_of([("a", bytes(size))])),
    "zip": lambda size: zip_of([("a", bytes(size))]),
}


@pytest.mark.parametrize("ending", BOMBS)
def test_a_bomb_is_refused_by_its_ratio_before_it_unfolds(ending, tmp_path):
    """The limit is far off, but 32 MiB of zeros take a few kilobytes."""
    content = BOMBS[ending](32 << 20)
    assert len(content) < 1 << 18
    refused(tmp_path, f"x.{ending}", content, "which is the limit for it", Limits(bytes=1 << 40, files=10))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_a_method_that_unfolds_at_once_is_refused_unread(method, tmp_path):
    """zipfile expands such an entry before it cuts it to the size that the directory states, here 1,000 bytes."""
    packed, size = io.BytesIO(), 4 << 20
    with zipfile.ZipFile(packed, "w", method) as content:
        content.writestr("a", bytes(size))
    lie = packed.getvalue().replace(struct.pack("<L", size), struct.pack("<L", 1000))
    tracemalloc.start()
    try:
        refused(tmp_path, "x.zip", lie, "holds 'a', packed by another method than deflate")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_name_of_a_gigabyte_is_not_read_into_memory(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 28
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(256):
            file.write(b"n" * (1 << 20))
    tracemalloc.start()
    try:
        refused(tmp_path, "x.tar.gz", None, "header of more than")
        assert tracemalloc.get_traced_memory()[1] < 8 * HEADERS_AT_ONCE
    finally:
        tracemalloc.stop()


SEVERAL = tar_of([(f"f{number}", os.urandom(600)) for number in range(10)], tarfile.USTAR_FORMAT)
SIXTH = 5 * (512 + 1024)  # where its header is


def changed(content: bytes, place: int, by: bytes | None = None) -> bytes:
    """The content with a bit turned, or with other bytes, at a place."""
    new = bytes([content[place] ^ 1]) if by is None else by
    return content[:place] + new + content[place + len(new) :]


DAMAGED_TARS = {
    "a bit of a check sum": changed(SEVERAL, SIXTH + 148),
    "a bit of a name": changed(SEVERAL, SIXTH),
    "cut between two files": SEVERAL[:SIXTH],
    "cut in a header": SEVERAL[: SIXTH + 300],
    "without its end": SEVERAL[: 10 * (512 + 1024)],
    "with half of its end": SEVERAL[: 10 * (512 + 1024) + 512],
    "a header of zeros": changed(SEVERAL, SIXTH, bytes(512)),
    "a hole of zeros": changed(SEVERAL, SIXTH, bytes(2 * (512 + 1024))),
}


@pytest.mark.parametrize("damage", DAMAGED_TARS)
@pytest.mark.parametrize("ending", PACKERS)
def test_a_damaged_tar_is_not_taken_for_a_whole_one(ending, damage, tmp_path):
    refused(tmp_path, f"x.{ending}", PACKERS[ending](DAMAGED_TARS[damage]), "can't be unpacked")


STORED = gzip.compress(SEVERAL, compresslevel=0)
DAMAGED_PACKINGS = {
    "gz, a bit of the data": ("gz", changed(STORED, STORED.index(SEVERAL[600:650]))),
    "gz, a bit of the check sum": ("gz", changed(STORED, len(STORED) - 8)),
    "gz, cut before the check sum": ("gz", STORED[:-8]),
    "gz, something after it": ("gz", STORED + b"something"),
    "bz2, cut in the check sum": ("bz2", bz2.compress(SEVERAL)[:-4]),
    "xz, cut in the check sum": ("xz", lzma.compress(SEVERAL)[:-20]),
}


@pytest.mark.parametrize(("ending", "content"), DAMAGED_PACKINGS.values(), ids=DAMAGED_PACKINGS)
def test_the_check_sum_of_a_packed_tar_is_compared(ending, content, tmp_path):
    refused(tmp_path, f"x.tar.{ending}", content, "can't be unpacked")


def test_a_tar_may_be_padded_with_zeros(tmp_path):
    (tmp_path / "x.tar").write_bytes(SEVERAL + bytes(1 << 19))
    unpack(tmp_path / "x.tar", tmp_path / "out", LIMITS)
    assert len(contents(tmp_path / "out")) == 10


def test_an_endless_end_of_a_tar_is_refused(tmp_path):
    content = gzip.compress(SEVERAL + bytes(1 << 21))
    refused(tmp_path, "x.tar.gz", content, "has an end of more than 1,048,576 bytes")


@pytest.mark.parametrize("headers", [{"GNU.sparse.size": "x"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}])
def test_a_pax_header_that_tarfile_stumbles_over_is_one_line_with_the_archive(headers, tmp_path):
    entry, _ = info("a", tarfile.REGTYPE, pax_headers=headers)
    refused(tmp_path, "x.tar", tar_of([(entry, b"text")]), "can't be unpacked")


DAMAGED = {
    "zip": zip_of(list(FILES.items()))[:-30],
    "tar": tar_of([("a", bytes(5000))])[:3000],
    "tar.gz": gzip.compress(tar_of([("a", os.urandom(5000))]))[:3000],
    "tar.bz2": bz2.compress(tar_of([("a", os.urandom(5000))]))[:3000],
    "gz": gzip.compress(os.urandom(5000))[:3000],
    "txt": b"no archive at all",
    "empty": b"",
}


@pytest.mark.parametrize("ending", DAMAGED)
def test_a_damaged_archive_is_one_line_and_nothing_stays(ending, tmp_path):
    refused(tmp_path, f"x.{ending}", DAMAGED[ending], "can't be unpacked|neither a zip")


def test_damage_within_a_zip_is_found(tmp_path):
    packed = bytearray(zip_of([("a", os.urandom(5000))]))
    packed[2000] ^= 1
    refused(tmp_path, "x.zip", bytes(packed), "can't be unpacked")


def refused(tmp_path: Path, name: str, content: bytes | None, reason: str, limits: Limits = LIMITS) -> None:
    """The archive is refused in one line; nothing stands beside it, inside the target or outside."""
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outside = Path("/tmp/lavo-x")
    before = outside.exists()
    with pytest.raises(ConfigError, match=reason) as caught:
        unpack(tmp_path / name, folder / "out", limits)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["one", "two", name])
    assert outside.exists() == before
