"""The commands that repeat the runs of a report, with every setting in which the records differ from their preset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from benchmark.registry import ATTENTIONS, load_attention
from benchmark.report.groups import Entry, Group, flat, learning_rate
from benchmark.report.inputs import shown_path
from benchmark.results import CellConfig, Record
from benchmark.settings.cell import without_places
from benchmark.settings.resolve import GROUPS

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
    return as_yaml(learning_rate(record)) if record.config.learning_rate_from == "set" else None


def _command(group: Group, entries: Sequence[Entry]) -> tuple[str, ...]:
    record = entries[0].records[0]
    seeds = ",".join(str(one.cell.seed) for one in entries[0].records)
    words = ["lavo-bench", "run", group.task, "--backbone", group.backbone]
    words += ["-a", ",".join(entry.attention for entry in entries), "--preset", group.preset, "--seeds", seeds]
    if any(entry.attention.partition("@")[0] not in ATTENTIONS for entry in entries):
        words += ["--include-path", FILE]
    changed = changed_settings(group.settings, group.task, group.backbone, group.pattern, group.preset)
    changed |= {key: value for entry in entries for key, value in changed_options(entry.records[0]).items()}
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


def changed_settings(config: CellConfig, task: str, backbone: str, pattern: str, preset: str) -> dict[str, str]:
    """Returns the settings that are not those of the preset, as texts of --set; none if the task isn't there."""
    default = _defaults(task, backbone, pattern, preset)
    if default is None:
        return {}
    own = {part: getattr(config, part) for part in GROUPS}
    # Records of before lack settings that came later, and those that only say where files lie.
    return {
        key: as_yaml(value)
        for key, value in flat(own).items()
        if key in default and default[key] != value and not isinstance(default[key], Mapping)
    }


def changed_options(record: Record) -> dict[str, str]:
    """Returns the attention's options that must be given to get those of the record, as texts of --set."""
    name, options = record.cell.attention, record.config.options
    default = _default_options(name)
    changed = {key: value for key, value in options.items() if key not in default or default[key] != value}
    settle = getattr(load_attention(name), "settled_options", None) if default else None
    heads, width = (record.config.model.get(key) for key in ("num_heads", "embed_dim"))
    if settle is not None and isinstance(heads, int) and isinstance(width, int):
        # The record has defaults that depend on head_dim filled in.  Without them the command is shorter.
        settled = settle(default, width // heads)
        fewer = {key: value for key, value in changed.items() if settled.get(key) != value}
        if settle({**default, **fewer}, width // heads) == {**default, **options}:
            changed = fewer
    return {f"attentions.{name}.{key}": as_yaml(value) for key, value in changed.items()}


@cache
def _defaults(task: str, backbone: str, pattern: str, preset: str) -> Mapping[str, Any] | None:
    """Returns the settings of the preset; None if task or preset aren't there where the report is made."""
    from benchmark.settings.models import AttentionSpec
    from benchmark.settings.resolve import resolve

    try:
        found = resolve(task, backbone, preset, AttentionSpec(name="softmax"), [], pattern)
    except (ValueError, ImportError, KeyError):
        return None
    # As a record has them: JSON knows no tuples, and a path is its last part.
    return flat(json.loads(json.dumps(without_places(found.plain()))))


@cache
def _default_options(attention: str) -> Mapping[str, Any]:
    """Returns the defaults of an attention of this project; none for others, whose code must not run for a report."""
    from benchmark.settings.options import full_options

    if attention.partition("@")[0] not in ATTENTIONS:
        return {}
    return json.loads(json.dumps(full_options(attention, [])))


def as_yaml(value: Any) -> str:
    """Returns a value as YAML that --set reads, on one line."""
    is_word = isinstance(value, str) and value.isidentifier() and value not in ("null", "true", "false")
    return value if is_word else json.dumps(value, ensure_ascii=False)
