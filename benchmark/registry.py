"""The tables of attentions and tasks (name -> "module:Class", imported on first use), and what loads and builds them."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmark.extras import needed_by
from benchmark.interface import EVERY, PATTERNS, UnsupportedPattern

if TYPE_CHECKING:
    from torch import nn

ATTENTIONS: dict[str, str] = {
    "lavo": "lavo.attention:LAVOAttention",
    "softmax": "baselines.softmax:SoftmaxAttention",
    "flash": "baselines.flash:FlashAttention",
    "performer": "baselines.performer:PerformerAttention",
    "cosformer": "baselines.cosformer:CosformerAttention",
    "none": "baselines.none:NoAttention",
}

TASKS: dict[str, str] = {
    "language_modeling": "tasks.language_modeling.task:LanguageModeling",
    "text_to_speech": "tasks.text_to_speech.task:TextToSpeech",
    "summarization": "tasks.summarization.task:Summarization",
    "point_cloud_completion": "tasks.point_cloud_completion.task:PointCloudCompletion",
    "forecasting": "tasks.forecasting.task:Forecasting",
    "recall": "tasks.recall.task:Recall",
}

SHORT_NAMES = {
    "lm": "language_modeling",
    "tts": "text_to_speech",
    "sum": "summarization",
    "pcc": "point_cloud_completion",
    "lstf": "forecasting",
}

ENTRY_POINTS = "lavo_bench.attentions"
NAME_RULE = "a name is lower-case letters, digits and underscores"

_decorated: dict[str, type] = {}  # the classes that register_attention has registered
_included: dict[Path, tuple[str, ...]] = {}  # file of --include-path that was run -> the names it registered
_originals: dict[str, type] = {}  # name -> the class given in Python of which the registered one is a copy


def check_name(name: str, kind: str = "attention") -> str:
    """Returns the name.  Raises ValueError if it breaks the rule for names, which become part of file names."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]{1,64}", name):
        raise ValueError(f"{kind} {name!r}: {NAME_RULE} (at most 64), so that it can be part of a file's name")
    return name


def register_attention(name: str) -> Callable[[type], type]:
    """Class decorator that registers an attention under this name.  Raises ValueError for a name that is taken."""
    check_name(name)

    def register(cls: type) -> type:
        if name in attention_names() and not _is_written_again(name, cls):
            raise ValueError(f"attention {name!r}: there already is one of this name; choose another")
        check_declarations(name, cls)
        _forget_files_of(name)
        _decorated[name] = cls
        return cls

    return register


def _forget_files_of(name: str) -> None:
    for path in [path for path, names in _included.items() if name in names]:
        del _included[path]


def _is_written_again(name: str, cls: type) -> bool:
    """Returns whether a class of a notebook or an interactive session takes the place of its earlier version."""
    before = _originals.get(name, _decorated.get(name))
    same = before is not None and (before.__module__, before.__qualname__) == (cls.__module__, cls.__qualname__)
    return same and cls.__module__ == "__main__"


def check_declarations(name: str, cls: type) -> None:
    """Raises ValueError if the class lacks a declaration that the protocol requires."""
    unsupported = getattr(cls, "unsupported", None)
    version = getattr(cls, "version", None)
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(
            f"attention {name!r}: {cls.__name__}.version must be a whole number, raised when results change"
        )
    if not isinstance(unsupported, Mapping) or not set(unsupported) <= set(PATTERNS):
        allowed = ", ".join(PATTERNS)
        raise ValueError(f"attention {name!r}: {cls.__name__}.unsupported must map patterns ({allowed}) to reasons")


def attention_names() -> list[str]:
    """Returns the names of all attentions: in the table, registered by the decorator, and of installed packages."""
    installed = [point.name for point in entry_points(group=ENTRY_POINTS)]
    return list(dict.fromkeys([*ATTENTIONS, *_decorated, *installed]))


