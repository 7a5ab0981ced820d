"""A sound pack for the tests of packs."""

from __future__ import annotations

import pytest
from packs import some_records

from benchmark.sharing.pack import check_folder, write_pack


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound pack."""
    folder = tmp_path_factory.mktemp("sound")
    submission = check_folder(some_records(folder / "records"), "one", conformance=False)
    assert submission.faults == []
    write_pack(submission, folder / "one.zip")
    return folder / "one.zip"
