"""Says which extra of this package brings a module that is not installed.  Needs the standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "lavo-bench"
FIRST_EXTRA = "bench"
"""What the commands need; named where the metadata of an installation are not there to be asked."""

CORE = ("torch", "numpy", "einops")
"""What every installation has."""

_OWN = ("lavo", "baselines", "tasks", "benchmark", "studies", "lavo_fairseq")
_PACKAGES = {"yaml": "pyyaml", "PIL": "pillow", "markdown_it": "markdown-it-py", "fairseq": "fairseq-fixed"}
"""Packages whose name is not that of their module."""


class MissingPackage(ModuleNotFoundError):
    """A module is missing; the message names who needs it and the command that installs it."""


def explained(error: ModuleNotFoundError, user: str) -> MissingPackage | None:
    """Returns the error as one line: who needs which package, and how to install it.  None if the module is one of ours."""
    if isinstance(error, MissingPackage):
        return error
    module = (error.name or "").partition(".")[0]
    if not module or module in _OWN:
        return None
    package = _PACKAGES.get(module, module)
    if package in CORE:
        return MissingPackage(f"{user} needs {package}: pip install {DISTRIBUTION}", name=error.name)
    extra = _extra_of(package)
    if extra is None:
        return MissingPackage(f"{user} needs {package}, which is not installed", name=error.name)
    return MissingPackage(f'{user} needs {package}: pip install "{DISTRIBUTION}[{extra}]"', name=error.name)


@contextmanager
def needed_by(user: str) -> Iterator[None]:
    """Turns the error of a missing module inside the block into a MissingPackage that names the user."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = explained(error, user)
        if missing is None:
            raise
        raise missing from error


def _extra_of(package: str) -> str | None:
    """Returns the first extra that has the package; None if no extra has it."""
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # a checkout that was never installed
        return FIRST_EXTRA
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)
        if name and _normal(name[0]) == _normal(package):
            extra = re.search(r"""extra\s*==\s*["']([\w-]+)""", requirement)
            return extra[1] if extra else FIRST_EXTRA
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
