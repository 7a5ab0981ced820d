"""A download is the published file or none: over broken connections, lying servers and endless bodies."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import threading
import tomllib
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
import requests
from misbehaving_server import chunked, dropped, endless, saying, status, whole
from packaging.requirements import Requirement

from benchmark.fetching import download
from benchmark.fetching.download import ATTEMPTS, LONGEST_PAUSE, MOST_REDIRECTS, Downloader
from benchmark.fetching.manifest import Source
from benchmark.files import MachineFault
from benchmark.settings.messages import ConfigError

CONTENT = bytes(range(256)) * 40_000  # 10,240,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def source(*urls: str, content: bytes | None = CONTENT, **fields) -> Source:
    """A source with the digest of this content; None: without size and digest."""
    known = {} if content is None else {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Source(name="a.bin", urls=urls, **(known | fields))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_checked_and_not_fetched_again(site, downloader, tmp_path):
    wanted = source(site.page("a", whole(CONTENT)))
    found = downloader.fetch(wanted, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert (found.sha256, found.bytes, found.checked_by) == (SHA256, len(CONTENT), ("sha256",))
    assert downloader.fetch(wanted, tmp_path / "a.bin").url is None
    assert len(site.asked) == 1
    assert left(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_dropped_download_goes_on_where_it_stopped(etag, site, downloader, pauses, tmp_path):
    cuts = [whole(CONTENT, etag=etag, cut=cut) for cut in (100_000, 1, 0)]
    url = site.page("a", *cuts, whole(CONTENT, etag=etag))
    downloader.fetch(source(url), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [one.range for one in site.asked] == [None, "bytes=100000-", "bytes=100001-", "bytes=100001-"]
    assert [one.if_range for one in site.asked[1:]] == [etag] * 3
    assert pauses == [1, 2, 4]


def test_a_later_call_goes_on_with_what_an_interrupted_one_left(site, downloader, tmp_path):
    wanted = source(site.page("a", *[whole(CONTENT, cut=10_000)] * ATTEMPTS, whole(CONTENT)))
    with pytest.raises(ConfigError, match=f"the connection broke off; tried {ATTEMPTS} times"):
        downloader.fetch(wanted, tmp_path / "a.bin")
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    Downloader().fetch(wanted, tmp_path / "a.bin")
    assert site.asked[-1].range == f"bytes={10_000 * ATTEMPTS}-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin"]


def test_progress_gives_new_attempts_and_none_ends_them(site, downloader, pauses, tmp_path):
    steps = [answer for _ in range(4) for answer in (whole(CONTENT, cut=2 << 20), dropped(), dropped())]
    downloader.fetch(source(site.page("a", *steps, whole(CONTENT))), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(site.asked) > 2 * ATTEMPTS
    site.page("a", dropped())
    pauses.clear()
    with pytest.raises(ConfigError, match=f"tried {ATTEMPTS} times"):
        downloader.fetch(source(f"{site.address}/a"), tmp_path / "b.bin")
    assert pauses == [1, 2, 4, 8]
    assert max(pauses) <= LONGEST_PAUSE


def breaks_and_knows_no_rest(handler) -> None:
    """A proxy that cuts whole files at half, and answers Range with 416."""
    if handler.headers.get("Range"):
        status(416)(handler)
    else:
        whole(CONTENT, cut=len(CONTENT) // 2)(handler)


def cutting(*cuts: int):
    """A server without Range whose connections break after so many bytes, one after the other."""
    after = itertools.cycle(cuts)

    def answer(handler) -> None:
        whole(CONTENT, ranges=False, cut=next(after))(handler)

    return answer


ENDLESS = {
    "the rest is refused": (breaks_and_knows_no_rest, "tried 5 times"),
    "breaks early and late": (cutting(1 << 20, 3 << 20), "tried 5 times"),
    "breaks later each time": (
        cutting(3_000_000, 4_600_000, 6_200_000, 7_800_000, 9_400_000),
        "bytes came in broken connections, and never the file",
    ),
}


@pytest.mark.parametrize(("answer", "reason"), ENDLESS.values(), ids=ENDLESS)
def test_bytes_that_come_again_are_no_progress(answer, reason, site, tmp_path):
    pauses = itertools.count()

    def sleep(seconds: float) -> None:
        assert next(pauses) < 50, "the download never ends"

    with pytest.raises(ConfigError, match=reason):
        Downloader(sleep=sleep, timeouts=(2.0, 2.0)).fetch(source(site.page("a", answer)), tmp_path / "a.bin")


def test_a_server_without_ranges_begins_anew(site, downloader, tmp_path):
    url = site.page("a", whole(CONTENT, ranges=False, cut=5_000), whole(CONTENT, ranges=False))
    downloader.fetch(source(url), tmp_path / "a.bin")
    assert site.asked[1].range == "bytes=5000-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_changed_between_two_connections_is_not_mixed(site, downloader, tmp_path):
    old, new = b"o" * 50_000, b"n" * 60_000
    url = site.page("a", whole(old, etag='"old"', cut=20_000), whole(new, etag='"new"'))
    downloader.fetch(source(url, content=None), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new


def test_without_digest_and_mark_of_the_version_nothing_is_resumed(site, downloader, tmp_path):
    url = site.page("a", whole(CONTENT, cut=20_000), whole(CONTENT))
    downloader.fetch(source(url, content=None), tmp_path / "a.bin")
    assert [one.range for one in site.asked] == [None, None]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_spoilt_first_part_is_fetched_anew_once(site, downloader, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    downloader.fetch(source(site.page("a", whole(CONTENT))), tmp_path / "a.bin")
    assert [one.range for one in site.asked] == ["bytes=1000-", None]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_sends_another_part_than_asked_for_is_not_believed(site, downloader, tmp_path):
    rest = CONTENT[7:]
    wrong = saying(
        rest, {"Content-Length": str(len(rest)), "Content-Range": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"}, 206
    )
    url = site.page("a", whole(CONTENT, cut=1_000), wrong, whole(CONTENT))
    downloader.fetch(source(url), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_an_unfit_rest_is_dropped(site, downloader, tmp_path):
    """416: the server's file is shorter than what is here."""
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:-1] + b"?")
    downloader.fetch(source(site.page("a", status(416), whole(CONTENT))), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(code, site, downloader, pauses, tmp_path):
    downloader.fetch(source(site.page("a", status(code), status(code), whole(CONTENT))), tmp_path / "a.bin")
    assert pauses == [1, 2]


def test_retry_after_is_honoured_as_number_and_as_date(site, downloader, pauses, tmp_path):
    later = formatdate(time() + 100, usegmt=True)
    answers = (status(429, Retry_After="17"), status(503, Retry_After=later), status(503, Retry_After="soon"))
    downloader.fetch(source(site.page("a", *answers, whole(CONTENT))), tmp_path / "a.bin")
    assert pauses[0] == 17
    assert 90 < pauses[1] <= 100
    assert pauses[2] == 4


def test_a_server_that_asks_to_wait_for_an_hour_is_left(site, downloader, pauses, tmp_path):
    first, second = site.page("a", status(429, Retry_After="3600")), site.page("b", whole(CONTENT))
    assert downloader.fetch(source(first, second), tmp_path / "a.bin").url == second
    assert pauses == []


MIRROR_FAULTS = {
    "not there": (status(404), "HTTP 404"),
    "forbidden": (status(403), "HTTP 403"),
    "wrong bytes": (whole(CONTENT[:-1] + b"?"), "the file has the SHA-256"),
    "too short": (whole(CONTENT[:-1]), "has 10,239,999 bytes, 10,240,000 are expected"),
    "too long": (whole(CONTENT + b"?"), "has 10,240,001 bytes, 10,240,000 are expected"),
    "endless": (endless(length=False), "sends more than the 10,240,000 bytes"),
    "promises a terabyte": (endless(length=True), "has 1,099,511,627,776 bytes"),
    "packed": (saying(b"x", {"Content-Encoding": "gzip", "Content-Length": "1"}), "packed"),
    "nothing": (status(204), "HTTP 204"),
    "a redirect to nowhere": (status(302, Location="http://127.0.0.1:1/x"), "tried 5 times"),
    "a redirect without encryption": (status(302, Location="http://example.org/a"), "only https is followed"),
    "a redirect that is no address": (status(302, Location="http://[/"), "only https is followed"),
    "a redirect to a file": (status(302, Location="file:///etc/passwd"), "only https is followed"),
}


@pytest.mark.parametrize(("answer", "reason"), MIRROR_FAULTS.values(), ids=MIRROR_FAULTS)
def test_a_wrong_mirror_is_passed_over_and_alone_is_refused(answer, reason, site, downloader, tmp_path):
    wrong, right = site.page("wrong", answer), site.page("right", whole(CONTENT))
    found = downloader.fetch(source(wrong, right), tmp_path / "both" / "a.bin")
    assert found.url == right
    assert found.path.read_bytes() == CONTENT
    site.page("wrong", answer)
    with pytest.raises(ConfigError, match=reason) as caught:
        downloader.fetch(source(wrong), tmp_path / "alone" / "a.bin")
    assert str(caught.value).startswith("a.bin: can't be fetched (127.0.0.1:")
    assert left(tmp_path / "alone") == []


def test_redirects_are_followed_and_a_circle_is_ended(site, downloader, tmp_path):
    end = site.page("end", whole(CONTENT))
    start = site.page("start", status(302, Location="/middle"))
    site.page("middle", status(307, Location=end))
    downloader.fetch(source(start), tmp_path / "a.bin")
    assert [one.path for one in site.asked] == ["/start", "/middle", "/end"]
    circle = site.page("circle", status(301, Location="/circle"))
    with pytest.raises(ConfigError, match=f"more than {MOST_REDIRECTS} redirects"):
        downloader.fetch(source(circle), tmp_path / "b.bin")


def test_another_server_can_t_lead_to_this_machine(site, downloader, tmp_path, monkeypatch):
    """The answer of an https server is given here; the page on this machine must not be asked."""
    inside = site.page("inside", whole(CONTENT))
    answer = requests.Response()
    answer.status_code, answer.raw = 302, io.BytesIO()
    answer.headers["Location"] = inside
    asked = []
    monkeypatch.setattr(requests.Session, "get", lambda session, url, **options: asked.append(url) or answer)
    with pytest.raises(
        ConfigError, match=r"example\.org: is redirected to http://127\.0\.0\.1:\d+/inside; only https is followed"
    ):
        downloader.fetch(source("https://example.org/a"), tmp_path / "a.bin")
    assert (asked, site.asked) == (["https://example.org/a"], [])


def test_the_body_of_a_redirect_is_not_read(site, downloader, tmp_path):
    sent = []

    def long(handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/end")
        handler.send_header("Content-Length", str(64 << 20))
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(bytes(1 << 20))
            sent.append(1 << 20)

    site.page("end", whole(CONTENT))
    downloader.fetch(source(site.page("a", long)), tmp_path / "a.bin")
    assert sum(sent) < 32 << 20  # what fits into the buffers of the connection


def test_a_wrong_length_is_a_broken_connection(site, downloader, tmp_path):
    """Longer than what is sent: the rest is asked for.  Nothing that is cut passes for whole."""
    answers = saying(CONTENT[:100], {"Content-Length": "10240000"}), whole(CONTENT)
    downloader.fetch(source(site.page("a", *answers)), tmp_path / "a.bin")
    assert site.asked[1].range == "bytes=100-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_shorter_length_than_the_body_is_refused_by_the_digest(site, downloader, tmp_path):
    url = site.page("a", saying(CONTENT, {"Content-Length": "100"}))
    with pytest.raises(ConfigError, match="the file has 100 bytes, 10,240,000 are expected"):
        downloader.fetch(source(url), tmp_path / "a.bin")


def test_without_a_published_size_chunks_are_taken_only_to_their_end(site, downloader, tmp_path):
    url = site.page("a", chunked(CONTENT[:5000], ended=False), chunked(CONTENT[:5000]))
    found = downloader.fetch(source(url, content=None), tmp_path / "a.bin")
    assert found.bytes == 5000
    assert found.checked_by == ()
    assert len(site.asked) == 2
    assert found.sha256 == hashlib.sha256(CONTENT[:5000]).hexdigest()


def test_a_body_that_only_a_hang_up_ends_is_refused_if_its_size_is_unknown(site, downloader, tmp_path):
    url = site.page("a", saying(b"half a file?", {}))
    with pytest.raises(ConfigError, match="doesn't say how long"):
        downloader.fetch(source(url, content=None), tmp_path / "a.bin")
    downloader.fetch(source(url, content=b"half a file?"), tmp_path / "a.bin")


def test_an_unknown_size_is_bounded(site, downloader, tmp_path):
    with pytest.raises(ConfigError, match="sends more than the 9,000 bytes"):
        downloader.fetch(source(site.page("a", endless(length=False)), content=None, at_most=9_000), tmp_path / "a.bin")
    assert left(tmp_path) == []


def test_a_server_that_says_nothing_times_out(site, tmp_path):
    silence = threading.Event()
    url = site.page("a", lambda handler: silence.wait(30) and None)
    pauses: list[float] = []
    try:
        with pytest.raises(ConfigError, match="Timeout; tried 5 times"):
            Downloader(sleep=pauses.append, timeouts=(0.05, 0.05)).fetch(source(url), tmp_path / "a.bin")
    finally:
        silence.set()


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {  # what comes at once, and what then comes again and again
    "in the body": (HEAD + b"Content-Length: 10240000\r\n\r\n", b"x"),
    "in a header": (HEAD + b"X-Header: ", b"x"),
    "in the status": (b"HTTP/1.1 ", b"2"),
    "in many headers": (HEAD, b"A: b\r\n"),
    "before a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x"),
    "behind the last chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: ", b"x"),
}


