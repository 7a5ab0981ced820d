"""What a user can get wrong, as tables: the kind of fault -> the arguments (or the call) and words of its message.

Every refusal is one line that names the place, the key, the bad value and what is allowed, and the command ends with status 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import Answer

PATTERNS = "noncausal_self, causal_self, noncausal_cross, causal_cross"
NAME_RULE = "lower-case letters, digits and underscores"


def cases(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    """The rows of a table as the parameter ``case``, with the kind of fault as their id."""
    return pytest.mark.parametrize("case", [pytest.param(row, id=kind) for kind, row in table.items()])


def assert_refused(answer: Answer, words: Iterable[str]) -> None:
    """The command ended with status 2 and one line that has all the words."""
    assert answer.status == 2, answer
    assert answer.err.startswith("lavo-bench: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.endswith("\n"), answer.err
    assert "Traceback" not in answer.err
    assert "please report it" not in answer.err, answer.err
    for word in words:
        assert word in answer.err, f"{word!r} is not in: {answer.err}"


def assert_raises_with(call: Callable[[], Any], words: Iterable[str]) -> None:
    """The call raises a ValueError whose message has all the words."""
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def write(path: Path, content: str | bytes | list[str]) -> Path:
    """Writes bytes, a text or lines to this path, and makes its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
