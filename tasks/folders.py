"""Lists folders of data without the files that operating systems leave in them, and names files in messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.files import is_companion, is_machine_fault


def files_in(folder: Path, *endings: str) -> list[Path]:
    """The files of a folder in the order of their names, without companions; none where there is no folder.

    endings: ``.txt`` and the like, in any case.  Whatever has such an ending is there, also a folder or a link to nothing:
    its reader must refuse it, since data left out in silence would be missed by no one.  Without endings: all true files.
    """
    return sorted(path for path in _entries(folder) if (path.suffix.lower() in endings if endings else path.is_file()))


def folders_in(folder: Path) -> list[Path]:
    """The folders of a folder in the order of their names, without companions; none where there is no folder."""
    return sorted(path for path in _entries(folder) if path.is_dir())


def named(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, whatever the case of its ending: ``a.wav`` finds ``a.WAV``; None if it isn't there."""
    if (path := folder / name).is_file():
        return path
    stem, dot, ending = name.rpartition(".")
    endings = (ending.upper(), ending.lower(), ending.capitalize())
    return next((path for one in endings if (path := folder / f"{stem}{dot}{one}").is_file()), None)


def name_below(path: Path, top: Path) -> str:
    """The path below a folder, as messages and records name it: it does not say where on this machine the data are."""
    try:
        return path.relative_to(top).as_posix()
    except ValueError:
        return "/".join(path.parts[-2:])


def _entries(folder: Path) -> Iterator[Path]:
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if is_machine_fault(error):
            raise
        raise ValueError(f"{folder.name}: can't be listed: {error.strerror}") from None
    yield from (path for path in entries if not is_companion(path.name))
