"""The files of a bucket of Google's storage, by its public listing in JSON, which names size and MD5 digest of each."""

from __future__ import annotations

import base64
import binascii
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmark.fetching.download import Downloader
from benchmark.fetching.manifest import Listing, Source
from benchmark.settings.messages import ConfigError, shortened

MOST_PAGES = 1_000
MOST_PAGE_BYTES = 32 << 20
FIELDS = "items(name,size,md5Hash),nextPageToken"


def list_files(listing: Listing, downloader: Downloader) -> list[Source]:
    """Returns the files below all prefixes.  Raises ConfigError if the listing is not what the manifest says."""
    found = []
    for prefix, count in listing.prefixes.items():
        items: list[Source] = []
        for page in _pages(listing, prefix, downloader):
            items += [_source(item, listing) for item in page.get("items", [])]
            if len(items) > count:
                break
        if len(items) != count or len({item.name for item in items}) != count:
            number = f"more than {count:,}" if len(items) > count else f"{len(items):,}"
            raise ConfigError(
                f"{prefix}: the listing has {number} files, {count:,} are expected; has the source changed?"
            )
        found += items
    return found


def _pages(listing: Listing, prefix: str, downloader: Downloader) -> Iterator[dict[str, Any]]:
    token = ""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(MOST_PAGES):
            query = f"prefix={quote(prefix, safe='')}&fields={quote(FIELDS, safe='')}"
            url = f"{listing.url}?{query}" + (f"&pageToken={quote(token, safe='')}" if token else "")
            name = f"listing of {prefix}, page {number + 1}"
            source = Source(name=name, urls=(url,), at_most=MOST_PAGE_BYTES)
            path = downloader.fetch(source, Path(folder) / "page.json").path
            page = _parsed(path, name)
            path.unlink()
            yield page
            token = page.get("nextPageToken", "")
            if not token:
                return
    raise ConfigError(f"listing of {prefix}: more than {MOST_PAGES:,} pages")


def _parsed(path: Path, name: str) -> dict[str, Any]:
    try:
        page = json.loads(path.read_bytes())
        if not isinstance(page.get("items", []), list) or not isinstance(page.get("nextPageToken", ""), str):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise ConfigError(f"{name}: is not a listing in JSON") from None
    return dict(page)


def _source(item: Any, listing: Listing) -> Source:
    """Returns a file of the listing.  Its name becomes a path, so the manifest says of what form it must be."""
    try:
        name, size = str(item["name"]), int(item["size"])
        md5 = binascii.hexlify(base64.b64decode(item["md5Hash"], validate=True)).decode()
        if not re.fullmatch(listing.names, name) or size < 0:
            raise ValueError
        return Source(name=name, urls=(listing.files_at + quote(name),), bytes=size, md5=md5)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"listing: {shortened(ascii(item), 80)} is not a file that the manifest expects") from None
