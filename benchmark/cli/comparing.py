"""The work of ``lavo-bench compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.printing import console, say
from benchmark.settings.messages import ConfigError

ENDINGS = (".md", ".csv")


class Comparison:
    """Two sets of results, or two attentions of one set.  Raises ConfigError for options that say neither."""

    def __init__(self, a: Path, b: Path | None, attentions: Sequence[str] | None, output: Path | None) -> None:
        from benchmark.report import compare

        if b is None and (attentions is None or len(attentions) != 2):
            raise ConfigError(
                "compare: with one folder, -a must name two attentions, as -a softmax,lavo; or name a second folder"
            )
        if output is not None and output.suffix not in ENDINGS:
            raise ConfigError(f"-o {output}: must end in {' or '.join(ENDINGS)}")
        self.names = (str(a), str(b)) if attentions is None or b is not None else (attentions[0], attentions[1])
        self.output = output
        self.damaged: list[str] = []
        try:
            self.frame = compare([a], [] if b is None else [b], attentions, damaged=self.damaged.append)
        except ValueError as error:
            raise ConfigError(f"compare: {error}") from None

    def show(self, *, all_metrics: bool) -> None:
        """Prints the comparison, and writes the file if one is wanted."""
        from benchmark.files import write_bytes
        from benchmark.report import comparison_table, listing
        from benchmark.report.tables import to_csv, to_markdown

        short = ("A", "B") if len(" ".join(self.names)) > 24 else self.names
        table = comparison_table(self.frame, short, all_metrics=all_metrics)
        console().print(listing.plain(table, title=f"{self.names[1]} against {self.names[0]}"))
        if self.output is not None:
            text = to_csv(table) if self.output.suffix == ".csv" else f"{to_markdown(table)}\n\n{table.notes[0]}\n"
            write_bytes(self.output, text.encode())
            say(f"written: {self.output}")

    def regressions(self) -> int:
        """Prints how many first metrics are worse, resolved.  Returns the exit status: 1 if any is."""
        count = int((self.frame["headline"] & (self.frame["verdict"] == "worse")).sum())
        say(f"{count} resolved regressions")
        return 1 if count else 0
