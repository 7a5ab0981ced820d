"""On what the time of a point depends besides its own columns: code, libraries, processor, threads.

A point is stale if one of them is another now than when it was measured.  A point of an older file, which recorded none of them,
is not stale.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmark.measuring.hardware import hardware_name
from benchmark.measuring.points import WHOLE_MODEL, Point
from benchmark.measuring.shape import Shape
from benchmark.registry import load_attention, load_task

METHOD = 1  # raised when a change of the measurement itself makes earlier times incomparable

_FOLLOWED = ("lavo", "baselines", "tasks")  # packages of this project whose modules belong to an attention's code
_WORDS = {
    "threads": "number of threads",
    "processor": "processor",
    "kernel_version": "version of the kernels",
    "code": "code or options of the attention",
}


def identified(point: Point, shape: Shape) -> Point:
    """Returns the point with the columns filled in on which its time depends."""
    return point._replace(
        threads=torch.get_num_threads(),
        processor=hardware_name(str(shape.device))[:150],
        kernel_version=kernel_version(shape.device),
        code=code_digest(point.attention, point.mode, shape.options.get(point.attention, {})),
        cores=os.cpu_count(),
    )


def staleness(point: Point, now: Point) -> str | None:
    """Returns what has changed since the point was measured, or None if nothing has.

    now: the same point with the columns that ``identified`` fills in.
    """
    changed = [
        words
        for column, words in _WORDS.items()
        if getattr(point, column) is not None and getattr(point, column) != getattr(now, column)
    ]
    return ", ".join(changed) or None


def kernel_version(device: torch.device) -> str:
    """Returns the versions of the libraries that the kernels come from: torch, and on a GPU CUDA and Triton."""
    parts = [f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts.append(f"cuda {torch.version.cuda}")
        with suppress(metadata.PackageNotFoundError):
            parts.append(f"triton {metadata.version('triton')}")
    return ", ".join(parts)


def code_digest(attention: str, mode: str, options: Mapping[str, Any]) -> str:
    """Returns twelve hex digits that change with the code of the attention, or with the options that it is measured with.

    Its code is the file of its class, and those modules of the same package and of this project's attentions that the file imports,
    directly or through others.  In modes of a whole model, the code of its task is added.  The engine itself is left out:
    METHOD stands for it.
    """
    digest = hashlib.sha256(json.dumps([METHOD, dict(options)], sort_keys=True, default=str).encode())
    classes = [load_attention(attention), *([load_task("language_modeling")] if mode in WHOLE_MODEL else [])]
    for cls in classes:
        digest.update(f"{cls.__qualname__} {getattr(cls, 'version', None)}".encode())
        for content in _sources(cls):
            digest.update(content)
    return digest.hexdigest()[:12]


@lru_cache(maxsize=64)
def _sources(cls: type) -> tuple[bytes, ...]:
    """Returns the content of the files with the code of a class, in a fixed order."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():  # a class that was typed into a shell or a notebook
        try:
            return (inspect.getsource(cls).encode(),)
        except (OSError, TypeError):
            return ()
    packages = {*_FOLLOWED, cls.__module__.partition(".")[0]}
    found: dict[str, bytes] = {}
    waiting = [(cls.__module__, Path(file))]
    while waiting:
        name, path = waiting.pop()
        if name not in found:
            found[name] = path.read_bytes()
            waiting += _imported(name, found[name], packages)
    return tuple(found[name] for name in sorted(found))


def _imported(module: str, content: bytes, packages: set[str]) -> Iterator[tuple[str, Path]]:
    """Yields name and file of each module of these packages that the source imports, wherever in it."""
    for node in ast.walk(ast.parse(content)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] in packages and (path := _file_of(name)) is not None:
                yield name, path


def _file_of(module: str) -> Path | None:
    """Returns the file of a module; None if the name is that of a function or class, or if there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
