"""Reads text that others wrote.  One rule for all: strict UTF-8, with or without a byte order mark; a line ends with LF, CR LF or CR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.files import is_machine_fault
from benchmark.settings.messages import shortened

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_content(path: Path, label: str, *, advice: str = "") -> bytes:
    """The bytes of a file.  label: its name in messages.

    Raises ValueError, in one line, for a file that is missing or can't be read; a fault of the machine stays an OSError.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{label}: is a {'directory' if path.is_dir() else 'device'}; a file is needed")
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{label}: no such file" + (f"; {advice}" if advice else "")) from None
    except OSError as error:
        if is_machine_fault(error):
            raise
        raise ValueError(f"{label}: can't be read: {error.strerror}") from None


def decoded(content: bytes, label: str) -> str:
    """The text of these bytes, its newlines as they are.  Raises ValueError with the line of a byte that is not UTF-8."""
    try:
        return content.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        line = len(split_lines(before.decode("latin-1")))
        raise ValueError(f"{label}, line {line}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8") from None


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends; as with ``split``, nothing stands after the last end.

    ``str.splitlines`` also cuts at form feeds, U+0085, U+2028 and others, which may stand inside a line.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def number_lines(content: bytes) -> list[str]:
    """The lines of a file of ASCII numbers and keywords; other bytes, as in a name or a comment, become U+FFFD."""
    return split_lines(content.removeprefix(BYTE_ORDER_MARK).decode("ascii", errors="replace"))


def parse_json(text: str, label: str, *, line: int = 1) -> Any:
    """The value of a JSON text that begins on this line of a file.

    Raises ValueError with line and fault: a text that is not JSON, a key that an object has twice, a number of thousands of
    digits, or values nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{label}, line {line + error.lineno - 1}, column {error.colno}: not valid JSON ({error.msg}); "
            "is the file cut off?"
        ) from None
    except _RepeatedKeyError as error:
        raise ValueError(f"{label}, line {line}: {error}") from None
    except ValueError:
        raise ValueError(f"{label}, line {line}: a number of thousands of digits") from None
    except RecursionError:
        raise ValueError(f"{label}, line {line}: JSON nested too deeply") from None


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise _RepeatedKeyError(f"the key {shortened(repr(twice))} is there twice; each key has one value")
    return found
