"""Every fuzz works in an empty folder, with one cache for all; where a command line is valid, the work does not begin."""

from __future__ import annotations

import resource

import psutil
import pytest
from fuzzing import refuse_to_start, skip_without_alarms

from benchmark.checking import conformance
from benchmark.fetching import prepare
from benchmark.measuring import sweep
from benchmark.running import workers

skip_without_alarms()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all fuzzes, so that embedded data are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def limited_memory():
    """Whatever asks for gigabytes gets a MemoryError, which no message may show."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory, cache):
    """The working folder of a file's fuzzes."""
    own = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "run_cells", refuse_to_start)
        patch.setattr(sweep, "measure_to_file", refuse_to_start)
        patch.setattr(conformance, "check_attention", refuse_to_start)
        patch.setattr(prepare, "fetch_missing", refuse_to_start)  # nothing is downloaded
        patch.setattr(prepare, "fetch_named", refuse_to_start)
        patch.delenv("LAVO_BENCH_DATA", raising=False)
        patch.setenv("LAVO_BENCH_CACHE", str(cache))
        patch.chdir(own)
        yield own
