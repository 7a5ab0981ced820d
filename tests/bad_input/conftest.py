"""Every case is refused before any cell is started, in an empty folder."""

from __future__ import annotations

import pytest

from benchmark.running import workers


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all cases, so that embedded data are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch, cache, tmp_path):
    """A case that starts cells fails."""

    def started(*_arguments, **_options):
        raise AssertionError("the fault was not noticed: cells were started")

    monkeypatch.setattr(workers, "run_cells", started)
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    monkeypatch.setenv("LAVO_BENCH_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