@pytest.mark.parametrize(("start", "drop"), DRIPS.values(), ids=DRIPS)
def test_a_server_that_drips_is_a_broken_connection(start, drop, site, downloader, pauses, tmp_path, monkeypatch):
    """Each drop comes long before the time limit of a receive; the server would go on for some seconds."""
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.1)
    hung_up = threading.Event()

    def drip(handler) -> None:
        handler.wfile.write(start)
        for _ in range(200):
            handler.wfile.write(drop)
            hung_up.wait(0.02)

    with pytest.raises(ConfigError, match=r"only \d+ bytes came in 0\.1 s; tried 5 times"):
        downloader.fetch(source(site.page("a", drip)), tmp_path / "a.bin")
    hung_up.set()


def test_md5_and_the_name_of_a_git_blob_are_checked_too(site, downloader, tmp_path):
    """The name of the blob is what `git hash-object` prints for a file of these bytes."""
    url = site.page("a", whole(b"hello\n"))
    for digest in (
        {"md5": "b1946ac92492d2347c6235b4d2611184"},
        {"git_sha1": "ce013625030ba8dba906f756967f9e9ca394464a"},
    ):
        (kind,) = digest
        good = source(url, content=None, **digest)
        assert downloader.fetch(good, tmp_path / kind).checked_by == (kind,)
        wrong = source(url, content=None, **{kind: "0" * len(digest[kind])})
        with pytest.raises(ConfigError, match="is expected"):
            downloader.fetch(wrong, tmp_path / f"{kind}.wrong")


