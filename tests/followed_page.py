"""A page of docs/ followed in a copy of the repository: its files written, its line added, its commands run.

On a page, a paragraph that begins with the name of a file is followed by that file's block of code; the line of a table is a
block of python of its own, after a paragraph that names the table; and each block of bash is run as it stands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Page(NamedTuple):
    """What a page says is to be done."""

    files: dict[str, str]  # path -> content
    table: str
    line: str  # for the table
    commands: list[str]  # blocks of bash, in order


def read_page(name: str) -> Page:
    """The page docs/NAME."""
    files, commands, lines = {}, [], []
    for paragraph, language, content in blocks(ROOT / "docs" / name):
        if named := re.match(r"`([\w/]+\.\w+)`", paragraph):
            files[named[1]] = content
        elif table := re.search(r"In `(\w+)` of `benchmark/registry.py`:$", paragraph):
            lines.append((table[1], content.strip()))
        elif language == "bash":
            commands.append(content)
    (line,) = lines
    return Page(files, *line, commands)


def blocks(path: Path) -> Iterator[tuple[str, str, str]]:
    """The paragraph before each block of code, the block's language, and its content."""
    paragraph = ""
    for number, part in enumerate(path.read_text(encoding="utf-8").split("```")):
        if number % 2:
            language, _, content = part.partition("\n")
            yield paragraph, language, content
        else:
            paragraph = part.strip().rpartition("\n\n")[2]


class Copy:
    """A copy of the repository, with ``lavo-bench`` and ``python`` of its own on the path."""

    def __init__(self, folder: Path) -> None:
        self.root, programs = folder / "repository", folder / "bin"
        for path in repository_files():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target)
            shutil.copymode(ROOT / path, target)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LAVO_BENCH_", "PYTEST_"))},
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root),
            "LAVO_BENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        programs.mkdir()
        for name, module in (("python", ""), ("lavo-bench", "-m benchmark.cli")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        # Tests in the copy list its files as these tests do here.
        self.run("git init -q && git add -A")

    def write(self, page: Page) -> None:
        """Writes the page's files and adds its line."""
        for path, content in page.files.items():
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).write_text(content, encoding="utf-8")
        registry = self.root / "benchmark" / "registry.py"
        before = registry.read_text(encoding="utf-8")
        after = re.sub(rf"^({page.table}: .*?)^}}", rf"\1    {page.line}\n}}", before, flags=re.MULTILINE | re.DOTALL)
        assert after.count(page.line) == before.count(page.line) + 1
        registry.write_text(after, encoding="utf-8")

    def check_types(self) -> None:
        """Runs mypy over the copy, which takes seconds where mypy has been run before in the repository itself."""
        known = ROOT / ".mypy_cache"
        if known.is_dir():
            shutil.copytree(known, self.root / ".mypy_cache", dirs_exist_ok=True)
        self.run("mypy")

    def run(self, commands: str, *, timeout: float = 600) -> str:
        """What the commands print; fails where one of them fails."""
        done = subprocess.run(
            ["bash", "-ec", commands],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-6000:]}"
        return done.stdout


def repository_files() -> list[str]:
    """Tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git repository, so that its files are not known")
    return [path for path in listed if (ROOT / path).is_file()]
