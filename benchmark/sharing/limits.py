"""The sizes that a pack and its files may have, for those who write packs and those who read them."""

from __future__ import annotations

MOST_FILES = 20_000
MOST_BYTES = 512 * 2**20  # of all files together, unpacked
_OF_KIND = {".json": 2**20, ".gz": 16 * 2**20, ".py": 2**20}  # ending -> bytes of one file
_MANIFEST = 16 * 2**20


def most_bytes(path: str) -> int:
    """Returns how many bytes this file of a pack may have."""
    return _MANIFEST if path == "manifest.json" else _OF_KIND.get(path[path.rfind(".") :], 0)


def size_fault(path: str, size: int) -> str | None:
    """Returns a line if the file is too large; else None."""
    most = most_bytes(path)
    return f"{path}: {size:,} bytes; at most {most:,} are allowed in a pack" if size > most else None
