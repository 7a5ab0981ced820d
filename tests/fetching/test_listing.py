"""A bucket's listing names files; one that names others than the manifest expects is refused before anything is fetched."""

from __future__ import annotations

import json
import tempfile

import pytest
from miniatures import listing_page
from misbehaving_server import saying, status, whole

from benchmark.fetching.listing import list_files
from benchmark.fetching.manifest import Listing
from benchmark.settings.messages import ConfigError

FILES = {f"train/{number}.txt": b"x" * number for number in range(1, 8)}


def listing(site, count=7, names=r"train/[0-9]+\.txt") -> Listing:
    return Listing(url=f"{site.address}/o", files_at=f"{site.address}/", prefixes={"train/": count}, names=names)


def pages(handler) -> None:
    token = handler.path.partition("pageToken=")[2]
    page = listing_page(FILES, "train/", int(token or 0), 3)
    saying(page, {"Content-Length": str(len(page))})(handler)


def test_all_pages_are_read(site, downloader):
    site.page("o", pages)
    found = list_files(listing(site), downloader)
    assert {one.name: one.bytes for one in found} == {name: len(content) for name, content in FILES.items()}
    assert found[0].urls == (f"{site.address}/train/1.txt",)
    assert all(set(one.digests) == {"md5"} for one in found)
    assert len(site.asked) == 3


def test_no_more_pages_are_read_than_the_files_that_are_expected(site, downloader):
    """One file is expected, and each page has three."""
    site.page("o", pages)
    with pytest.raises(ConfigError, match="the listing has more than 1 files, 1 are expected; has the source changed"):
        list_files(listing(site, count=1), downloader)
    assert len(site.asked) == 1


def test_a_page_is_removed_before_the_next_one_is_fetched(site, downloader, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lying = []

    def counted(handler) -> None:
        lying.append([path.name for path in tmp_path.rglob("*") if path.is_file()])
        pages(handler)

    site.page("o", counted)
    list_files(listing(site), downloader)
    assert lying == [[], [], []]


def one_page(*items: object, **more: object) -> bytes:
    return json.dumps({"items": list(items), **more}).encode()


GOOD = {"name": "train/1.txt", "size": "3", "md5Hash": "rL0Y20zC+Fzt72VPzMSk2A=="}
WRONG = {
    "another number of files": (one_page(GOOD), "has 1 files, 7 are expected; has the source changed"),
    "a file twice": (one_page(*[GOOD] * 7), "has 7 files, 7 are expected"),
    "a name that leaves": (one_page(GOOD | {"name": "train/../../x.txt"}), "is not a file that the manifest expects"),
    "another name": (one_page(GOOD | {"name": "train/1.exe"}), "is not a file that the manifest expects"),
    "no digest": (one_page({"name": "train/1.txt", "size": "3"}), "is not a file that the manifest expects"),
    "half a digest": (one_page(GOOD | {"md5Hash": "abc="}), "is not a file that the manifest expects"),
    "a negative size": (one_page(GOOD | {"size": "-1"}), "is not a file that the manifest expects"),
    "no JSON": (b"<html>", "is not a listing in JSON"),
    "a list": (b"[]", "is not a listing in JSON"),
    "items of another kind": (b'{"items": 3}', "is not a listing in JSON"),
    "pages without end": (one_page(nextPageToken="x"), "more than 1,000 pages"),
}


@pytest.mark.parametrize(("page", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_listing_is_one_line(page, reason, site, downloader, monkeypatch):
    site.page("o", whole(page))
    if "pages" in reason:
        monkeypatch.setattr("benchmark.fetching.listing.MOST_PAGES", 5)
        reason = "more than 5 pages"
    with pytest.raises(ConfigError, match=reason) as caught:
        list_files(listing(site), downloader)
    assert "\n" not in str(caught.value)


def test_a_listing_that_is_not_there_is_named(site, downloader):
    site.page("o", status(403))
    with pytest.raises(ConfigError, match=r"listing of train/, page 1: can't be fetched .*HTTP 403"):
        list_files(listing(site), downloader)
