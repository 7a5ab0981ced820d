"""A set is in the data root whole or not at all: whatever breaks, whoever else prepares it, wherever a process is killed."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from misbehaving_server import Site, serving, status, whole

from benchmark.fetching import install as installing
from benchmark.fetching.download import Downloader
from benchmark.fetching.install import Installer
from benchmark.fetching.manifest import DataSet
from benchmark.fetching.records import read_record, record_folder
from benchmark.files import MachineFault
from benchmark.settings.messages import ConfigError

PARTS = {"train": b"many words " * 10, "validation": b"some words", "test": b"few words"}


def packed(parts: Mapping[str, bytes] = PARTS) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(f"texts/{name}.raw"), text)  # without the time of now
    return content.getvalue()


def dataset(url: str | None, content: bytes | None = None, **fields) -> DataSet:
    """A set of three folders from one archive.  content: its digest is published."""
    digest = {} if content is None else {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    source = {"name": "texts.zip", "archive": True, "urls": [url] if url else [], **digest}
    made = {
        "name": "texts",
        "title": "Texts",
        "makes": [f"lm/{part}" for part in PARTS],
        "convert": "texts",
        "licence": "none",
    }
    common = {"cite": "nobody", "home": "https://example.org/", "unpack": {"bytes": 10_000, "files": 10}}
    return DataSet(**(made | common | {"files": [source]} | fields))


def texts(inputs: Mapping[str, Path], made: Path) -> None:
    for part in PARTS:
        target = made / "lm" / part
        target.mkdir(parents=True)
        (target / "a.txt").write_bytes((inputs["texts.zip"] / "texts" / f"{part}.raw").read_bytes())


def found(root: Path) -> dict[str, bytes]:
    """All files of a data root but the records, by name."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.parent.name != ".lavo-bench"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


WANTED = {f"lm/{part}/a.txt": text for part, text in PARTS.items()}


def test_a_set_is_fetched_converted_recorded_and_left_alone(site, installer, tmp_path):
    content = packed()
    wanted = dataset(site.page("texts.zip", whole(content)), content)
    assert installer.install(wanted, texts)
    assert found(tmp_path / "root") == WANTED
    record = read_record(record_folder(tmp_path / "root"), "texts")
    assert record.files == {name: hashlib.sha256(text).hexdigest() for name, text in WANTED.items()}
    (download,) = record.facts["downloads"]
    assert (download["sha256"], download["checked_by"]) == (hashlib.sha256(content).hexdigest(), ["sha256"])
    assert not installer.install(wanted, texts)
    assert len(site.asked) == 1


def test_sha256sum_can_check_the_record(site, installer, tmp_path):
    import subprocess

    installer.install(dataset(site.page("t", whole(packed()))), texts)
    check = ["sha256sum", "--check", "--strict", ".lavo-bench/texts.sha256"]
    assert subprocess.run(check, cwd=tmp_path / "root", capture_output=True, check=False).returncode == 0


def test_the_first_download_of_an_unpublished_digest_is_the_measure_ever_after(site, installer, tmp_path):
    wanted = dataset(site.page("t", whole(packed())))
    installer.install(wanted, texts)
    for part in PARTS:
        (tmp_path / "root" / "lm" / part / "a.txt").unlink()
        (tmp_path / "root" / "lm" / part).rmdir()
    site.page("t", whole(packed({**PARTS, "test": b"other words"})))
    with pytest.raises(ConfigError, match=r"the first download was another one: remove \.lavo-bench/texts\.\*"):
        installer.install(wanted, texts)
    site.page("t", whole(packed()))
    installer.install(wanted, texts)
    assert found(tmp_path / "root") == WANTED
    (download,) = read_record(record_folder(tmp_path / "root"), "texts").facts["downloads"]
    assert download["checked_by"] == []  # nothing was published


def test_a_set_that_is_there_in_part_is_not_mixed_with_another(site, installer, tmp_path):
    mine = tmp_path / "root" / "lm" / "validation" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="texts: lm/validation is there already, and not of this set"):
        installer.install(dataset(site.page("t", whole(packed()))), texts)
    assert found(tmp_path / "root") == {"lm/validation/mine.txt": b"mine"}
    assert site.asked == []


