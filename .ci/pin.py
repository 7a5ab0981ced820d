"""Writes constraints.txt: the version of every package in this environment that the project needs, and why it is there.

    .venv/bin/python .ci/pin.py

A pin that the file has already stays; delete its line, install, and run this again to renew it.  Packages that are not installed
here, such as those of fairseq, keep their lines.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
# flash-attn is built for the torch and the GPU of its user; trackio wants a pillow that is older than that of the records.
LEFT_OUT = ("flash", "trackio")

HEAD = """\
# The versions that the committed records come from, which ./run_all.sh, ./run_tests.sh and CI install.
# pyproject.toml asks for ranges; this file is no part of them.  Written by `.venv/bin/python .ci/pin.py`.
"""


def requirements() -> dict[str, tuple[Requirement, str]]:
    """Returns the packages that pyproject.toml names, each with its extra and, if it has one, the comment on its line."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    parts = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, tuple[Requirement, str]] = {}
    for extra, wanted in parts.items():
        for line in wanted if extra not in LEFT_OUT else ():
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name == "lavo-bench" or name in found:
                continue
            comment = re.search(rf'^.*"{re.escape(line)}",?\]?\s+# (.*)$', text, re.MULTILINE)
            why = f"lavo-bench[{extra}]" if extra else "lavo-bench"
            found[name] = requirement, f"{why}: {comment[1]}" if comment else why
    return found


def needed(roots: dict[str, tuple[Requirement, str]]) -> dict[str, list[str]]:
    """Returns every package that is needed by those of the project, with the packages that ask for it."""
    users: dict[str, list[str]] = {}
    waiting = [(name, frozenset(requirement.extras)) for name, (requirement, _) in roots.items()]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            wanted = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for line in wanted:
            one = Requirement(line)
            if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                continue
            other = canonicalize_name(one.name)
            users.setdefault(other, []).append(name)
            if (other, frozenset(one.extras)) not in seen:
                seen.add((other, frozenset(one.extras)))
                waiting.append((other, frozenset(one.extras)))
    return users


def old_lines() -> dict[str, tuple[str, str]]:
    """Returns the version and the reason of each pin that the file has."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    pins = [re.match(r"([\w.-]+)==(\S+)(?:\s+# (.*))?$", line) for line in lines]
    return {canonicalize_name(pin[1]): (pin[2], pin[3] or "") for pin in pins if pin}


def pinned() -> str:
    """Returns the text of the file."""
    roots, old = requirements(), old_lines()
    users = needed(roots)
    pins: dict[str, tuple[str, str]] = {}
    for name in {*roots, *users}:
        try:
            version = distribution(name).version
        except PackageNotFoundError:
            continue
        reason = roots[name][1] if name in roots else "for " + ", ".join(sorted(set(users[name]))[:4])
        pins[name] = old.get(name, (version, ""))[0], reason
    if any(name not in pins for name in roots):
        for name in old.keys() - pins.keys():
            pins[name] = old[name][0], roots[name][1] if name in roots else old[name][1]
    lines = [f"{f'{name}=={version}':<40}# {reason}" for name, (version, reason) in sorted(pins.items())]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(pinned(), encoding="utf-8")
    print(f"{FILE.name}: {pinned().count('==')} pins")
