"""The incomplete file of a download, which lies beside the place of the whole one, and from which the next connection goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmark.fetching.manifest import Source


def partial_path(target: Path) -> Path:
    """Returns where the incomplete download of a file lies."""
    return target.with_name(f"{target.name}.part")


class Partial:
    """The incomplete file of a download, and what is known of the connection that it came from."""

    def __init__(self, target: Path) -> None:
        self.path = partial_path(target)
        self.received = 0  # bytes from one address, also those that were dropped
        self._facts = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """The number of bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resumable(self, url: str, source: Source) -> int:
        """Returns how many bytes the next connection may go on from: all, or none if they can't be those of this file.

        Without a published digest only the server can say whether the file is still the same, by the mark that it gave.
        """
        have = self.size
        if have and (have > source.limit or not (source.digests or self.validator(url))):
            self.drop()
            return 0
        return have

    def validator(self, url: str) -> str | None:
        """Returns the mark of the file's version (ETag or date) that the server gave for this address."""
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        known = isinstance(facts, dict) and facts.get("url") == url and isinstance(facts.get("validator"), str)
        return facts["validator"] or None if known else None

    def begin(self, url: str, headers: Mapping[str, str]) -> None:
        """Keeps the mark of the version that follows; a weak ETag may not be used for a part of a file."""
        tag = headers.get("ETag", "")
        validator = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        if not validator.isprintable():  # requests would refuse to send it back
            validator = ""
        self._facts.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    @contextmanager
    def opened(self, have: int) -> Iterator[Any]:
        """The file, cut to its first ``have`` bytes, to which more can be written."""
        with self.path.open("ab") as file:
            file.truncate(have)
            yield file

    def drop(self) -> None:
        """Removes the file."""
        for path in (self.path, self._facts):
            with suppress(FileNotFoundError):
                path.unlink()

    def publish(self, target: Path) -> None:
        """Gives the complete file its name."""
        os.replace(self.path, target)
        with suppress(FileNotFoundError):
            self._facts.unlink()
