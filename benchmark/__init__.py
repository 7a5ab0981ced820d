"""The engine of lavo-bench.  Names are loaded on first use, so that ``lavo-bench --help`` imports nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.interface import UnsupportedPattern
    from benchmark.multihead import MultiHeadAttention
    from benchmark.registry import build_attention, register_attention

__version__ = "0.1.0"

__all__ = ["MultiHeadAttention", "UnsupportedPattern", "build_attention", "register_attention"]

_HOME = {
    "MultiHeadAttention": "benchmark.multihead",
    "UnsupportedPattern": "benchmark.interface",
    "build_attention": "benchmark.registry",
    "register_attention": "benchmark.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchmark' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
