"""Files in the place of a set are taken for it only if a record or a published digest says so, or a person must put them there."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from misbehaving_server import whole
from test_install import PARTS, WANTED, dataset, found, packed, texts

from benchmark.fetching.manifest import DataSet
from benchmark.fetching.records import read_record, record_folder, record_names
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


def series(*, published: bytes | None, **fields) -> DataSet:
    """A set of one file that is placed as it comes."""
    digest = {} if published is None else {"sha256": hashlib.sha256(published).hexdigest(), "bytes": len(published)}
    files = [{"name": "s.csv", **digest}]
    common = {"name": "s", "makes": ["lstf/s.csv"], "convert": None, "files": files, "by_hand": "from a page"}
    return dataset(None, **(common | fields))


def test_a_file_in_its_place_is_compared_with_the_published_digest(installer, said, tmp_path):
    wanted, root = series(published=b"1,2\n"), tmp_path / "root"
    place(root, {"lstf/s.csv": b"1,3\n"})
    with pytest.raises(ConfigError) as caught:
        installer.install(wanted, None)
    assert str(caught.value).startswith("s: lstf/s.csv has the SHA-256 ")
    assert str(caught.value).endswith(" is expected; move lstf/s.csv away, and prepare fetches the set")
    place(root, {"lstf/s.csv": b"1,2\n"})
    assert not installer.install(wanted, None)
    assert said == []
    assert not record_folder(root).exists()  # ``data verify`` has the published digest too


def test_a_file_in_its_place_is_compared_with_the_recorded_digest(installer, said, tmp_path):
    wanted, root = series(published=None), tmp_path / "root"
    place(root, {"lstf/s.csv": b"1,2\n"})
    assert not installer.install(wanted, None)
    place(root, {"lstf/s.csv": b"1,3\n"})
    with pytest.raises(ConfigError, match=r"put back the recorded file, or remove \.lavo-bench/s\.\* to take this one"):
        installer.install(wanted, None)
    for path in record_folder(root).iterdir():
        path.unlink()
    assert not installer.install(wanted, None)
    assert said == ["s: recorded 1 files as they are"] * 2


def test_a_plain_set_of_several_files_is_compared_as_a_whole(installer, tmp_path):
    texts = {"a.csv": b"1", "b.csv": b"2"}
    files = [{"name": f"s/{name}", "sha256": hashlib.sha256(text).hexdigest()} for name, text in texts.items()]
    wanted = series(published=None, makes=["lstf/s"], files=files)
    place(tmp_path / "root", {"lstf/s/a.csv": b"1"})
    with pytest.raises(
        ConfigError, match=r"s: lstf/s/b\.csv is missing; move lstf/s away, and prepare fetches the set"
    ):
        installer.install(wanted, None)
    place(tmp_path / "root", {"lstf/s/b.csv": b"2"})
    assert not installer.install(wanted, None)


def test_of_two_sets_with_the_same_paths_the_later_one_is_refused_and_waits(site, installer, tmp_path):
    """The second one is installed while the first is converted."""
    root = tmp_path / "root"
    first = dataset(site.page("t", whole(packed())), name="first")
    second = dataset(site.page("o", whole(packed())), name="second")

    def overtaken(inputs, made):
        texts(inputs, made)
        assert installer.install(second, texts)

    for convert in (overtaken, texts):  # the second call ends like the first one
        with pytest.raises(ConfigError) as caught:
            installer.install(first, convert)
        assert str(caught.value) == (
            "first: lm/train is there already, and is of second; give another --data-root, or move it away; "
            "this set waits in lm/.first.ready"
        )
        assert record_names(root) == ["second"]
    shutil.rmtree(root / "lm" / "train")
    with pytest.raises(ConfigError, match="first: lm/validation is there already"):
        installer.install(first, texts)
    for path in [*(root / "lm" / part for part in PARTS), record_folder(root)]:
        shutil.rmtree(path, ignore_errors=True)
    assert installer.install(first, texts)
    assert len(site.asked) == 2
    assert found(root) == WANTED
    assert record_names(root) == ["first"]