HUGE = "9" * 5000
ODD_HEADERS = {
    "a length": [saying(CONTENT, {"Content-Length": HUGE})],
    "two lengths": [saying(CONTENT, {"Content-Length": "1, 2"})],
    "a span": [
        whole(CONTENT, cut=1_000),
        saying(CONTENT[1_000:], {"Content-Range": f"bytes {HUGE}-{HUGE}/{HUGE}", "Content-Length": "10239000"}, 206),
    ],
    "a pause": [status(503, Retry_After=HUGE)],
    "a late date": [status(503, Retry_After="Mon, 01 Jan 99999999999999999999 00:00:00 +0000")] * ATTEMPTS,
    "a mark in two lines": [whole(CONTENT, etag='"a\r\n b"', cut=1_000), *[dropped()] * (ATTEMPTS - 1)],
}


@pytest.mark.parametrize("answers", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_odd_headers_are_no_reason_to_leave_the_mirror_unasked(answers, site, downloader, tmp_path):
    odd, good = site.page("odd", *answers), site.page("good", whole(CONTENT))
    assert downloader.fetch(source(odd, good), tmp_path / "a.bin").bytes == len(CONTENT)


def test_a_full_disk_is_one_line_and_leaves_nothing(site, downloader, tmp_path, monkeypatch):
    """The file system is /dev/full's: every write fails with ENOSPC."""

    @contextmanager
    def full(self, have):
        self.path.touch()
        with open("/dev/full", "wb") as file:
            yield file

    monkeypatch.setattr(download.Partial, "opened", full)
    with pytest.raises(MachineFault, match=r"No space left on device") as caught:
        downloader.fetch(source(site.page("a", whole(CONTENT))), tmp_path / "a.bin")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert left(tmp_path) == []


def test_a_name_that_nobody_knows_is_tried_twice_only(downloader, pauses, tmp_path, monkeypatch):
    """As on a machine without a network, where waiting for each mirror would take half a minute."""
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(ConfigError, match="the name of the server can't be resolved; tried 2 times"):
        downloader.fetch(source("https://nobody.invalid/a"), tmp_path / "a.bin")
    assert pauses == [1]


def test_the_package_asks_for_a_urllib3_that_gives_what_has_arrived():
    """HTTPResponse.read1 came with urllib3 2.2; requests alone is content with 1.26."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [one for one in map(Requirement, project["optional-dependencies"]["bench"]) if one.name == "urllib3"]
    assert not list(wanted.specifier.filter(["1.26.20", "2.0.7", "2.1.0"]))
    assert wanted.specifier.contains("2.2.0")