FAILURES = {
    "no page": (status(404), r"HTTP 404"),
    "no archive": (whole(b"<html>Sign in</html>"), "neither a zip nor a tar"),
    "a file too few": (whole(packed({"train": b"x"})), "texts"),
}


@pytest.mark.parametrize(("answer", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_line_and_no_part_of_the_set_stays(answer, reason, site, installer, tmp_path):
    def strict(inputs, made):
        try:
            texts(inputs, made)
        except FileNotFoundError as error:
            raise ValueError(f"texts.zip: has no {Path(error.filename).name}") from None

    with pytest.raises(ConfigError, match=reason) as caught:
        installer.install(dataset(site.page("t", answer)), strict)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()
    site.page("t", whole(packed()))
    assert installer.install(dataset(f"{site.address}/t"), texts)


def test_terms_must_be_accepted_first(site, installer, tmp_path):
    wanted = dataset(site.page("t", whole(packed())), terms="Texts are for readers only")
    with pytest.raises(ConfigError, match="texts: Texts are for readers only; add --accept-terms if you accept this"):
        installer.install(wanted, texts)
    assert site.asked == []
    assert not (tmp_path / "root").exists()
    assert installer._replace(accept_terms=True).install(wanted, texts)


def test_what_must_be_fetched_by_hand_is_named_and_then_taken(installer, tmp_path):
    wanted = dataset(None, by_hand="from https://example.org/ (an account is needed)")
    with pytest.raises(ConfigError) as caught:
        installer.install(wanted, texts)
    assert str(caught.value) == (
        "texts: fetch texts.zip by hand from https://example.org/ (an account is needed); put it into lm/ of the data root, "
        "then repeat this command"
    )
    assert not (tmp_path / "root").exists()
    (tmp_path / "root" / "lm").mkdir(parents=True)
    (tmp_path / "root" / "lm" / "texts.zip").write_bytes(packed())
    assert installer.install(wanted, texts)
    assert found(tmp_path / "root") == {**WANTED, "lm/texts.zip": packed()}


def test_a_file_beside_the_place_of_the_set_is_checked_too(site, installer, tmp_path):
    (tmp_path / "root" / "lm").mkdir(parents=True)
    (tmp_path / "root" / "lm" / "texts.zip").write_bytes(packed()[:-1])
    with pytest.raises(ConfigError, match=r"texts\.zip: the file in lm/ has \d+ bytes, \d+ are expected"):
        installer.install(dataset(site.page("t", whole(packed())), packed()), texts)


def test_a_file_put_in_its_place_by_hand_is_recorded(installer, said, tmp_path):
    wanted = DataSet(
        name="s",
        title="S",
        makes=("lstf/s.csv",),
        files=({"name": "s.csv"},),
        by_hand="from a page",
        licence="none",
        cite="nobody",
        home="https://example.org/",
    )
    (tmp_path / "root" / "lstf").mkdir(parents=True)
    (tmp_path / "root" / "lstf" / "s.csv").write_text("1,2\n")
    assert not installer.install(wanted, None)
    assert said == ["s: recorded 1 files as they are"]
    assert list(read_record(record_folder(tmp_path / "root"), "s").files) == ["lstf/s.csv"]


def test_too_little_room_is_said_before_anything_is_fetched(site, installer, tmp_path):
    tight = installer._replace(free_bytes=lambda folder: 1 << 26)
    with pytest.raises(ConfigError, match=r"texts: needs at least 0\.0 GB on the disk of .*, which has 0\.1 GB"):
        tight.install(dataset(site.page("t", whole(packed())), packed()), texts)
    assert site.asked == []
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("begun", "reason"), [(150_000_000, "HTTP 404"), (130_000_000, r"texts: needs at least 0\.1 GB")]
)
def test_a_broken_download_needs_room_for_its_rest_only(begun, reason, site, installer, tmp_path):
    """Of 200 MB; beside the spare bytes there is room for 60 MB.  The server is asked if the rest fits, and has no page."""
    source = {"name": "a.bin", "urls": [site.page("a", status(404))], "bytes": 200_000_000}
    part = tmp_path / "root" / "lm" / ".texts.making" / "downloads" / "a.bin.part"
    part.parent.mkdir(parents=True)
    part.touch()
    os.truncate(part, begun)
    tight = installer._replace(free_bytes=lambda folder: installing.SPARE_BYTES + 60_000_000)
    with pytest.raises(ConfigError, match=reason):
        tight.install(dataset(None, files=[source], makes=["lm/a.bin"], convert=None), None)


def test_an_archive_unpacks_to_no_more_than_the_disk_has_room_for(site, installer, tmp_path):
    """What was downloaded stays, though no digest vouches for it."""
    url = site.page("t", whole(packed({**PARTS, "train": bytes(5_000)})))
    tight = installer._replace(free_bytes=lambda folder: installing.SPARE_BYTES + 2_000)
    with pytest.raises(
        MachineFault, match=r"texts: texts\.zip unpacks to more than the 0\.0 GB that the disk of .* has room"
    ):
        tight.install(dataset(url), texts)
    assert list(found(tmp_path / "root")) == ["lm/.texts.making/downloads/texts.zip"]
    assert installer.install(dataset(url), texts)
    assert len(site.asked) == 1


def test_a_disk_that_fills_while_converting_is_one_line_and_leaves_nothing_half_made(site, installer, tmp_path):
    def fills(inputs, made):
        texts(inputs, made)
        raise OSError(errno.ENOSPC, "No space left on device", str(made / "lm" / "more"))

    with pytest.raises(MachineFault, match="No space left on device"):
        installer.install(dataset(site.page("t", whole(packed()))), fills)
    assert list(found(tmp_path / "root")) == ["lm/.texts.making/downloads/texts.zip"]
    assert installer.install(dataset(f"{site.address}/t"), texts)
    assert found(tmp_path / "root") == WANTED
    assert len(site.asked) == 1


def test_threads_that_prepare_one_set_make_it_once(site, tmp_path, said):
    wanted, made = dataset(site.page("t", whole(packed()))), []

    def prepare() -> None:
        made.append(Installer(tmp_path / "root", Downloader(), said.append).install(wanted, texts))

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert len(site.asked) == 1
    assert found(tmp_path / "root") == WANTED


def test_a_second_process_waits_and_takes_what_is_there(site, tmp_path):
    """The first one holds the lock while the second says that it waits."""
    wanted, root = dataset(site.page("t", whole(packed()))), tmp_path / "root"
    waiting = threading.Event()
    outcome: list[bool] = []

    def second() -> None:
        other = Installer(root, Downloader(), lambda line: waiting.set() if "waiting for another" in line else None)
        outcome.append(other.install(wanted, texts))

    def slow(inputs, made):
        thread.start()
        assert waiting.wait(30)
        texts(inputs, made)

    thread = threading.Thread(target=second)
    assert Installer(root, Downloader(), print).install(wanted, slow)
    thread.join(30)
    assert outcome == [False]
    assert len(site.asked) == 1
    assert found(root) == WANTED


def _die_at(step: int, root: Path, url: str) -> None:
    """Installs the set, and kills its own process before the given change of the file system."""
    count = 0

    def counted(real):
        def call(*arguments, **options):
            nonlocal count
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(*arguments, **options)

        return call

    for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "sync"):
        setattr(os, name, counted(getattr(os, name)))
    Installer(root, Downloader(), lambda _: None).install(dataset(url), texts)
    os._exit(0)


