"""What an undisturbed run leaves, and a SLURM node."""

from __future__ import annotations

import subprocess

import pytest
from launched import NODE, NUM_CELLS, Command
from test_kills import files


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """What one run leaves that starts its workers itself, and its cache."""
    folder = tmp_path_factory.mktemp("alone")
    command = Command(folder / "results", folder / "cache", "--jobs", "1")
    assert command.wait() == 0, command.said
    expected = files(folder / "results")
    assert len(expected) == 3 * NUM_CELLS  # a record, examples and curves of each cell
    return expected, folder / "cache"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM cluster of one node; its commands find it by the environment."""
    folder = tmp_path_factory.mktemp("slurm")
    done = subprocess.run([NODE, "start", folder], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    name, _, value = done.stdout.strip().partition("=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        yield
    subprocess.run([NODE, "stop", folder], timeout=120, check=True)
