"""The report: what is made of records.  Loaded on first use, so that the command line imports nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.report.comparison import compare, comparison_table
    from benchmark.report.page import build_report, failed_figures

__all__ = ["build_report", "compare", "comparison_table", "failed_figures"]

_HOME = {
    "build_report": "benchmark.report.page",
    "compare": "benchmark.report.comparison",
    "comparison_table": "benchmark.report.comparison",
    "failed_figures": "benchmark.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchmark.report' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