def include_file(path: Path) -> tuple[str, ...]:
    """Runs a Python file that registers attentions (``--include-path``), once, and returns their names.

    Raises ValueError in one line for a file that can't be run or registers nothing.
    """
    path = path.resolve()
    if path in _included:
        return _included[path]
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"--include-path {path}: not a Python file")
    before = set(_decorated)
    spec = importlib.util.spec_from_file_location(f"lavo_bench_included_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling of spawned workers look the module up
    try:
        with _confined():
            spec.loader.exec_module(module)
    except BaseException as error:  # the file may raise anything; the user gets it in one line
        for name in set(_decorated) - before:
            del _decorated[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        fault = "ends the program when it is read" if isinstance(error, SystemExit) else type(error).__name__
        raise ValueError(f"--include-path {path.name}: {fault}: {str(error)[:150]}") from error
    names = tuple(name for name in _decorated if name not in before)
    if not names:
        raise ValueError(f"--include-path {path.name}: registers no attention; decorate one with @register_attention")
    _included[path] = names
    return names


READING_SECONDS = 120.0
"""The longest time that reading an included file may take; it may import large libraries."""


@contextmanager
def _confined() -> Iterator[None]:
    """Turns a file's attempt to end or copy this process, or to run for ever, into an exception."""

    def ends(*_arguments: Any) -> NoReturn:
        raise SystemExit("os._exit")

    def copies() -> NoReturn:
        raise RuntimeError("os.fork: a file of attentions must not copy the process")

    def is_late(*_arguments: Any) -> NoReturn:
        raise TimeoutError(f"it is still being read after {READING_SECONDS:g} s")

    replaced: dict[str, Callable[..., Any]] = {"_exit": ends, "fork": copies, "forkpty": copies, "abort": ends}
    before = {name: getattr(os, name) for name in replaced if hasattr(os, name)}
    # An alarm can be set by the main thread alone.  One that is running belongs to someone else.
    alarmed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    alarmed = alarmed and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    handler = signal.signal(signal.SIGALRM, is_late) if alarmed else None
    try:
        for name in before:
            setattr(os, name, replaced[name])
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, READING_SECONDS)
        yield
    finally:
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        for name, function in before.items():
            setattr(os, name, function)


def included_path(name: str) -> Path | None:
    """Returns the included file that registered this attention; None for any other attention."""
    return next((path for path, names in _included.items() if name in names), None)


def without_file() -> dict[str, type]:
    """Returns name -> class of the attentions that were registered in this process, and not by an included file."""
    return {name: cls for name, cls in _decorated.items() if included_path(name) is None}


def included_digest(name: str) -> str | None:
    """Returns the SHA-256 of the included file that registered this attention; None for any other attention."""
    path = included_path(name)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def include_copy(path: Path, name: str, original: type | None = None) -> None:
    """Includes a file that registers a copy of a class, in place of an earlier version; if that fails, all is as before.

    original: the class, if it is in this process.
    """
    tables: tuple[dict[Any, Any], ...] = (_decorated, _included, _originals)
    before = [dict(table) for table in tables]
    _decorated.pop(name, None)
    _forget_files_of(name)
    try:
        include_file(path)
        if original is not None:
            _originals[name] = original
    except BaseException:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        raise


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns `` (did you mean X?)``, or an empty string if no allowed name is similar."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def load_attention(name: str) -> Any:
    """Returns the class as its author wrote it.  Raises ValueError, with the nearest known name, for an unknown name."""
    if name in _decorated:
        return _decorated[name]
    if name in ATTENTIONS:
        return _load(ATTENTIONS[name], name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            check_name(name)
            cls = point.load()
            check_declarations(name, cls)
            return cls
    known = attention_names()
    raise ValueError(f"attention {name!r}: unknown{nearest(name, known)}; known: {', '.join(known)}")


def is_built_in(name: str) -> bool:
    """Returns whether the attention is one of this project's, that is, in the table."""
    return name in ATTENTIONS and name not in _decorated


def is_installed(name: str) -> bool:
    """Returns whether the attention comes from an installed package."""
    return any(point.name == name for point in entry_points(group=ENTRY_POINTS))


def name_of_class(cls: type) -> str | None:
    """Returns the name under which this very class is registered or stands in a table; None if it does not."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    tables = [(name, found is cls) for name, found in [*_originals.items(), *_decorated.items()]]
    tables += [(name, place == target) for name, place in ATTENTIONS.items()]
    tables += [(point.name, point.value == target) for point in entry_points(group=ENTRY_POINTS)]
    return next((name for name, is_it in tables if is_it), None)


def task_name(name: str) -> str:
    """Returns the long name of a task, given the long or the short one.

    Raises ValueError, with the nearest known name, for an unknown name.
    """
    long = SHORT_NAMES.get(name, name)
    if long not in TASKS:
        known = [*TASKS, *(short for short, long in SHORT_NAMES.items() if long in TASKS)]
        raise ValueError(f"task {name!r}: unknown{nearest(name, known)}; known: {', '.join(known)}")
    return long


def load_task(name: str) -> Any:
    """Returns the class of a task, given its long or short name.  Raises MissingPackage if a package that it needs is missing."""
    name = task_name(name)
    return _load(TASKS[name], name)


def task_folder(name: str) -> Path:
    """Returns the folder of a task, with its presets and protocol card, without importing the task."""
    return _source_file(TASKS[task_name(name)]).parent


def _load(target: str, name: str) -> type:
    module, _, attribute = target.partition(":")
    with needed_by(name):
        return getattr(importlib.import_module(module), attribute)


def _source_file(target: str) -> Path:
    """Returns the file of a module without importing its package, because ``lavo`` would import torch."""
    top, *rest = target.partition(":")[0].split(".")
    spec = importlib.util.find_spec(top)
    locations: list[str] = []
    if spec is not None:
        locations = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
    for location in locations:
        path = Path(location, *rest).with_suffix(".py") if rest else Path(location, f"{top}.py")
        if path.is_file():
            return path
    raise ValueError(f"registry entry {target!r}: no such module")


def attention_declarations(name: str) -> dict[str, Any]:
    """Returns what the class declares as plain literals (``unsupported``, ``linear_state``, …), without importing torch."""
    if name not in ATTENTIONS:
        classes = reversed(load_attention(name).__mro__)  # a class also declares what it inherits
        return {key: value for cls in classes for key, value in vars(cls).items() if not key.startswith("_")}
    return _literals(ATTENTIONS[name])


def task_declarations(name: str) -> dict[str, Any]:
    """Returns what the task's class declares as plain literals (``version``, ``backbones``), without importing it."""
    return _literals(TASKS[task_name(name)])


def sites_of(task: str, backbone: str) -> tuple[str, ...]:
    """Returns the sites of a backbone: its patterns and, if they are parts of one model, ``every`` for all of them at once."""
    declared = task_declarations(task)
    patterns = tuple(declared["backbones"][backbone])
    one_model = len(patterns) > 1 and not declared.get("separate_models", False)
    return (*patterns, EVERY) if one_model else patterns


def streamed_patterns(task: str, backbone: str) -> tuple[str, ...]:
    """Returns the patterns whose layers a task reads piece by piece when it is evaluated."""
    return tuple(task_declarations(task).get("streams", {}).get(backbone, ()))


def make_task(name: str, settings: Any, *, backbone: str, pattern: str) -> Any:
    """Returns the task for a cell of this backbone and pattern."""
    cls = load_task(name)
    own = {"pattern": pattern} if getattr(cls, "separate_models", False) else {}
    return cls(settings, backbone=backbone, **own)


def _literals(target: str) -> dict[str, Any]:
    """Returns class attributes that are literals.  They are read from the source, because an import would import torch."""
    path, class_name = _source_file(target), target.partition(":")[2]
    found = _literals_by_class(path, path.stat().st_mtime_ns).get(class_name)
    if found is None:
        raise ValueError(f"registry entry {target!r}: the module has no such class")
    return dict(found)


@lru_cache(maxsize=64)
def _literals_by_class(path: Path, _changed: int) -> dict[str, dict[str, Any]]:
    """Parses a module again only after it has changed, because a plan asks hundreds of times for the same few."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: dict(_assignments(node)) for node in nodes if isinstance(node, ast.ClassDef)}


def _assignments(node: ast.ClassDef) -> Iterable[tuple[str, Any]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, literal


def attention_options(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the options of an attention: its keywords other than pattern, num_heads and head_dim."""
    parameters = inspect.signature(cls).parameters
    return {
        name: parameter for name, parameter in parameters.items() if name not in ("pattern", "num_heads", "head_dim")
    }


def takes_max_length(cls: Any) -> bool:
    """Returns whether an attention must be told the longest length that it will be given; the task knows it."""
    return bool(getattr(cls, "needs_max_length", False)) and "max_length" in attention_options(cls)


def build_attention(name: str, *, pattern: str, num_heads: int, head_dim: int, **options: Any) -> nn.Module:
    """Builds an attention for one pattern.  Its methods check their arguments (``benchmark.arguments.checked``).

    Raises UnsupportedPattern if the attention declares that it can't do the pattern.  Raises ValueError for an unknown
    name, pattern or option, and for sizes that are not whole numbers from 1.
    """
    from benchmark.arguments import check_positive, checked  # imported here, because it imports torch

    cls = load_attention(name)
    check_pattern(pattern)
    check_positive("num_heads", num_heads)
    check_positive("head_dim", head_dim)
    unsupported: Mapping[str, str] = getattr(cls, "unsupported", {})
    if pattern in unsupported:
        raise UnsupportedPattern(f"{name} can't do {pattern}: {unsupported[pattern]}")
    check_options(name, cls, options)
    return checked(cls)(pattern=pattern, num_heads=num_heads, head_dim=head_dim, **options)


def check_pattern(pattern: str) -> None:
    """Raises ValueError for an unknown pattern."""
    if pattern not in PATTERNS:
        raise ValueError(f"pattern {pattern!r}: unknown{nearest(pattern, PATTERNS)}; allowed: {', '.join(PATTERNS)}")


def check_options(name: str, cls: type, options: Iterable[str]) -> None:
    """Raises ValueError for an option that the attention does not have."""
    allowed = attention_options(cls)
    for option in options:
        if option not in allowed:
            has = ", ".join(allowed) if allowed else "no options"
            raise ValueError(f"option {option!r} of attention {name}: unknown{nearest(option, allowed)}; it has {has}")
