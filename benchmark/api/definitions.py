"""Copies the source of a class, and of what it uses from its own module, into the text of a file that stands alone.

What is copied: the class, and every class, function and plain constant of the same module (or of the same notebook) that one
of them names.  What is only imported: everything that another module holds.  Of other modules that are not installed, such as
a file beside the script, the SHA-256 is written into the text, so that a change of them changes the text.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import inspect
import keyword
import linecache
import math
import re
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from benchmark.settings.messages import ConfigError

_SET_BY_PYTHON = {"__name__", "__qualname__", "__module__", "__doc__", "__file__", "__class__", "__annotations__"}
_FUTURE_ANNOTATIONS = 0x1000000  # the flag of ``from __future__ import annotations`` in a code object


def standing_alone(cls: type) -> str:
    """Returns the text of a Python file that defines the class, without what it imports.

    Raises ConfigError for a class whose source can't be read, and for one that uses a value that is not in its source.
    """
    return _Text(cls).whole()


class _Definition(NamedTuple):
    """The source of one class or function, without the decorator ``register_attention``."""

    text: str
    needed: list[str]  # names of its module, in the order in which they are used
    attributes: set[str]  # dotted names, such as ``torch.nn.functional``
    future_annotations: bool


class _Text:
    """Collects what one class needs."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.module = cls.__module__
        self.values = _names_around(cls)
        self.imports: list[str] = []
        self.pieces: list[str] = []  # a piece stands behind those that it needs
        self.others: dict[str, str] = {}  # name of a module that is not installed -> SHA-256 of its file
        self.future_annotations = False
        self._seen: set[str] = set()

    def whole(self) -> str:
        """Returns the text of the file."""
        self._define(self.cls, self.cls.__name__)
        future = ["from __future__ import annotations"] if self.future_annotations else []
        uncovered = [f"# Imported, and not copied: {name}, SHA-256 {digest}" for name, digest in self.others.items()]
        head = "\n".join([*future, *dict.fromkeys(self.imports), *uncovered])
        return "\n\n\n".join(part for part in [head, *self.pieces] if part) + "\n"

    def _define(self, value: Any, name: str) -> None:
        """Adds the source of a class or function, after what it needs."""
        own = name if value.__name__ == "<lambda>" else value.__name__
        if own not in self._seen:
            self._seen.add(own)
            found = _definition(value, self.cls)
            self.future_annotations |= found.future_annotations
            for needed in found.needed:
                self._need(needed, found.attributes)
            self.pieces.append(found.text)
        if name != own:
            self.pieces.append(f"{name} = {own}")

    def _need(self, name: str, attributes: set[str]) -> None:
        """Adds what makes a name available: an import, a definition, or a constant."""
        if name in self._seen or name in _SET_BY_PYTHON:
            return
        if name not in self.values:
            if hasattr(builtins, name):
                return
            raise ConfigError(
                f"{self.cls.__name__} uses the name {name!r}, which its module doesn't define; define it beside the class"
            )
        value = self.values[name]
        if isinstance(value, ModuleType):
            self._seen.add(name)
            self._import_module(value, name, attributes)
        elif _is_of(value, self.module):
            self._define(value, name)
            self._seen.add(name)
        elif (literal := _literal(value)) is not None:
            self._seen.add(name)
            self.pieces.append(f"{name} = {literal}")
        elif (place := self._place(value, name)) is not None:
            self._seen.add(name)
            module, own = place
            self.imports.append(f"from {module} import {own}" + (f" as {name}" if own != name else ""))
            self._note(module)
        else:
            kind = type(value).__name__
            raise ConfigError(
                f"{self.cls.__name__} uses the global {name!r}, a {kind}, whose value is not in its source; make it an option or "
                "an attribute of the class, or give the path of a file with both as include_path"
            )

    def _place(self, value: Any, name: str) -> tuple[str, str] | None:
        return _importable(value, name, self.module, _module_texts(self.values, self.module))

    def _import_module(self, module: ModuleType, name: str, attributes: set[str]) -> None:
        full = module.__name__
        if full == "__main__" or full not in sys.modules:
            raise ConfigError(f"{self.cls.__name__} uses the module {name!r}, which can't be imported by its name")
        self.imports.append(f"import {full}" if full == name else f"import {full} as {name}")
        self._note(full)
        # ``import scipy`` alone would not load ``scipy.signal``.
        for dotted in sorted(attributes):
            first, _, rest = dotted.partition(".")
            if first == name and f"{full}.{rest}" in sys.modules:
                self.imports.append(f"import {full}.{rest}")

    def _note(self, module: str) -> None:
        """Notes the content of a module that is a file of the user's."""
        path = getattr(sys.modules.get(module), "__file__", None)
        if path and Path(path).suffix == ".py" and not _is_installed(module, Path(path).resolve()):
            self.others[module] = hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _names_around(cls: type) -> Mapping[str, Any]:
    """Returns the names of the class's module, or of the notebook."""
    function = next(_functions(cls), None)
    if function is not None:
        return function.__globals__
    return vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yields the functions that are written in the body of a class, or the function itself."""
    if not isinstance(value, type):
        plain = inspect.unwrap(value)
        if isinstance(plain, FunctionType):
            yield plain
        return
    for member in vars(value).values():
        inner = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
        inner = inspect.unwrap(inner) if callable(inner) else inner
        if isinstance(inner, FunctionType) and inner.__qualname__.startswith(f"{value.__qualname__}."):
            yield inner


def _is_of(value: Any, module: str) -> bool:
    """Returns whether this is a class or a function that the module itself defines."""
    return callable(value) and getattr(value, "__module__", None) == module and hasattr(value, "__qualname__")


def _definition(value: Any, cls: type) -> _Definition:
    """Reads the source of a class or a function."""
    function = next(_functions(value), None)
    for source in _sources(value, function):
        for node in reversed(list(ast.walk(_tree(source)))):
            if _defines(node, value, function):
                return _read(node, source, function)
    what = cls.__name__ if value is cls else f"{cls.__name__} needs {getattr(value, '__name__', value)!r}, which"
    raise ConfigError(f"{what} has no source that can be read; define it in a file or in a cell of a notebook")


def _sources(value: Any, function: FunctionType | None) -> Iterator[str]:
    """Yields texts in which the definition may stand.  A notebook's cells are in ``linecache`` too."""
    if function is not None:
        yield "".join(linecache.getlines(function.__code__.co_filename, function.__globals__))
        return
    yield from _module_texts({}, value.__module__)


