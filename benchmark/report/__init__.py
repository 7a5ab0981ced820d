"""The report that is made from records.  Names are loaded on first use, so that the command line imports nothing heavy.

The package can be called: ``benchmark.report(results)`` writes a report (``benchmark/report/calling.py``).
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.report.comparison import compare, comparison_table
    from benchmark.report.page import Built, build_report

__all__ = ["Built", "build_report", "compare", "comparison_table"]

_HOME = {
    "Built": "benchmark.report.page",
    "build_report": "benchmark.report.page",
    "compare": "benchmark.report.comparison",
    "comparison_table": "benchmark.report.comparison",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchmark.report' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


class _CallableModule(ModuleType):
    # ``benchmark.report`` is the name of this package and of a function for users.  A module is called by the ``__call__`` of its class.
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from benchmark.report.calling import report

        return report(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
