"""Archives that are made to lead elsewhere, to fill memory or disk, or to be read otherwise than they were checked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from packs import files_of, record_named, refusal, with_manifest, write

from benchmark.settings.messages import ConfigError
from benchmark.sharing import limits
from benchmark.sharing.board import verify


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "records/../../evil.json",
        "/etc/evil.json",
        "records/recall/../evil.json",
        "records/recall/.hidden.json",
        "records\\recall\\evil.json",
        "C:/evil.json",
        "records/recall/evil.json/",
        "sources/evil.sh",
        "sources/a/b.py",
        "records/recall/" + "a" * 300 + ".json",
        "records/recall/evil\n.json",
        "manifest.json/x",
    ],
)
def test_names_that_lead_elsewhere_are_refused(sound, tmp_path, name):
    pack = write(tmp_path / "a.zip", {**files_of(sound), name: b"{}"})
    assert "no name of a file in a pack" in refusal(pack, tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_name_with_a_null_byte_is_refused(sound, tmp_path):
    pack = write(tmp_path / "a.zip", {**files_of(sound), "records/recall/evil.json@.gz": b"{}"})
    pack.write_bytes(pack.read_bytes().replace(b"evil.json@", b"evil.json\0"))
    assert "no name of a file in a pack" in refusal(pack, tmp_path)


def test_links_and_special_files_are_refused(sound, tmp_path):
    for number, mode in enumerate((0o120777, 0o010666, 0o060666, 0o040755)):
        pack = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(pack, "w") as archive:
            for name, content in files_of(sound).items():
                archive.writestr(zipfile.ZipInfo(name), content)
            entry = zipfile.ZipInfo("records/recall/link.json")
            entry.external_attr = mode << 16
            archive.writestr(entry, "/etc/passwd")
        assert "records/recall/link.json: a link or another special file" in refusal(pack, tmp_path)


def test_other_methods_encryption_and_repeated_names_are_refused(sound, tmp_path):
    with zipfile.ZipFile(tmp_path / "bz.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("manifest.json", "{}")
    assert "packed by another method than deflate" in refusal(tmp_path / "bz.zip", tmp_path)
    content = bytearray(sound.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    assert "encrypted" in refusal(tmp_path / "locked.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.json", "{ }")
    assert "manifest.json: is there twice" in refusal(tmp_path / "twice.zip", tmp_path)


def test_bombs_are_refused(sound, tmp_path, monkeypatch):
    files = files_of(sound)
    name = record_named(files, ".lavo.s0.").removesuffix(".json") + ".examples.csv.gz"
    large = {**files, name: b"\0" * (16 * 2**20 + 1)}
    assert "at most 16,777,216 are allowed in a pack" in refusal(write(tmp_path / "a.zip", large), tmp_path)
    # The archive says that the file is small.
    content = bytearray((tmp_path / "a.zip").read_bytes())
    size = struct.pack("<I", 16 * 2**20 + 1)
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = struct.pack("<I", 100)
    (tmp_path / "b.zip").write_bytes(content)
    assert "refused" in refusal(tmp_path / "b.zip", tmp_path)
    # A gzip file of 100 kB that holds more than 64 MiB.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b"0,1\n" * 2**18) for _ in range(70)) + packer.flush()
    assert len(bomb) < 2**20
    files[name] = bomb
    pack = write(tmp_path / "c.zip", with_manifest(files))
    assert "more than 64 MiB when unpacked" in refusal(pack, tmp_path)
    monkeypatch.setattr("benchmark.sharing.unpack.MOST_FILES", 5)
    assert "files; a pack has at most 5" in refusal(sound, tmp_path)
    monkeypatch.setattr("benchmark.sharing.unpack.MOST_FILES", limits.MOST_FILES)
    monkeypatch.setattr("benchmark.sharing.unpack.MOST_BYTES", sound.stat().st_size)
    assert "bytes when unpacked" in refusal(sound, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a sound zip file"),
        (b"PK\x05\x06" + b"\0" * 18, "has no manifest.json"),
        (b"no zip at all", "not a sound zip file"),
    ],
)
def test_what_is_no_zip_file_is_refused(tmp_path, content, words):
    (tmp_path / "a.zip").write_bytes(content)
    assert words in refusal(tmp_path / "a.zip", tmp_path)


def test_a_pack_cut_off_anywhere_is_refused(sound, tmp_path):
    whole = sound.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "a.zip").write_bytes(whole[: int(share * len(whole))])
        assert "refused" in refusal(tmp_path / "a.zip", tmp_path)


def test_a_flipped_bit_is_refused_wherever_it_changes_a_file(sound, tmp_path):
    whole = sound.read_bytes()
    before = files_of(sound)
    for at in range(7, len(whole), len(whole) // 40):
        content = bytearray(whole)
        content[at] ^= 0x10
        (tmp_path / "a.zip").write_bytes(content)
        found = accepted(tmp_path / "a.zip", tmp_path / str(at))
        assert found is None or found.manifest.as_bytes() == before["manifest.json"]


def accepted(pack: Path, folder: Path):
    """The pack, or None if it is refused, in one line."""
    try:
        return verify(pack, folder)
    except ConfigError as error:
        return None if "\n" not in str(error) else pytest.fail(str(error))