def _defines(node: ast.AST, value: Any, function: FunctionType | None) -> bool:
    if isinstance(node, ast.Assign) and value.__name__ == "<lambda>" and function is not None:
        return isinstance(node.value, ast.Lambda) and node.lineno == function.__code__.co_firstlineno
    kinds = ast.ClassDef if isinstance(value, type) else (ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(node, kinds) or node.name != value.__name__:
        return False
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return function is None or first <= function.__code__.co_firstlineno <= (node.end_lineno or first)


def _read(node: Any, source: str, function: FunctionType | None) -> _Definition:
    lines = source.splitlines(keepends=True)
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(one.lineno for one in decorators)])
    for one in decorators:
        called = one.func if isinstance(one, ast.Call) else one
        if ast.unparse(called).rpartition(".")[2] == "register_attention":
            lines[one.lineno - 1 : one.end_lineno] = ["\n"] * (one.end_lineno - one.lineno + 1)
    text = textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).strip()
    flag = function.__code__.co_flags & _FUTURE_ANNOTATIONS if function is not None else 0
    future = bool(flag) or "from __future__ import annotations" in source
    code = compile(text, "<source>", "exec", flags=_FUTURE_ANNOTATIONS if future else 0, dont_inherit=True)
    attributes = {ast.unparse(one) for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Attribute)}
    return _Definition(text, list(dict.fromkeys(_global_names(code))), attributes, future)


def _global_names(code: CodeType) -> Iterator[str]:
    """Yields the names that the code reads and does not set itself."""
    instructions = list(dis.get_instructions(code))
    stored = {one.argval for one in instructions if one.opname == "STORE_NAME"}
    for one in instructions:
        if one.opname == "LOAD_GLOBAL" or (one.opname == "LOAD_NAME" and one.argval not in stored):
            yield one.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _literal(value: Any) -> str | None:
    """Returns the text of a plain value; None if it is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    text = repr(value)
    try:
        same = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return text if type(same) is type(value) and same == value else None


def _importable(value: Any, name: str, module: str, texts: Iterable[str]) -> tuple[str, str] | None:
    """Returns a module and a name in it that hold this value; None if there are none.

    texts: of the class's module, whose import statements are tried if the value doesn't name its module, as ``torch.matmul``.
    """
    own_module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", name)
    places = [(own_module, qualname)] if isinstance(own_module, str) else []
    for text in texts:
        places += _imported_from(text, name, module)
    kind = str(value).removeprefix("torch.")  # a dtype
    places += [("typing", name), ("torch", kind), ("torch", name)]
    for place, own in places:
        if place in ("__main__", "__mp_main__", module) or not own.isidentifier() or keyword.iskeyword(own):
            continue
        if getattr(sys.modules.get(place), "__dict__", {}).get(own) is value:
            return place, own
    return None


def _imported_from(text: str, name: str, module: str) -> Iterator[tuple[str, str]]:
    """Yields the places from which import statements of the text take this name."""
    package = getattr(sys.modules.get(module), "__package__", None)
    for node in ast.walk(_tree(text)):
        if isinstance(node, ast.ImportFrom):
            place = "." * node.level + (node.module or "")
            if node.level and not package:
                continue
            full = resolve_name(place, package) if node.level else place
            yield from ((full, one.name) for one in node.names if (one.asname or one.name) == name)


def _tree(text: str) -> ast.Module:
    """Parses a text; a cell of a notebook that is no Python, such as one of shell commands, is empty."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def _module_texts(values: Mapping[str, Any], module: str) -> Iterator[str]:
    """Yields the text of a module's file, or of the cells of the notebook, the latest first."""
    path = values.get("__file__") or getattr(sys.modules.get(module), "__file__", None)
    if path:
        yield "".join(linecache.getlines(path))
        return
    for name in reversed(list(linecache.cache)):
        if "ipython-input" in name or "ipykernel_" in name:
            yield "".join(linecache.getlines(name))


_PROJECT = ("lavo", "baselines", "tasks", "benchmark", "studies")


def _is_installed(module: str, path: Path) -> bool:
    """Returns whether the module belongs to Python, to an installed package, or to this project, whose versions are recorded."""
    places = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "purelib", "platlib")]
    return module.partition(".")[0] in _PROJECT or any(path.is_relative_to(place) for place in places)


def snake_case(name: str) -> str:
    """Returns ``my_attention`` for ``MyAttention``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()