def test_a_process_killed_at_any_change_of_the_disk_leaves_a_set_whole_or_unseen(tmp_path):
    """After each kill: the parts that have their names are complete, all three at once can be read, and the next call mends the rest."""
    context = multiprocessing.get_context("fork")
    survived = None
    for step in range(200):
        root = tmp_path / f"root{step}"
        with serving() as site:
            url = site.page("t", whole(packed()))
            process = context.Process(target=_die_at, args=(step, root, url))
            process.start()
            process.join(60)
            visible = (
                {name: text for name, text in found(root).items() if "/." not in f"/{name}"} if root.exists() else {}
            )
            assert visible.items() <= WANTED.items()
            if process.exitcode == 0:
                survived = step
                break
            assert process.exitcode == -signal.SIGKILL
            Installer(root, Downloader(), lambda _: None).install(dataset(url), texts)
        assert found(root) == WANTED, step
        assert read_record(record_folder(root), "texts").files.keys() == WANTED.keys()
    assert survived is not None
    assert survived > 15


def test_many_files_are_fetched_together(site: Site, installer, tmp_path):
    files = {f"{number}.txt": f"book {number}".encode() for number in range(40)}
    sources = [
        {"name": f"train/{name}", "urls": [site.page(name, whole(text))], "bytes": len(text)}
        for name, text in files.items()
    ]
    wanted = dataset(None, files=sources, makes=["lm/train"], convert=None, unpack=None)
    assert len(sources) > installing.AT_ONCE
    assert installer.install(wanted, None)
    assert found(tmp_path / "root") == {f"lm/train/{name}": text for name, text in files.items()}
    assert len(site.asked) == 40


