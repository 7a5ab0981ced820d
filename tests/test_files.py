"""Files and folders that other processes remove while they are looked at, and locks of network file systems."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from benchmark import files, results
from benchmark.running import claims, plans, publish

CELL = "0123456789ab"


@pytest.mark.parametrize(
    ("folder", "look"),
    [
        (".checkpoints/0123", files.remove_abandoned),
        (claims.FOLDER, lambda output: claims.Claims(output).is_free(CELL)),
        (claims.FOLDER, publish.settle),
        (f"{claims.FOLDER}/{CELL}.0123", publish.settle),
        ("recall", results.record_files),
        ("recall", results.load),
        (plans.FOLDER, plans.plan_files),
    ],
)
def test_a_folder_that_vanishes_just_before_it_is_read_counts_as_empty(tmp_path, monkeypatch, folder, look):
    victim = tmp_path / folder
    victim.mkdir(parents=True)
    for name in ("scandir", "listdir"):
        original = getattr(os, name)

        def removing_first(path=".", original=original):
            if path == str(victim) or path == victim:
                os.rmdir(victim)
            return original(path)

        monkeypatch.setattr(os, name, removing_first)
    look(tmp_path)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["open", "mkdir"])
@pytest.mark.parametrize(
    ("folder", "create"),
    [
        (claims.FOLDER, lambda output: claims.Claims(output).take(CELL)),
        (plans.FOLDER, lambda output: files.write_bytes(output / plans.FOLDER / "0123.json", b"{}")),
    ],
)
def test_a_folder_that_vanishes_before_its_first_file_is_made_again(tmp_path, monkeypatch, folder, create, name):
    original, removed = getattr(os, name), []

    def removing_once(path, *arguments, **named):
        if not removed and (tmp_path / folder).exists():
            removed.append(os.rmdir(tmp_path / folder))
            if name == "mkdir":
                raise FileExistsError(errno.EEXIST, "File exists", path)
        return original(path, *arguments, **named)

    if name == "mkdir":
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(os, name, removing_once)
    create(tmp_path)
    assert removed
    assert len(list((tmp_path / folder).iterdir())) == 1


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(files.MachineFault, match="Not a directory"):
        files.write_bytes(tmp_path / "folder" / "file", b"")


def test_temporary_files_are_removed_where_only_files_open_for_writing_can_be_locked(tmp_path, monkeypatch):
    """As on NFS."""
    name = f".a.json.{files.machine_digits()[:8]}.ab12_cd3.tmp"
    (tmp_path / "below").mkdir()
    left = [tmp_path / name, tmp_path / "below" / name]
    for path in left:
        path.touch()
    flock = fcntl.flock

    def for_writing(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", for_writing)
    files.remove_abandoned(tmp_path)
    assert not any(path.exists() for path in left)
