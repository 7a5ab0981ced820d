"""Searches files that are to be published for names of this machine, of its user and of its folders."""

from __future__ import annotations

import getpass
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmark.settings.messages import shortened

_TOP_FOLDERS = (
    *(
        "home",
        "Users",
        "root",
        "mnt",
        "media",
        "data",
        "datasets",
        "tmp",
        "var",
        "opt",
        "srv",
        "work",
        "workspace",
        "scratch",
    ),
    *(
        "private",
        "Volumes",
        "nfs",
        "gpfs",
        "lustre",
        "project",
        "projects",
        "storage",
        "cluster",
        "usr",
        "content",
        "kaggle",
    ),
)
_PATH = re.compile(rb"(?<![\w.:/-])/(?:" + "|".join(_TOP_FOLDERS).encode() + rb")/[\w.~-]+[\w./~-]*")
_DRIVE = re.compile(rb"(?<![\w])[A-Za-z]:\\{1,2}[\w.~-]+[\w.\\~ -]*")
# Names that many machines share and that are words of texts.
_COMMON = {
    "root",
    "user",
    "users",
    "ubuntu",
    "admin",
    "runner",
    "jovyan",
    "localhost",
    "docker",
    "main",
    "home",
    "test",
    "work",
}


def found_in(content: bytes) -> Iterator[str]:
    """Yields what of this machine stands in a file, or what looks like a path of another one."""
    for pattern in (_PATH, _DRIVE):
        match = pattern.search(content)
        if match is not None:
            yield f"the absolute path {shortened(match[0].decode(errors='replace'))}"
    for what, name in _names():
        if re.search(rb"(?<![A-Za-z0-9_])" + re.escape(name.encode()) + rb"(?![A-Za-z0-9_])", content):
            yield f"{what} {name}"


def _names() -> Iterator[tuple[str, str]]:
    """Yields kinds and names of this machine that would tell whose it is."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        user = ""
    for what, name in (("the host name", host), ("the host name", host.partition(".")[0]), ("the user name", user)):
        if len(name) >= 3 and name.lower() not in _COMMON and not name.isdigit():
            yield what, name
    for folder in {str(Path.home()), str(Path.cwd()), sys.prefix}:
        if len(folder) > 5:
            yield "the folder", folder
