"""Files in the place of a set are taken for it only if a record or a published digest says so, or a person must put them there."""

from __future__ import annotations

import shutil

import pytest
from misbehaving_server import whole
from test_install import PARTS, WANTED, dataset, found, packed, texts

from benchmark.fetching.records import read_record, record_folder
from benchmark.settings.messages import ConfigError


def place(root, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_a_set_in_the_place_of_another_is_named(site, installer, tmp_path):
    assert installer.install(dataset(site.page("t", whole(packed()))), texts)
    other = dataset(site.page("o", whole(packed())), name="others")
    with pytest.raises(ConfigError) as caught:
        installer.install(other, texts)
    assert str(caught.value) == (
        "others: lm/train is there already, and is of texts; give another --data-root, or move it away"
    )
    assert len(site.asked) == 1
    assert read_record(record_folder(tmp_path / "root"), "others") is None
    assert found(tmp_path / "root") == WANTED


def test_converted_files_without_a_record_are_not_taken_for_the_set(site, installer, tmp_path):
    place(tmp_path / "root", WANTED)
    with pytest.raises(ConfigError, match="texts: lm/train is there already, and not of this set; give another"):
        installer.install(dataset(site.page("t", whole(packed()))), texts)
    assert found(tmp_path / "root") == WANTED


def test_a_record_whose_files_were_replaced_vouches_for_nothing(site, installer, tmp_path):
    wanted = dataset(site.page("t", whole(packed())))
    assert installer.install(wanted, texts)
    shutil.rmtree(tmp_path / "root" / "lm")
    place(tmp_path / "root", {f"lm/{part}/mine.txt": b"mine" for part in PARTS})
    with pytest.raises(
        ConfigError, match=r"lm/test/a\.txt is missing, which \.lavo-bench/texts\.sha256 lists; move lm/"
    ):
        installer.install(wanted, texts)
    shutil.rmtree(tmp_path / "root" / "lm")
    assert installer.install(wanted, texts)


def test_empty_folders_are_no_set_and_get_no_record(installer, said, tmp_path):
    wanted, root = dataset(None, by_hand="from a page"), tmp_path / "root"
    for part in PARTS:
        (root / "lm" / part).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"texts: fetch texts\.zip by hand from a page"):
        installer.install(wanted, texts)
    for part in PARTS:
        (root / "lm" / part / "empty").mkdir()
    with pytest.raises(ConfigError, match="texts: lm/train is there already, and not of this set"):
        installer.install(wanted, texts)
    assert (said, read_record(record_folder(root), "texts")) == ([], None)
    for part in PARTS:
        (root / "lm" / part / "empty").rmdir()
    place(root, {"lm/texts.zip": packed()})
    assert installer.install(wanted, texts)


def test_a_folder_that_a_person_must_make_is_recorded_without_hidden_files(installer, said, tmp_path):
    place(tmp_path / "root", WANTED | {"lm/train/.DS_Store": b"x"})
    assert not installer.install(dataset(None, by_hand="from a page"), texts)
    assert said == ["texts: recorded 3 files as they are"]
    assert read_record(record_folder(tmp_path / "root"), "texts").files.keys() == WANTED.keys()
