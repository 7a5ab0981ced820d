"""``lavo-bench data verify``: every file of a known set is compared, and what differs, lacks or lies among them is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import lavo_bench
from misbehaving_server import whole

from benchmark.fetching import verify
from benchmark.fetching.install import Installer
from benchmark.fetching.manifest import DataSet
from benchmark.fetching.records import Record, read_record, record_folder, write_record
from benchmark.settings.messages import ConfigError

FILES = {"train/a.txt": b"alpha", "train/b.txt": b"beta", "test/c.txt": b"gamma"}


@pytest.fixture
def root(site, downloader, tmp_path) -> Path:
    """A data root with one set of three files in two folders."""
    sources = [
        {"name": name, "urls": [site.page(name, whole(text))], "bytes": len(text)} for name, text in FILES.items()
    ]
    dataset = DataSet(
        name="books",
        title="Books",
        makes=("lm/train", "lm/test"),
        files=tuple(sources),
        licence="none",
        cite="nobody",
        home="https://example.org/",
    )
    assert Installer(tmp_path / "root", downloader, print).install(dataset, None)
    return tmp_path / "root"


def test_untouched_files_agree_a_line_each(root):
    answer = lavo_bench("data", "verify", root)
    assert answer.status == 0
    assert answer.out.splitlines() == [
        "lm/test/c.txt: as recorded for books",
        "lm/train/a.txt: as recorded for books",
        "lm/train/b.txt: as recorded for books",
        f"{root}: 3 files compared, 0 differ",
    ]
    assert lavo_bench("data", "verify", root, "--quiet").out == f"{root}: 3 files compared, 0 differ\n"


def change_a_bit(root: Path) -> None:
    (root / "lm" / "train" / "a.txt").write_bytes(b"alphb")


def cut(root: Path) -> None:
    (root / "lm" / "train" / "a.txt").write_bytes(b"alph")


def remove(root: Path) -> None:
    (root / "lm" / "train" / "a.txt").unlink()


def replace_by_a_folder(root: Path) -> None:
    (root / "lm" / "train" / "a.txt").unlink()
    (root / "lm" / "train" / "a.txt").mkdir()


def add_a_stranger(root: Path) -> None:
    (root / "lm" / "train" / "z.txt").write_bytes(b"omega")


def remove_a_folder(root: Path) -> None:
    os.rename(root / "lm" / "test", root / "lm" / "other")


CHANGES = {
    "a changed bit": (change_a_bit, "lm/train/a.txt: differs: SHA-256 ", 3),
    "a cut file": (cut, "lm/train/a.txt: differs: SHA-256 ", 3),
    "a missing file": (remove, "lm/train/a.txt: is missing", 3),
    "a folder for a file": (replace_by_a_folder, "lm/train/a.txt: can't be read", 3),
    "a file too many": (add_a_stranger, "lm/train/z.txt: is no file of books, but lies among them", 4),
    "a missing folder": (remove_a_folder, "lm/test/c.txt: is missing", 3),
}


@pytest.mark.parametrize(("change", "line", "count"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named_and_ends_with_status_1(change, line, count, root):
    change(root)
    answer = lavo_bench("data", "verify", root, "--quiet")
    assert answer.status == 1
    assert answer.out.startswith(line)
    assert answer.out.splitlines()[1:] == [f"{root}: {count} files compared, 1 differ"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/a.txt", "__MACOSX/._a.txt"])
def test_what_systems_leave_beside_data_is_passed_by(name, root):
    (root / "lm" / "train" / name).parent.mkdir(exist_ok=True)
    (root / "lm" / "train" / name).write_bytes(b"x")
    assert lavo_bench("data", "verify", root).status == 0


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", pytest.param("[" * 100_000, id="nested"), '{"makes": 3, "downloads": []}', "\0"]
)
@pytest.mark.parametrize("ending", ["json", "sha256"])
def test_a_damaged_record_is_one_line_and_status_1(ending, content, root):
    (record_folder(root) / f"books.{ending}").write_text(content)
    answer = lavo_bench("data", "verify", root)
    if (ending, content) == ("sha256", ""):  # a record of no files: all are strangers
        assert (answer.status, answer.out.count("is no file of books")) == (1, 3)
    else:
        assert answer.status == 1
        assert ".lavo-bench/books: this record is damaged; remove it, and prepare books again" in answer.out


@pytest.mark.parametrize("path", ["../room", "lm/../../room", "/etc", "", ".", "lm//train", "lm/\0"])
def test_a_record_can_t_make_verify_walk_elsewhere(path, root):
    (root.parent / "room").mkdir()
    (root.parent / "room" / "secret.txt").write_bytes(b"x")
    (record_folder(root) / "books.json").write_text(json.dumps({"makes": [path], "downloads": []}))
    answer = lavo_bench("data", "verify", root)
    assert answer.status == 1
    assert ".lavo-bench/books: this record is damaged; remove it, and prepare books again" in answer.out
    assert "secret" not in answer.out + answer.err


def test_names_with_the_separators_of_unicode_are_recorded(tmp_path):
    """``str.splitlines`` cuts lines at all of these."""
    files = {f"tts/L/a{sign}b.wav": "0" * 64 for sign in "\x0b\x0c\x1c\x85\u2028\u2029"}
    write_record(tmp_path, Record("s", {"makes": ["tts/L"], "downloads": []}, files))
    found = read_record(tmp_path, "s")
    assert found is not None
    assert found.files == files


@pytest.mark.parametrize("sign", ["\n", "\r", "\udcff"])
def test_a_name_that_fits_on_no_line_is_refused_and_nothing_is_recorded(sign, tmp_path):
    record = Record("s", {"makes": ["tts/L"], "downloads": []}, {f"tts/L/a{sign}b.wav": "0" * 64})
    with pytest.raises(ConfigError, match=r"^s: 'tts/L/a.*b\.wav' can't be recorded; rename this file$"):
        write_record(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "lm/../../x"])
def test_a_record_can_t_make_verify_read_elsewhere(line, root):
    (record_folder(root) / "books.sha256").write_text(f"{'0' * 64}  {line}\n")
    answer = lavo_bench("data", "verify", root)
    assert answer.status == 1
    assert "damaged" in answer.out


def test_files_that_came_another_way_are_compared_with_the_published_digests(tmp_path, monkeypatch):
    dataset = DataSet(
        name="s",
        title="S",
        makes=("lstf/s.csv",),
        files=({"name": "s.csv", "urls": ["https://example.org/s"], "md5": "b1946ac92492d2347c6235b4d2611184"},),
        licence="none",
        cite="nobody",
        home="https://example.org/",
    )
    monkeypatch.setattr(verify, "manifest_of", lambda task: {"s": dataset} if task == "forecasting" else {})
    (tmp_path / "lstf").mkdir()
    (tmp_path / "lstf" / "s.csv").write_bytes(b"hello\n")
    assert lavo_bench("data", "verify", tmp_path).out.startswith("lstf/s.csv: as published\n")
    (tmp_path / "lstf" / "s.csv").write_bytes(b"Hello\n")
    answer = lavo_bench("data", "verify", tmp_path)
    assert (answer.status, "has the MD5" in answer.out) == (1, True)


def test_a_folder_without_any_known_set_is_no_data_root(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        answer = lavo_bench("data", "verify", folder)
        assert answer.status == 2
        assert answer.err.count("\n") == 1
