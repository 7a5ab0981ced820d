"""Saboteurs: attentions that break one promise of the conformance suite on purpose, and the checks that must catch them.

They are in ``broken_definition.py`` and the like, one file for each kind of fault; each is made from an attention of
``correct_attentions.py``, and each fault was found in public code.  The docstring of a saboteur says what is wrong.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple


class Saboteur(NamedTuple):
    """A wrong attention, and the check that must fail on it at this pattern."""

    check: str
    pattern: str
    cls: Any


def fails(check, *patterns):
    """Marks a class as a saboteur that this check must catch at these patterns."""

    def mark(cls):
        cls.faults = [*vars(cls).get("faults", ()), *((check, pattern) for pattern in patterns)]
        return cls

    return mark


def saboteurs(*modules: ModuleType) -> list[Saboteur]:
    """The saboteurs that these modules define."""
    classes = [cls for module in modules for cls in vars(module).values() if isinstance(cls, type)]
    return [Saboteur(check, pattern, cls) for cls in classes for check, pattern in vars(cls).get("faults", ())]
