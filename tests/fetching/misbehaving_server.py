"""A web server on this machine whose answers are scripted: it drops, truncates, lies, and keeps a list of what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Answer = Callable[[BaseHTTPRequestHandler], None]


class Asked(NamedTuple):
    """One request."""

    path: str
    range: str | None
    if_range: str | None


class Site:
    """The pages of a server.  A page is a list of answers, of which each request takes the next; the last one stays."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pages: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self._lock = threading.Lock()

    def page(self, name: str, *answers: Answer) -> str:
        """Sets the answers of a page, and returns its address."""
        self.pages[f"/{name}"] = list(answers)
        return f"{self.address}/{name}"

    def take(self, handler: BaseHTTPRequestHandler) -> Answer:
        """Takes note of a request, and returns the answer to it."""
        with self._lock:
            self.asked.append(Asked(handler.path, handler.headers.get("Range"), handler.headers.get("If-Range")))
            answers = self.pages.get(handler.path.partition("?")[0], [status(404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]


@contextmanager
def serving() -> Iterator[Site]:
    """A server on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True  # each answer may break off, so no connection is used twice
            with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                site.take(self)(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _head(handler: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.end_headers()


def _span(handler: BaseHTTPRequestHandler, etag: str | None) -> int:
    """Where the body begins that the client asks for."""
    wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    if wanted is None or (condition is not None and condition != etag):
        return 0
    return int(wanted.removeprefix("bytes=").removesuffix("-"))


def whole(content: bytes, *, etag: str | None = None, ranges: bool = True, cut: int | None = None) -> Answer:
    """A server as it should be.  cut: it drops the connection after this many bytes of the body.  ranges: it knows Range."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = _span(handler, etag) if ranges else 0
        if start and start >= len(content):
            return _head(handler, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
        headers = {"Content-Length": str(len(content) - start)} | ({"ETag": etag} if etag else {})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        _head(handler, 206 if start else 200, headers)
        body = content[start:]
        handler.wfile.write(body if cut is None else body[:cut])
        return None

    return answer


def status(code: int, **headers: str) -> Answer:
    """Only a status; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: _head(handler, code, {"Content-Length": "0"} | named)


def dropped() -> Answer:
    """The connection ends before any answer."""
    return lambda handler: None


def saying(content: bytes, headers: dict[str, str], code: int = 200) -> Answer:
    """These bytes behind these headers, whether or not they fit each other."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, code, headers)
        handler.wfile.write(content)

    return answer


def chunked(content: bytes, *, ended: bool = True) -> Answer:
    """Without a length, in chunks.  ended: the last chunk says that it is the last."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, {"Transfer-Encoding": "chunked"})
        for start in range(0, len(content), 1000):
            piece = content[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if ended:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def endless(*, length: bool) -> Answer:
    """Zeros until the client hangs up.  length: the server first promises few bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, {"Content-Length": str(1 << 40)} if length else {"Transfer-Encoding": "chunked"})
        while True:
            handler.wfile.write(bytes(4096) if length else b"1000\r\n%s\r\n" % bytes(4096))

    return answer
