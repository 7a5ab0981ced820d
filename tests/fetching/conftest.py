"""A misbehaving server, and downloads from it whose pauses are counted instead of slept."""

from __future__ import annotations

import pytest
from misbehaving_server import serving

from benchmark.fetching.download import Downloader
from benchmark.fetching.install import Installer


@pytest.fixture
def site(monkeypatch):
    """A server on this machine; a proxy of the surroundings is passed by."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as site:
        yield site


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that the downloader would have slept."""
    return []


@pytest.fixture
def downloader(pauses) -> Downloader:
    """A downloader that never sleeps, and waits no more than two seconds for a server."""
    return Downloader(sleep=pauses.append, timeouts=(2.0, 2.0))


@pytest.fixture
def said() -> list[str]:
    """What the installer says."""
    return []


@pytest.fixture
def installer(tmp_path, downloader, said) -> Installer:
    """Installs into the folder ``root``."""
    return Installer(tmp_path / "root", downloader, said.append)
