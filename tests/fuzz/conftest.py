"""Every fuzz works in an empty folder, with one cache for all; where a command line is valid, the work does not begin."""

from __future__ import annotations

import pytest
from fuzzing import refuse_to_start, skip_without_alarms

from benchmark.checking import conformance
from benchmark.measuring import sweep
from benchmark.running import workers

skip_without_alarms()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all fuzzes, so that embedded data are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory, cache):
    """The working folder of a file's fuzzes."""
    own = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "run_cells", refuse_to_start)
        patch.setattr(sweep, "measure_to_file", refuse_to_start)
        patch.setattr(conformance, "check_attention", refuse_to_start)
        patch.delenv("LAVO_BENCH_DATA", raising=False)
        patch.setenv("LAVO_BENCH_CACHE", str(cache))
        patch.chdir(own)
        yield own
