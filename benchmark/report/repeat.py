"""The commands that repeat the runs of a report, with every setting in which the records differ from their preset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from benchmark.registry import ATTENTIONS
from benchmark.report.groups import Entry, Group, flat, learning_rate
from benchmark.report.inputs import shown_path

FILE = "FILE.py"  # stands for the file that registers attentions that are not in the registry
DATA = "DATA"  # stands for the folder of the real data


def run_commands(groups: Sequence[Group]) -> list[str]:
    """Returns the commands; tables that differ in nothing but the pattern share one."""
    patterns: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        for entries in _alike(group):
            patterns.setdefault(_command(group, entries), []).append(group.pattern)
    return [
        " ".join([*before, *(["--pattern", ",".join(dict.fromkeys(found))]), *after])
        for (before, after), found in ((_halves(command), found) for command, found in patterns.items())
    ]


def _halves(command: tuple[str, ...]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the words up to the backbone, and the rest: the pattern stands between them."""
    place = command.index("-a")
    return command[:place], command[place:]


def _alike(group: Group) -> list[list[Entry]]:
    """Divides the rows into those that one command can run: with one learning rate, and no attention twice."""
    parts: dict[tuple[str | None, int, tuple[int, ...]], list[Entry]] = {}
    for entry in group.entries:
        rate, seeds = _rate(entry), tuple(record.cell.seed for record in entry.records)
        number = 0
        while any(other.attention == entry.attention for other in parts.get((rate, number, seeds), [])):
            number += 1
        parts.setdefault((rate, number, seeds), []).append(entry)
    return list(parts.values())


def _rate(entry: Entry) -> str | None:
    """Returns the learning rate that was given by --set; None if it is the preset's or a tuned one."""
    record = entry.records[0]
    return _plain(learning_rate(record)) if record.config.learning_rate_from == "set" else None


def _command(group: Group, entries: Sequence[Entry]) -> tuple[str, ...]:
    record = entries[0].records[0]
    seeds = ",".join(str(one.cell.seed) for one in entries[0].records)
    words = ["lavo-bench", "run", group.task, "--backbone", group.backbone]
    words += ["-a", ",".join(entry.attention for entry in entries), "--preset", group.preset, "--seeds", seeds]
    if any(entry.attention.partition("@")[0] not in ATTENTIONS for entry in entries):
        words += ["--include-path", FILE]
    changed = {**_changed(group), **{key: value for entry in entries for key, value in _options(entry).items()}}
    rate = _rate(entries[0])
    changed |= {} if rate is None else {"train.learning_rate": rate}
    for key, value in changed.items():
        words += ["--set", shlex.quote(f"{key}={value}")]
    if group.settings.limit is not None:
        words += ["--limit", str(group.settings.limit)]
    if group.data.embedded is False:
        words += ["--data-root", DATA]
    if record.path is not None:
        words += ["-o", shlex.quote(shown_path(record.path.parents[1]))]
    return tuple(words)


def _changed(group: Group) -> dict[str, str]:
    """Returns the settings of the table that are not the preset's, as texts of --set."""
    default = _defaults(group.task, group.backbone, group.pattern, group.preset)
    if default is None:
        return {}
    own = {part: getattr(group.settings, part) for part in ("data", "model", "eval", "train")}
    # Records of before lack settings that came later, and those that only say where files lie.
    return {
        key: _plain(value)
        for key, value in flat(own).items()
        if key in default and default[key] != value and not isinstance(default[key], Mapping)
    }


def _options(entry: Entry) -> dict[str, str]:
    given = flat(entry.records[0].config.options)
    default = _default_options(entry.attention)
    return {
        f"attentions.{entry.attention}.{key}": _plain(value)
        for key, value in given.items()
        if key not in default or default[key] != value
    }


@cache
def _defaults(task: str, backbone: str, pattern: str, preset: str) -> Mapping[str, Any] | None:
    """Returns the settings of the preset; None if task or preset aren't there where the report is made."""
    from benchmark.settings.models import AttentionSpec
    from benchmark.settings.resolve import resolve

    try:
        found = resolve(task, backbone, preset, AttentionSpec(name="softmax"), [], pattern)
    except (ValueError, ImportError, KeyError):
        return None
    # As a record has them: JSON knows no tuples.
    return flat(json.loads(json.dumps(found.plain())))


@cache
def _default_options(attention: str) -> Mapping[str, Any]:
    from benchmark.settings.options import full_options

    try:
        return flat(json.loads(json.dumps(full_options(attention, []))))
    except (ValueError, ImportError):
        return {}


def _plain(value: Any) -> str:
    """Returns a value as YAML that --set reads, on one line."""
    return (
        value
        if isinstance(value, str) and value.isidentifier() and value not in ("null", "true", "false")
        else json.dumps(value)
    )
