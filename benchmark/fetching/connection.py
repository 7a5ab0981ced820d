"""Connections that can be shut down from another thread.

The time limits of requests hold for each receive anew, so a server that sends one byte of a header or of the line before a chunk
every minute would hold a download for ever.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Watch:
    """Shuts a connection down if it brings fewer than ``least`` bytes of the file in ``seconds``, from the block's beginning on."""

    def __init__(self, seconds: float, least: int) -> None:
        self._seconds, self._least = seconds, least
        self.bytes = 0  # that came; whoever reads them counts
        self.reason: str | None = None  # why it was shut down
        self._socket: Any = None
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        counted = 0
        while not self._ended.wait(self._seconds):
            if self.bytes - counted < self._least:
                self.shut(f"only {self.bytes - counted:,} bytes came in {self._seconds:g} s")
                return
            counted = self.bytes

    def over(self, connection: Any) -> None:
        """Takes the socket of the next answer."""
        self._socket = connection
        if self.reason is not None:
            self._shut_down()

    def shut(self, reason: str) -> None:
        """Ends the connection, and every later one of this watch.  May be called by any thread."""
        self.reason = reason
        self._shut_down()

    def _shut_down(self) -> None:
        # Not SSLSocket's own method: after it the reading thread would take what is encrypted for the file.
        with suppress(OSError, TypeError):  # it is closed; or it is no socket, but TLS inside the TLS of a proxy
            if self._socket is not None:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def watched_session(on_answer: Callable[[Any], None]) -> Any:
    """Returns a session of requests.  on_answer: is called with the socket before an answer is read."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def watched(pool: Any) -> Any:
        """The class of pools, with connections that call ``on_answer``."""
        kind = pool.ConnectionCls

        def getresponse(self: Any, *arguments: Any, **options: Any) -> Any:
            on_answer(self.sock)
            return kind.getresponse(self, *arguments, **options)

        connection = type(kind.__name__, (kind,), {"getresponse": getresponse})
        return type(pool.__name__, (pool,), {"ConnectionCls": connection})

    pools = {"http": watched(HTTPConnectionPool), "https": watched(HTTPSConnectionPool)}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **options)
            manager.pool_classes_by_scheme = pools
            return manager

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """None, else requests would read the body of a redirect, of whatever length, into memory to follow it by itself."""

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    return session
