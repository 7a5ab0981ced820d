"""Downloads one file: goes on where a broken download stopped, tries again, takes mirrors, and checks what arrived.

Own code over ``requests``, because pooch, which did this before, always starts from the first byte and neither bounds the bytes
nor honours Retry-After.  A server is trusted with nothing: neither its lengths nor its redirects nor its patience.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from benchmark.fetching.connection import Watch, watched_session
from benchmark.fetching.manifest import Source, may_redirect
from benchmark.fetching.partial import Partial
from benchmark.files import as_machine_fault
from benchmark.settings.messages import ConfigError, shortened

PIECE = 1 << 16  # bytes read at a time
ATTEMPTS = 5  # in a row without progress
LEAST_PROGRESS = 1 << 20  # bytes beyond the most that there were, after which the count of attempts begins anew
MOST_TIMES = 3  # a file may come from one address; servers without Range begin anew after each break
LONGEST_PAUSE = 60.0  # seconds between two attempts, if the server names none
LONGEST_RETRY_AFTER = 600.0  # seconds that a server may ask to wait
MOST_REDIRECTS = 8
CONNECT_SECONDS, READ_SECONDS = 15.0, 60.0
SLOW_SECONDS, SLOW_BYTES = 60.0, 60 << 10  # fewer bytes than these in this time count as a broken connection
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
DIGITS = "[0-9]{1,20}"  # of a length; int() refuses thousands of digits with a ValueError
HEADERS = {"User-Agent": "lavo-bench", "Accept-Encoding": "identity"}  # a packed transfer would have another digest


class Listener(Protocol):
    """Is told how downloads go on."""

    def expect(self, num_bytes: int | None) -> None:
        """Takes note of how many bytes the files have that will be fetched; None if that is not known."""
        ...

    def at(self, name: str, num_bytes: int) -> None:
        """Takes note of how many bytes of a file are there; they become fewer if its download begins anew."""
        ...

    def pause(self, name: str, seconds: float, reason: str) -> None:
        """Takes note that a file is tried again after this time."""
        ...

    def finish(self) -> None:
        """Takes note that the files that were expected have come, or that one failed."""
        ...


class Silent:
    """A listener that does nothing."""

    def expect(self, num_bytes: int | None) -> None:
        """Does nothing."""

    def at(self, name: str, num_bytes: int) -> None:
        """Does nothing."""

    def pause(self, name: str, seconds: float, reason: str) -> None:
        """Does nothing."""

    def finish(self) -> None:
        """Does nothing."""


class Downloaded(NamedTuple):
    """A complete file, and how it was checked."""

    name: str  # of its source
    path: Path
    url: str | None  # None if it lay there already
    sha256: str
    bytes: int
    checked_by: tuple[str, ...]  # the kinds of published digests that it was compared with


class WrongFileError(ValueError):
    """A file is not the published one; the text follows on the file's name."""


class _BrokenError(Exception):
    """The download may succeed if it is tried again, after ``wait`` seconds if the server says so."""

    def __init__(self, reason: str, wait: float | None = None, attempts: int = ATTEMPTS) -> None:
        super().__init__(reason)
        self.wait, self.attempts = wait, attempts


class _RefusedError(Exception):
    """This address doesn't give the file, however often it is tried."""


def digests_of(path: Path, kinds: tuple[str, ...] = ()) -> dict[str, str]:
    """Returns the SHA-256 of a file, and its digests of the other kinds (md5, git_sha1), in one pass."""
    size = path.stat().st_size
    hashes = {"sha256": hashlib.sha256()}
    if "md5" in kinds:
        hashes["md5"] = hashlib.md5(usedforsecurity=False)
    if "git_sha1" in kinds:  # git hashes a header before the content
        hashes["git_sha1"] = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            for one in hashes.values():
                one.update(piece)
    return {kind: one.hexdigest() for kind, one in hashes.items()}


def sha256_of(path: Path, source: Source) -> str:
    """Returns the SHA-256 of a file.  Raises WrongFileError if its size or a digest is not the published one."""
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise WrongFileError(f"has {size:,} bytes, {source.bytes:,} are expected")
    found = digests_of(path, tuple(source.digests))
    for kind, wanted in source.digests.items():
        if found[kind] != wanted:
            raise WrongFileError(f"has the {_SHOWN[kind]} {found[kind][:16]}…, {wanted[:16]}… is expected")
    return found["sha256"]


_SHOWN = {"sha256": "SHA-256", "md5": "MD5", "git_sha1": "SHA-1 of a git blob"}


