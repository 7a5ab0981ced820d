"""The command that runs the cells of a record again, with every setting in which they differ from their preset."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from benchmark.report.groups import canonical
from benchmark.report.repeat import DATA, as_yaml, changed_options, changed_settings
from benchmark.results import Record


def commands(records: Iterable[Record], sources: Mapping[str, str]) -> list[str]:
    """Returns one ``lavo-bench run`` for all seeds of a row.

    sources: attention -> the file that registers it, where it has one.
    """
    rows: dict[str, list[Record]] = {}
    for record in records:
        cell = record.cell
        own = [cell.task, cell.backbone, cell.pattern, cell.attention, cell.preset, cell.sites, asdict(record.config)]
        rows.setdefault(canonical(own), []).append(record)
    return [_command(row, sources.get(row[0].cell.attention)) for row in rows.values()]


def _command(row: Sequence[Record], source: str | None) -> str:
    record = row[0]
    cell = record.cell
    site = cell.sites[0] if cell.sites else cell.pattern
    words = ["lavo-bench", "run", cell.task, "--backbone", cell.backbone, "--pattern", site, "-a", cell.attention]
    words += ["--preset", cell.preset, "--seeds", ",".join(str(one.cell.seed) for one in row)]
    changed = changed_settings(record.config, cell.task, cell.backbone, site, cell.preset)
    # The learning rate is always given, because a tuned one would take the place of the preset's.
    changed["train.learning_rate"] = as_yaml(record.config.train["learning_rate"])
    for key, value in (changed | changed_options(record)).items():
        words += ["--set", f"{key}={value}"]
    if record.config.limit is not None:
        words += ["--limit", str(record.config.limit)]
    if record.data.embedded is False:
        words += ["--data-root", DATA]
    if source is not None:
        words += ["--include-path", source]
    return shlex.join(words)
