"""``benchmark.check``: the conformance suite of ``lavo-bench check``, from Python."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.api.running import Names, as_usage_errors, listed
from benchmark.api.status import status

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from benchmark.checking.conformance import CheckResult

_WIDTH = 120  # characters of the printed tables


@dataclass(frozen=True)
class Checked:
    """The results of all checks on an attention.  It prints as the tables of ``lavo-bench check`` and their last sentence."""

    name: str
    rows: Sequence[CheckResult]

    @property
    def passed(self) -> bool:
        """Whether no check has failed.  Streaming may be missing; ``sentence`` then says what can't be run."""
        return not any(row.outcome == "failed" for row in self.rows)

    @property
    def sentence(self) -> str:
        """What the attention can be used for now."""
        from benchmark.checking.verdict import sentence

        return sentence(self.name, self.rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each check and pattern: ``part``, ``check``, ``pattern``, ``outcome``, ``detail``, ``consequence``."""
        import pandas as pd

        from benchmark.checking.verdict import consequence, is_contract

        rows = [
            {
                "part": "contract" if is_contract(row) else "mathematics",
                **row._asdict(),
                "consequence": consequence(row),
            }
            for row in self.rows
        ]
        return pd.DataFrame(rows, columns=["part", "check", "pattern", "outcome", "detail", "consequence"])

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=_WIDTH, force_jupyter=False)
        for table in self._tables():
            console.print(table)
        return f"{text.getvalue()}{self.sentence}"

    def __repr__(self) -> str:
        return f"<Checked {self.name}: {'passed' if self.passed else 'failed'}; {self.sentence}>"

    def _repr_html_(self) -> str:
        """The sentence, and the table folded below it; a notebook shows this."""
        from html import escape

        table = self.frame.to_html(index=False, border=0)
        counts = self.frame["outcome"].value_counts()
        counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"<p>{escape(self.sentence)}</p><details><summary>{escape(counted)}</summary>{table}</details>"

    def _tables(self) -> list[Table]:
        from benchmark.checking.verdict import consequence, is_contract
        from benchmark.report import listing

        return [
            listing.checks(
                f"{self.name}: {title}", [(row, consequence(row)) for row in self.rows if is_contract(row) == contract]
            )
            for title, contract in (("mathematics", False), ("contract", True))
        ]


def check(
    attention: str | type,
    *,
    patterns: Names = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = "cpu",
    progress: bool = True,
) -> Checked:
    """Checks whether an attention, by name or as a class, is the function that it says it is, and what it can be used for.

    patterns: by default all four.  options: of its constructor.  A class needs neither a name nor a readable source.
    Raises UsageError for an unknown name, pattern or option, and for a class without its declarations.
    """
    from benchmark.api.definitions import snake_case
    from benchmark.checking.conformance import check_class
    from benchmark.registry import check_options, load_attention, name_of_class
    from benchmark.settings.command import device_of

    with as_usage_errors():
        cls: Any = load_attention(attention) if isinstance(attention, str) else attention
        name = attention if isinstance(attention, str) else name_of_class(cls) or snake_case(cls.__name__)
        check_options(name, cls, options or {})
        with status(progress) as show:
            rows = check_class(
                cls,
                patterns=listed(patterns, "--pattern"),
                options=options,
                device=device_of(device),
                listen=lambda pattern, check: show(f"checking {name}: {pattern}, {check}"),
            )
    return Checked(name, rows)