def test_one_lost_file_of_many_ends_the_set_and_the_others_wait_for_the_next_call(site, installer, tmp_path):
    sources = [
        {"name": f"train/{number}.txt", "urls": [site.page(f"{number}", whole(b"x"))], "bytes": 1}
        for number in range(20)
    ]
    site.page("7", status(404))
    wanted = dataset(None, files=sources, makes=["lm/train"], convert=None, unpack=None)
    with pytest.raises(ConfigError, match=r"texts, train/7\.txt: can't be fetched .*HTTP 404.*what has come is kept"):
        installer.install(wanted, None)
    assert not (tmp_path / "root" / "lm" / "train").exists()
    site.page("7", whole(b"x"))
    assert installer.install(wanted, None)
    assert len(found(tmp_path / "root")) == 20


WAITING = {
    "a server that asks to wait": status(503, Retry_After="600"),
    "a silent server": lambda handler: threading.Event().wait(60) and None,
}


@pytest.mark.parametrize("answer", WAITING.values(), ids=WAITING)
def test_an_interruption_does_not_wait_for_threads_that_wait(answer, site, said, tmp_path):
    """The test would last for a minute if it did; afterwards the same downloader works again."""
    sources = [{"name": f"train/{number}", "urls": [site.page(f"{number}", answer)], "bytes": 1} for number in range(9)]
    wanted = dataset(None, files=sources, makes=["lm/train"], convert=None, unpack=None)
    installer = Installer(tmp_path / "root", Downloader(), said.append)

    def interrupt(handler) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answer(handler)

    site.page("7", interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        installer.install(wanted, None)
    assert time.monotonic() - began < 30
    for number in range(9):
        site.page(f"{number}", whole(b"x"))
    assert installer.install(wanted, None)


def _with_small_files(root: Path, url: str, published: bytes, convert: str) -> None:
    """Installs the set where no file may be longer than 20,000 bytes, and says in its exit status what happened."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    def long(inputs, made):
        texts(inputs, made)
        (made / "lm" / "more").write_bytes(bytes(30_000))

    try:
        chosen = long if convert == "long" else texts
        wanted = dataset(url, published, unpack={"bytes": 100_000, "files": 10})
        Installer(root, Downloader(), lambda _: None).install(wanted, chosen)
    except MachineFault as error:
        os._exit(17 if "\n" not in str(error) and "too large" in str(error) else 18)
    os._exit(0)


STAGES = {
    "while downloading": ({"train": os.urandom(30_000)}, "texts"),
    "while unpacking": ({"train": bytes(30_000)}, "texts"),
    "while converting": (PARTS, "long"),
}


@pytest.mark.parametrize(("parts", "convert"), STAGES.values(), ids=STAGES)
def test_a_disk_that_takes_no_more_leaves_nothing_half_made(parts, convert, site, tmp_path):
    """The system itself refuses to write on (EFBIG), as it does on a full disk."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (PARTS | parts).items():
            archive.writestr(f"texts/{name}.raw", text)
    url = site.page("t", whole(content.getvalue()))
    root = tmp_path / "root"
    process = multiprocessing.get_context("fork").Process(
        target=_with_small_files, args=(root, url, content.getvalue(), convert)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 17
    left = {name: text for name, text in found(root).items() if text != content.getvalue()} if root.exists() else {}
    assert left == {}
