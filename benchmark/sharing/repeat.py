"""The command that runs the cells of a record again, with every setting in which they differ from their preset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.interface import REFERENCE
from benchmark.registry import ATTENTIONS
from benchmark.report.groups import canonical, flat
from benchmark.results import Record
from benchmark.settings.cell import without_places
from benchmark.settings.models import AttentionSpec
from benchmark.settings.options import full_options
from benchmark.settings.resolve import GROUPS, resolve


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
    for key, value in _changed(record, site):
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    if record.config.limit is not None:
        words += ["--limit", str(record.config.limit)]
    if record.data.embedded is False:
        words += ["--data-root", "DATA"]
    if source is not None:
        words += ["--include-path", source]
    return shlex.join(words)


def _changed(record: Record, site: str) -> Iterator[tuple[str, Any]]:
    """Yields the settings of the record that its preset has otherwise, and the options that are not the defaults."""
    cell = record.cell
    preset = resolve(cell.task, cell.backbone, cell.preset, AttentionSpec(name=REFERENCE), [], site).plain()
    before = flat({group: without_places(preset.get(group, {})) for group in GROUPS})
    for key, value in flat({group: getattr(record.config, group) for group in GROUPS}).items():
        # The learning rate is always given, because a tuned one would take the place of the preset's.
        if key == "train.learning_rate" or canonical(before.get(key)) != canonical(value):
            yield key, value
    # A class of anyone's must not be loaded for its defaults, so all its options are given.
    defaults = full_options(cell.attention, []) if cell.attention in ATTENTIONS else {}
    for option, value in record.config.options.items():
        if option not in defaults or canonical(defaults[option]) != canonical(value):
            yield f"attentions.{cell.attention}.{option}", value
