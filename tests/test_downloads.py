"""Manifests: a fetched file is the published one or is removed, and nothing is written outside the data root."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
import requests
from command_line import lavo_bench
from requests.adapters import BaseAdapter

from benchmark import registry
from benchmark.running import downloads
from benchmark.running.downloads import fetch_missing, read_manifest
from benchmark.settings.messages import ConfigError

CONTENT = b"date,a\n2016-07-01 00:00:00,1.5\n"
MANIFESTS = [registry.task_folder(task) / "sources.yaml" for task in registry.TASKS]
SHIPPED = [source for path in MANIFESTS for source in read_manifest(path)]


class Web(BaseAdapter):
    """A network of pages: name -> content, or an exception to raise.  Any other address is not found."""

    def __init__(self, **pages: bytes | Exception) -> None:
        super().__init__()
        self.pages = {f"https://example.org/{name}": page for name, page in pages.items()}
        self.asked: list[str] = []

    def send(self, request, **_options) -> requests.Response:
        self.asked.append(request.url)
        page = self.pages.get(request.url)
        if isinstance(page, Exception):
            raise page
        response = requests.Response()
        response.status_code = 404 if page is None else 200
        response.url, response.request = request.url, request
        response.raw = io.BytesIO(page or b"")
        return response

    def close(self) -> None:
        pass


@pytest.fixture
def web(monkeypatch):
    """Replaces the network of ``requests`` by the pages given."""

    def serve(**pages) -> Web:
        web = Web(**pages)
        monkeypatch.setattr(requests.Session, "get_adapter", lambda *_arguments, **_options: web)
        return web

    return serve


def manifest(folder: Path, *, path: str = "lstf/s.csv", content: bytes = CONTENT, name: str = "s") -> Path:
    """A manifest of one file, with the digest of this content."""
    file = folder / "sources.yaml"
    digest = hashlib.sha256(content).hexdigest()
    file.write_text(
        f"files:\n- path: {path}\n  url: https://example.org/{name}\n  sha256: {digest}\n  licence: none\n",
        encoding="utf-8",
    )
    return file


def test_a_missing_file_is_fetched_once(tmp_path, web):
    served = web(s=CONTENT)
    root = tmp_path / "root"
    assert fetch_missing(manifest(tmp_path), root) == [root / "lstf" / "s.csv"]
    assert (root / "lstf" / "s.csv").read_bytes() == CONTENT
    assert fetch_missing(manifest(tmp_path), root) == []
    assert served.asked == ["https://example.org/s"]


def test_an_existing_file_is_left_alone(tmp_path, web):
    served = web(s=CONTENT)
    mine = tmp_path / "root" / "lstf" / "s.csv"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert fetch_missing(manifest(tmp_path), tmp_path / "root") == []
    assert mine.read_bytes() == b"mine"
    assert served.asked == []


def test_a_file_with_another_digest_is_refused_and_removed(tmp_path, web):
    web(s=CONTENT + b"\0")
    with pytest.raises(ConfigError, match=r"lstf/s\.csv: the file from https://example\.org/s has another SHA-256"):
        fetch_missing(manifest(tmp_path), tmp_path / "root")
    assert [path for path in (tmp_path / "root").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (requests.ConnectionError("no route"), "ConnectionError"),
        (requests.Timeout("too long"), "Timeout"),
        (None, "HTTPError"),
        (OSError(28, "No space left on device"), "OSError"),
    ],
    ids=["no network", "no answer", "no such page", "no space"],
)
def test_a_file_that_cannot_be_fetched_is_named_and_nothing_stays(page, kind, tmp_path, web):
    web(**({} if page is None else {"s": page}))
    with pytest.raises(ConfigError, match=rf"lstf/s\.csv: can't be fetched .*\({kind}\); put it into .*root yourself"):
        fetch_missing(manifest(tmp_path), tmp_path / "root")
    assert [path for path in (tmp_path / "root").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "..", "a\\x", "C:/x", "~x/../../y"])
def test_a_path_that_leaves_the_data_root_is_refused(path, tmp_path, web):
    served = web(s=CONTENT)
    with pytest.raises(ConfigError, match="must stay below the data root"):
        fetch_missing(manifest(tmp_path, path=f"'{path}'"), tmp_path / "root")
    assert served.asked == []


@pytest.mark.parametrize("url", ["http://example.org/s", "ftp://example.org/s", "file:///etc/passwd", "s"])
def test_only_https_is_fetched(url, tmp_path):
    file = manifest(tmp_path)
    file.write_text(file.read_text().replace("https://example.org/s", url))
    with pytest.raises(ConfigError, match="https"):
        read_manifest(file)


def test_a_task_without_a_manifest_fetches_nothing(tmp_path):
    assert fetch_missing(tmp_path / "sources.yaml", tmp_path) == []


def test_only_wanted_files_are_fetched_and_their_modes_follow_the_umask(tmp_path, web):
    served = web(s=CONTENT)
    root = tmp_path / "root"
    assert fetch_missing(manifest(tmp_path), root, {"lstf/other.csv"}) == []
    assert served.asked == []
    before = os.umask(0o027)
    try:
        (path,) = fetch_missing(manifest(tmp_path), root, {"lstf/s.csv", "lstf/other.csv"})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def series(folder: Path, name: str) -> None:
    """Writes a series of 500 hours."""
    rows = [f"2016-07-{1 + i // 24:02d} {i % 24:02d}:00:00,{i % 24},{i % 12}" for i in range(500)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(["date,a,b", *rows]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("place", ["in the data root", "a path"])
def test_prepare_of_an_own_series_fetches_nothing(place, tmp_path, web, monkeypatch):
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    served = web()  # no page: fetching anything fails
    folder = tmp_path / "root" / "lstf" if place == "in the data root" else tmp_path / "elsewhere"
    series(folder, "e.csv")
    (tmp_path / "root").mkdir(exist_ok=True)
    file = "e.csv" if place == "in the data root" else folder / "e.csv"
    folders = ["--data-root", tmp_path / "root", "--cache", tmp_path / "c"]
    answer = lavo_bench("prepare", "lstf", "--preset", "smoke", "--set", f"data.file={file}", *folders)
    assert answer.status == 0, answer.err
    assert answer.out.startswith("forecasting/informer: e, train ")
    assert served.asked == []


@pytest.mark.parametrize(
    ("task", "setting", "asked"),
    [
        ("lstf", "data.file=null", "/ETTh1.csv"),
        ("lstf", "data.file=ETTh2.csv", "/ETTh2.csv"),
        ("lstf", "data.file=exchange_rate.txt.gz", "/exchange_rate.txt.gz"),
        ("tts", "data.folder=null", "/LJSpeech-1.1.tar.bz2"),
        ("tts", "data.folder=LJSpeech-1.1", "/LJSpeech-1.1.tar.bz2"),
        ("tts", "data.folder=mine", None),
    ],
)
def test_prepare_fetches_what_the_settings_need_and_no_more(task, setting, asked, tmp_path, web, monkeypatch):
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    served = web()  # no page, so the first file that is asked for ends the command
    folders = ["--data-root", tmp_path / "root", "--cache", tmp_path / "c"]
    answer = lavo_bench("prepare", task, "--preset", "smoke", "--set", setting, *folders)
    assert answer.status == 2
    assert [url.endswith(asked) for url in served.asked] == ([True] if asked else [])


def test_prepare_reports_and_reads_the_files_that_it_fetched(tmp_path, web, monkeypatch):
    rows = ["date,a,b"] + [f"2016-07-{1 + i // 24:02d} {i % 24:02d}:00:00,{i % 24},{i % 12}" for i in range(500)]
    content = ("\n".join(rows) + "\n").encode()
    file = manifest(tmp_path, content=content)
    monkeypatch.setattr(downloads, "read_manifest", lambda _: read_manifest(file))
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    web(s=content)
    folders = ["--data-root", tmp_path / "root", "--cache", tmp_path / "c"]
    answer = lavo_bench("prepare", "lstf", "--preset", "smoke", "--set", "data.file=s.csv", *folders)
    assert answer.status == 0, answer.err
    first, second = answer.out.splitlines()
    assert first == f"forecasting: fetched {tmp_path / 'root' / 'lstf' / 's.csv'}"
    assert second.startswith("forecasting/informer: s, train ")
    assert hashlib.sha256(content).hexdigest()[:16] in second


def test_shipped_manifests_pin_each_file_to_a_commit_and_a_licence():
    assert SHIPPED
    for source in SHIPPED:
        assert source.licence
        if source.url.startswith("https://raw.githubusercontent.com/"):
            assert len(source.url.split("/")[5]) == 40, source.url  # a branch may change its bytes
