"""The flag ``--update-golden``, which writes the files of tests/golden again, and fixtures of several test files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import registry

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag; the changed files are then read as a diff."""
    parser.addoption("--update-golden", action="store_true", help="write the stored outputs of tests/golden again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers, each one's share begins with slow tests, so that none is alone with a long one at the end.

    xdist gives each worker an equal run of the list.  Tests of one file stay together, because they share fixtures.
    """
    count = getattr(config, "workerinput", {}).get("workercount", 1)
    slow: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            slow.setdefault(item.nodeid.partition("::")[0], []).append(item)
    files, others = list(slow.values()), [item for item in items if not item.get_closest_marker("slow")]
    size = -(-len(others) // count)
    shares = [
        [*(item for file in files[index::count] for item in file), *others[index * size : (index + 1) * size]]
        for index in range(count)
    ]
    items[:] = [item for share in shares for item in share]


@pytest.fixture
def golden(request):
    """Compares a value with the file of this name in tests/golden, or writes the file."""

    def compare(name: str, value: Any, tolerance: float = 0.0) -> None:
        path = GOLDEN / name
        text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True) + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            return
        stored = path.read_text()
        if isinstance(value, str):
            assert text == stored
        else:
            assert difference(json.loads(text), json.loads(stored), tolerance) is None

    return compare


@pytest.fixture
def one_thread():
    """One thread for torch: small tensors gain nothing from a second, and tests share the cores with each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_registry(monkeypatch):
    """Attentions that the test registers are forgotten after it."""
    for table in ("ATTENTIONS", "_decorated", "_included", "_originals"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def difference(found: Any, stored: Any, tolerance: float, where: str = "") -> str | None:
    """The first place where the two differ, or None."""
    if isinstance(found, dict) and isinstance(stored, dict):
        if found.keys() != stored.keys():
            return f"{where}: keys {sorted(found.keys() ^ stored.keys())}"
        pairs = [(found[key], stored[key], f"{where}/{key}") for key in found]
    elif isinstance(found, list) and isinstance(stored, list):
        if len(found) != len(stored):
            return f"{where}: {len(found)} instead of {len(stored)} entries"
        pairs = [(a, b, f"{where}/{i}") for i, (a, b) in enumerate(zip(found, stored, strict=True))]
    elif isinstance(found, float) and isinstance(stored, float):
        return (
            None if math.isclose(found, stored, rel_tol=tolerance, abs_tol=1e-9) else f"{where}: {found}, not {stored}"
        )
    else:
        return None if found == stored else f"{where}: {found!r}, not {stored!r}"
    return next((found for a, b, at in pairs if (found := difference(a, b, tolerance, at))), None)
