"""Every block of code in the README and in docs/ runs as it stands.

A block of ``python`` or ``bash`` is run, in an empty folder a page.  A block of ``sh`` takes longer than a test may, or installs packages:
its commands are read by the parsers that would run them.  ``text`` is an output.  Some pages have a test of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from followed_page import ROOT, blocks

from benchmark.cli.entry import app
from studies import cluster

FOLLOWED = {"README.md", "add-an-attention.md", "add-a-task.md", "fairseq.md"}  # pages that a test of their own runs
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MINE = ROOT / "docs" / "mine.py"


def code(path, *languages):
    return [content for _, language, content in blocks(path) if language in languages]


@pytest.fixture
def empty(tmp_path):
    """Runs a command in an empty folder that has ``lavo-bench`` on its path; returns what it prints."""
    programs, folder = tmp_path / "bin", tmp_path / "empty"
    programs.mkdir()
    folder.mkdir()
    (programs / "lavo-bench").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m benchmark.cli "$@"\n', encoding="utf-8"
    )
    (programs / "lavo-bench").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAVO_BENCH_", "PYTEST_"))}
    environment = {
        **kept,
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "LAVO_BENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.folder = folder
    return run


def test_every_block_says_in_which_language_it_is():
    for path in PAGES:
        for paragraph, language, _ in blocks(path):
            assert language in {"python", "bash", "sh", "text", "yaml", "markdown"}, f"{path.name}, after {paragraph!r}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name not in FOLLOWED and code(path, "python", "bash")])
@pytest.mark.slow
def test_a_page_runs_as_it_stands(path, empty):
    """Runs the commands of a page, then its Python, whose blocks share their names."""
    for line in "".join(code(path, "bash")).splitlines():
        empty("bash", "-ec", line)
    empty(sys.executable, "-c", "\n".join(code(path, "python")))


@pytest.mark.slow
def test_three_commands_bring_an_attention_into_a_report(empty):
    (snippet,) = [content for paragraph, _, content in blocks(ROOT / "README.md") if "Save this as" in paragraph]
    commands = [line for block in code(ROOT / "README.md", "bash") for line in block.splitlines()]
    assert len(commands) == 3
    (empty.folder / "mine.py").write_text(snippet, encoding="utf-8")
    checked, trained, reported = (empty("bash", "-ec", line) for line in commands)
    assert re.search(r"^mine can be used in .*probe", checked, re.MULTILINE)
    assert " failed" not in checked
    assert "9/9" in trained
    assert "reports/mine/report.html" in reported
    row = re.search(r"^\| mine .*", (empty.folder / "reports/mine/report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert row


def test_the_attention_of_the_readme_is_the_file():
    assert MINE.read_text(encoding="utf-8") in code(ROOT / "README.md", "python")


def commands_of(path):
    """The commands in the blocks of sh, without comments."""
    for block in code(path, "sh"):
        for line in block.splitlines():
            for command in re.split(r"\s&&\s", line):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


@pytest.mark.parametrize("path", [path for path in PAGES if code(path, "sh")])
def test_every_long_command_would_be_understood(path):
    for words in commands_of(path):
        assert is_understood(words), " ".join(words)


def is_understood(words):
    """Whether the program would take these arguments.  Raises what its parser raises."""
    program, *arguments = words
    if program == "torchrun":
        where = arguments.index("-m")
        return arguments[:where] == ["--nproc_per_node", "2"] and is_understood(["python", *arguments[where:]])
    if program.endswith("python") or program == "python3":
        if arguments[:2] == ["-m", "benchmark.cli"]:
            return is_understood(["lavo-bench", *arguments[2:]])
        if arguments[:2] == ["-m", "studies.cluster"]:
            study = typer.Typer()
            study.command()(cluster.main)
            typer.main.get_command(study).make_context("cluster", arguments[2:])
            return True
        return arguments[:2] in (["-m", "venv"], ["-m", "pytest"])
    if program == "lavo-bench":
        group = typer.main.get_command(app)
        command = group.commands[arguments[0]]
        command.make_context(arguments[0], arguments[1:])
        return True
    if program in ("pip", "uv"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        named = [one for word in words for one in re.findall(r"\[(\w+)\]", word)]
        files = [after for word, after in pairwise(words) if word == "-c"]
        known = "install" in words or words == ["uv", "venv"]
        return known and set(named) <= set(extras) and all((ROOT / file).is_file() for file in files)
    if re.fullmatch(r"[A-Z_]+=.*", program):  # a variable for one command
        return is_understood(arguments)
    if program == "ray":
        return arguments[0] == "start" and re.fullmatch(r"--head|--address=\w+:6379", arguments[1]) is not None
    if program in ("tensorboard", "trackio"):
        return arguments[0] == {"tensorboard": "--logdir", "trackio": "show"}[program]
    if program == ".":
        return arguments == [".venv/bin/activate"]
    return program.startswith("./") and os.access(ROOT / program, os.X_OK)


@pytest.mark.parametrize(
    "line", ["lavo-bench run lm --presets quick", "lavo-bench ran lm", "pip install .[banch]", "./run_al.sh", "make"]
)
def test_a_command_that_is_wrong_is_not_understood(line):
    try:
        understood = is_understood(shlex.split(line))
    except Exception:
        return
    assert not understood


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_and_a_broken_link_is_one(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "doctrees"),
        "-c",
        "docs",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def build(source, site):
        return subprocess.run(
            [*command, str(source), str(site)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "docs" / "api.html").read_text(encoding="utf-8")
    for name in (
        "lavo.attention.LAVOAttention",
        "benchmark.multihead.MultiHeadAttention",
        "benchmark.registry.build_attention",
    ):
        assert f'id="{name}"' in api
    small = tmp_path / "small"
    small.mkdir()
    (small / "README.md").write_text("# Title\n\n[a page](docs/absent.md)\n", encoding="utf-8")
    shutil.copytree(ROOT / "docs", small / "docs", ignore=shutil.ignore_patterns("*.md", "*.rst", "decisions"))
    broken = build(small, tmp_path / "broken")
    assert broken.returncode != 0
    assert "docs/absent.md" in broken.stderr