class Downloader:
    """Downloads files.  One instance may be used by several threads.

    sleep: stands in for the pauses in tests; the pauses themselves end early if downloads are stopped.
    """

    def __init__(
        self,
        *,
        listener: Listener | None = None,
        sleep: Callable[[float], object] | None = None,
        timeouts: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> None:
        self.listener = listener or Silent()
        self._stopped, self._watches = threading.Event(), set[Watch]()
        self._sleep, self._timeouts = sleep or self._stopped.wait, timeouts
        self._thread = threading.local()  # a session of requests, and the watch of an attempt, belong to one thread

    def fetch(self, source: Source, target: Path) -> Downloaded:
        """Downloads a file to ``target`` unless a good one lies there, and checks it.

        An incomplete download stays beside it as ``<name>.part``, and the next call goes on with it.
        Raises ConfigError, in one line, if no address gives the file, and MachineFault if it can't be written.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            with suppress(WrongFileError):
                return self._described(target, None, sha256_of(target, source), source)
            target.unlink()
        partial = Partial(target)
        reasons = []
        for url in source.urls:
            partial.received = 0
            try:
                sha256 = self._complete(url, source, partial)
            except _RefusedError as error:
                reasons.append(f"{urlsplit(url).netloc}: {error}")
                continue
            partial.publish(target)
            return self._described(target, url, sha256, source)
        raise ConfigError(
            f"{source.name}: can't be fetched ({shortened('; '.join(reasons) or 'it has no address', 130)})"
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """During the block no download goes on: those of other threads end with ConfigError, and what has come is kept."""
        self._stopped.set()
        for watch in list(self._watches):
            watch.shut("was stopped")
        try:
            yield
        finally:
            self._stopped.clear()

    def _end_if_stopped(self, source: Source) -> None:
        if self._stopped.is_set():
            raise ConfigError(f"{source.name}: was stopped")

    def _described(self, path: Path, url: str | None, sha256: str, source: Source) -> Downloaded:
        size = path.stat().st_size
        self.listener.at(source.name, size)
        return Downloaded(source.name, path, url, sha256, size, tuple(source.digests))

    def _complete(self, url: str, source: Source, partial: Partial) -> str:
        """Makes the partial file complete, checks it, and returns its SHA-256.

        A wrong file whose first part came from an earlier call or another mirror is fetched a second time, from its first byte.
        """
        while True:
            resumed = partial.size > 0
            self._until_complete(url, source, partial)
            try:
                return sha256_of(partial.path, source)
            except WrongFileError as error:
                partial.drop()
                if not resumed:
                    raise _RefusedError(f"the file {error}") from None

    def _until_complete(self, url: str, source: Source, partial: Partial) -> None:
        failures, reached = 0, partial.size
        while True:
            try:
                return self._attempt(url, source, partial)
            except _BrokenError as error:
                self._end_if_stopped(source)
                failures = 1 if partial.size - reached >= LEAST_PROGRESS else failures + 1
                reached = max(reached, partial.size)
                if failures >= error.attempts:
                    raise _RefusedError(f"{error}; tried {failures} times") from None
                pause = min(LONGEST_PAUSE, 2.0 ** (failures - 1)) if error.wait is None else error.wait
                self.listener.pause(source.name, pause, str(error))
                self._sleep(pause)

    def _attempt(self, url: str, source: Source, partial: Partial) -> None:
        """One connection.  Returns if the file is complete.  Raises _BrokenError or _RefusedError otherwise."""
        with Watch(SLOW_SECONDS, SLOW_BYTES) as watch:
            self._thread.watch = watch
            self._watches.add(watch)
            try:
                self._end_if_stopped(source)  # asked after the watch is known to the thread that stops
                self._receive(url, source, partial)
            except (_BrokenError, _RefusedError):
                if watch.reason is None:
                    raise
            finally:
                self._watches.discard(watch)
        if watch.reason is not None:  # the end of the connection may look like the end of headers, or of the file
            raise _BrokenError(watch.reason)

    def _receive(self, url: str, source: Source, partial: Partial) -> None:
        have = partial.resumable(url, source)
        if have and have == source.bytes:
            return
        headers = dict(HEADERS)
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := partial.validator(url):
                headers["If-Range"] = validator  # if the file has changed since, the server sends all of it
        with self._opened(url, headers) as response:
            have, total = _what_follows(response, have, partial)
            if source.bytes is not None and total is not None and total != source.bytes:
                raise _RefusedError(f"the file has {total:,} bytes, {source.bytes:,} are expected")
            if total is not None and total > source.limit:
                raise _RefusedError(f"the file has {total:,} bytes, {source.limit:,} are allowed")
            partial.begin(url, response.headers)
            have = self._copy(response, source, partial, have)
            if total is not None and have < total:
                raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes")
            if total is None and source.bytes is None and not response.raw.chunked:
                raise _RefusedError("the server doesn't say how long the file is, so a broken download can't be told")
            if source.bytes is not None and have < source.bytes:
                raise _BrokenError(f"the connection ended after {have:,} of {source.bytes:,} bytes")

    def _copy(self, response: Any, source: Source, partial: Partial, have: int) -> int:
        """Appends what arrives to the first ``have`` bytes of the partial file, and returns the number of bytes there are."""
        try:
            with partial.opened(have) as file:
                for piece in _pieces(response):
                    have += len(piece)
                    self._thread.watch.bytes += len(piece)
                    if have > source.limit:
                        raise _RefusedError(f"the server sends more than the {source.limit:,} bytes that are allowed")
                    partial.received += len(piece)
                    if partial.received > MOST_TIMES * source.limit + ATTEMPTS * LEAST_PROGRESS:
                        raise _RefusedError(
                            f"{partial.received:,} bytes came in broken connections, and never the file"
                        )
                    file.write(piece)
                    self.listener.at(source.name, have)
        except _RefusedError:
            partial.drop()
            raise
        except OSError as error:  # of the file: those of the connection are _BrokenError by now
            partial.drop()
            raise as_machine_fault(error, str(partial.path)) from error
        return have

    @contextmanager
    def _opened(self, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """The answer of the server, behind redirects, each of which must lead to an address that may be used."""
        import requests

        session = self._session()
        for _ in range(MOST_REDIRECTS + 1):
            try:
                response = session.get(url, headers=headers, stream=True, timeout=self._timeouts, allow_redirects=False)
            except requests.exceptions.SSLError:
                raise _RefusedError("its certificate can't be trusted") from None
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                raise _broken(error) from None
            except (requests.RequestException, ValueError) as error:
                raise _RefusedError(type(error).__name__) from None
            if not response.is_redirect:
                with response:
                    yield response
                return
            response.close()
            url = _redirected(url, response.headers["Location"])
        raise _RefusedError(f"more than {MOST_REDIRECTS} redirects")

    def _session(self) -> Any:
        if not hasattr(self._thread, "session"):
            self._thread.session = watched_session(self._watch)
        return self._thread.session

    def _watch(self, connection: Any) -> None:
        self._thread.watch.over(connection)


def _redirected(url: str, location: str) -> str:
    """Returns the address that a redirect leads to.  Raises _RefusedError if it may not be followed."""
    with suppress(ValueError):  # of an address that can't be read
        if may_redirect(url, target := urljoin(url, location)):
            return target
    raise _RefusedError(f"is redirected to {shortened(location)}; only https is followed")


def _pieces(response: Any) -> Iterator[bytes]:
    """What arrives, as soon as it does.  Raises _BrokenError if the connection breaks."""
    from urllib3.exceptions import HTTPError

    while True:
        try:
            piece = response.raw.read1(PIECE, decode_content=False)
        except (HTTPError, HTTPException, OSError) as error:
            raise _broken(error) from None
        if not piece:
            return
        yield piece


def _what_follows(response: Any, have: int, partial: Partial) -> tuple[int, int | None]:
    """Returns where in the file the body begins, and how long the whole file is, if the server says so.

    Raises _BrokenError or _RefusedError if no part of the file follows.
    """
    status = response.status_code
    if status in TRY_AGAIN:
        raise _BrokenError(f"HTTP {status}", _retry_after(response.headers.get("Retry-After"), status))
    if status == 416 or (status == 206 and not have):
        partial.drop()
        raise _BrokenError(f"HTTP {status} to the request for {'the rest' if have else 'the whole file'}")
    if status not in (200, 206):
        raise _RefusedError(f"HTTP {status}")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise _RefusedError("the server sends the file packed, though it was asked not to")
    if status == 200:  # the whole file, also where the rest was asked for
        length = re.fullmatch(DIGITS, response.headers.get("Content-Length", ""))
        return 0, int(length[0]) if length else None
    span = re.fullmatch(rf"bytes ({DIGITS})-({DIGITS})/({DIGITS}|\*)", response.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != have:
        partial.drop()
        raise _BrokenError("the server sends another part of the file than was asked for")
    return have, None if span[3] == "*" else int(span[3])


def _retry_after(text: str | None, status: int) -> float | None:
    """Returns the seconds that the server asks to wait, from a number or a date.  Raises _RefusedError if they are too many."""
    if text is None:
        return None
    seconds: float
    if re.fullmatch("[0-9]+", text.strip()):
        seconds = float(text)
    else:
        try:
            seconds = max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError):  # the last one for a year of twenty digits
            return None
    if seconds > LONGEST_RETRY_AFTER:
        raise _RefusedError(f"HTTP {status}, and the server asks to wait {seconds:,.0f} s")
    return seconds


def _broken(error: BaseException) -> _BrokenError:
    """Returns what went wrong with a connection, without the addresses of objects that such messages have."""
    from urllib3.exceptions import ProtocolError

    if "NameResolutionError" in repr(error):  # requests and urllib3 wrap it twice
        return _BrokenError("the name of the server can't be resolved", attempts=2)  # there is no network, most likely
    return _BrokenError("the connection broke off" if isinstance(error, ProtocolError) else type(error).__name__)
