"""Reads .npy and .npz files that others wrote: no pickled objects, and no more memory than the file itself accounts for."""

from __future__ import annotations

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from benchmark.fetching.unpack import ZIP_METHODS

MOST_BYTES = 2**30  # of one array or text: an archive of a few kB may promise any number


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file.  Raises ValueError with the fault, which doesn't name the file."""
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name: those of these names, which must be there, or all of them.

    Raises ValueError, or what zipfile raises, with the fault, which doesn't name the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if missing := [name for name in names if name not in members]:
            raise ValueError(
                f"no array {' and no array '.join(missing)}; there are {', '.join(members)[:80] or 'none'}"
            )
        wanted = names or tuple(members)
        check_size(sum(members[name].file_size for name in wanted))
        if packed := [name for name in wanted if members[name].compress_type not in ZIP_METHODS]:
            raise ValueError(
                f"{packed[0][:80]!r} is packed by another method than deflate; numpy.savez_compressed packs so"
            )
        arrays = {}
        for name in wanted:
            with archive.open(members[name]) as file:
                arrays[name] = _array(file, members[name].file_size)
        return arrays


def npz_names(path: Path) -> list[str]:
    """The names of the arrays of a .npz file.  Raises what zipfile raises."""
    with zipfile.ZipFile(path) as archive:
        return [info.filename.removesuffix(".npy") for info in archive.infolist()]


def check_size(num_bytes: int) -> None:
    """Raises ValueError where this many bytes are more than a file may promise."""
    if num_bytes > MOST_BYTES:
        raise ValueError(f"it promises {num_bytes:,} bytes; at most {MOST_BYTES:,} are read")


def _array(file: IO[bytes], num_bytes: int) -> np.ndarray:
    """The array of a stream of this many bytes, which must be its header and its numbers."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_columns, dtype = read_header(file)
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        raise ValueError("its header is no shape and type of numbers") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects (allow_pickle), which may run code; arrays of numbers are needed")
    wanted, rest = math.prod(shape) * dtype.itemsize, num_bytes - file.tell()
    if wanted != rest:
        raise ValueError(f"its header promises {wanted:,} bytes of numbers, {rest:,} follow")
    check_size(wanted)
    numbers = np.frombuffer(bytearray(file.read(wanted)), dtype)  # a bytearray, so that the array can be written to
    return numbers.reshape(shape[::-1]).T if by_columns else numbers.reshape(shape)
