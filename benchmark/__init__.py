"""The engine of lavo-bench.  Names are loaded on first use, so that ``lavo-bench --help`` imports nothing heavy.

For users: ``run``, ``check`` and ``report`` do what the commands of these names do (docs/python.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmark.extras import needed_by

if TYPE_CHECKING:
    from benchmark.api.checking import check
    from benchmark.api.running import run
    from benchmark.interface import UnsupportedPattern
    from benchmark.multihead import MultiHeadAttention
    from benchmark.registry import build_attention, register_attention
    from benchmark.report.calling import report
    from benchmark.settings.messages import ConfigError as UsageError

__version__ = "0.1.0"

__all__ = [
    "MultiHeadAttention",
    "UnsupportedPattern",
    "UsageError",
    "build_attention",
    "check",
    "register_attention",
    "report",
    "run",
]

_HOME = {
    "MultiHeadAttention": "benchmark.multihead",
    "UnsupportedPattern": "benchmark.interface",
    "UsageError": "benchmark.settings.messages:ConfigError",
    "build_attention": "benchmark.registry",
    "check": "benchmark.api.checking",
    "register_attention": "benchmark.registry",
    "run": "benchmark.api.running",
}


def __getattr__(name: str) -> Any:
    if name != "report" and name not in _HOME:
        raise AttributeError(f"module 'benchmark' has no attribute {name!r}")
    with needed_by(f"benchmark.{name}"):
        if name == "report":  # the package benchmark/report/, which can be called
            return import_module("benchmark.report")
        module, _, own = _HOME[name].partition(":")
        return getattr(import_module(module), own or name)
