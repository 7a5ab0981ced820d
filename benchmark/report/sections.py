"""The sections of a report besides results: what was run, the settings, how to read tables, and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.report import numbers
from benchmark.report.document import Block, Folded, Heading, Listing, Text, Warned
from benchmark.report.groups import Group, flat, words
from benchmark.report.repeat import DATA, FILE, run_commands
from benchmark.report.tables import STATUS_WORDS, Printed, Row, Table, data_words, escape, reason_of
from benchmark.results import DataSource, Environment, Record

PUBLISHED_SIZE = "paper"
"""The only preset that follows the published protocols."""
NOT_FOR_REAL = " Those that say how data are made up have no effect on these."


def header(records: Sequence[Record], damaged: Sequence[str]) -> list[Block]:
    """Returns the beginning of the page: how many cells, what could not be read, and with what not to compare figures."""
    unread: list[Block] = [Warned(f"Damaged, and so left out: {escape(line)}") for line in damaged]
    if not records:
        return [Text("No records of cells in these folders."), *unread]
    note = caveat(records)
    return [Text(_counts(records)), *unread, *([Warned(note)] if note else [])]


def not_completed(groups: Sequence[Group]) -> list[Block]:
    """Returns the table of the cells that have no result, with the reason of each."""
    lost = [row for group in groups for row in _lost(group)]
    if not lost:
        return []
    caption = "Cells without a result."
    return [Table("not-completed", caption, ["cell", "why"], [*map(_lost_row, lost)], lost, is_prose=True)]


def _counts(records: Sequence[Record]) -> str:
    statuses: dict[str, int] = {}
    for record in records:
        statuses[record.status] = statuses.get(record.status, 0) + 1
    counted = ", ".join(f"{number} {STATUS_WORDS.get(status, status)}" for status, number in statuses.items())
    seeds = sorted({record.cell.seed for record in records})
    presets = sorted({record.cell.preset for record in records})
    devices = sorted({device_words(record.environment) for record in records if record.environment.device})
    return (
        f"{len(records)} cells: {counted}. Preset: {', '.join(presets)}. Seeds: {', '.join(map(str, seeds))}. "
        f"Device: {escape('; '.join(devices) or 'not recorded')}."
    )


def caveat(records: Sequence[Record]) -> str:
    """Returns why these figures can't be compared with published ones, in a sentence; "" if they can."""
    tasks = list(dict.fromkeys(words(record.cell.task) for record in records))
    embedded = list(dict.fromkeys(words(record.cell.task) for record in records if record.data.embedded))
    small = sorted({record.cell.preset for record in records if record.cell.preset != PUBLISHED_SIZE})
    reasons = []
    if embedded:
        whose = "The data" if embedded == tasks else f"The data of {', '.join(embedded)}"
        reasons.append(f"{whose} {'is' if len(embedded) == 1 else 'are'} **embedded**: made by the project")
    if small:
        reasons.append(
            f"preset **{', '.join(small)}** trains smaller models for a shorter time than published protocols"
        )
    if not reasons:
        return ""
    text = ", and ".join(reasons)
    return f"{text[:1].upper()}{text[1:]}. Compare attentions with each other; these are not reproductions of published figures."


def device_words(environment: Environment) -> str:
    """Returns a text such as ``Some CPU, 2 threads``."""
    device, threads = environment.device or "unknown", environment.threads
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}" if threads else device


def matrix(groups: Sequence[Group]) -> Table:
    """Returns the table of tables: one row for each, with its data, attentions and seeds."""
    rows, values = [], []
    for group in groups:
        done = sum(len(entry.completed) for entry in group.entries)
        row = {
            "table": f"{words(group.task)}: {group.title}",
            "preset": group.preset,
            "data": data_words(group.data),
            "attentions": ", ".join(entry.label for entry in group.entries),
            "seeds": ", ".join(map(str, group.seeds)),
            "completed": f"{done} of {sum(entry.asked for entry in group.entries) + len(group.left_out)}",
        }
        rows.append(Row(row["table"], tuple(Printed(row[key]) for key in list(row)[1:])))
        values.append(row)
    columns = ["table", "preset", "data (SHA-256)", "attentions", "seeds", "completed"]
    return Table("matrix", "What was run.", columns, rows, values, is_prose=True)


def _lost(group: Group) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for entry in group.entries:
        for record in entry.records:
            if not record.is_completed:
                rows.setdefault((entry.label, record.status, reason_of(record)), []).append(str(record.cell.seed))
    where = f"{words(group.task)}: {group.title}"
    return [
        {"where": where, "attention": label, "seeds": ", ".join(seeds), "status": status, "reason": reason}
        for (label, status, reason), seeds in rows.items()
    ]


def _lost_row(lost: dict[str, Any]) -> Row:
    status = STATUS_WORDS.get(lost["status"], lost["status"])
    return Row(f"{lost['where']}, {lost['attention']}, seed {lost['seeds']}", (Printed(f"{status}: {lost['reason']}"),))


def settings_of(group: Group) -> list[Block]:
    """Returns how the backbone encodes positions, and all settings, which a click opens."""
    lines = []
    for part in ("data", "model", "train", "eval"):
        settings = flat(getattr(group.settings, part))
        is_real = part == "data" and not group.data.embedded
        if is_real and "name" in settings:  # in the settings it is that of the data that would be made up
            settings["name"] = group.data.name
        known = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        if known:
            lines.append(f"{part.capitalize()}: {escape(known)}.{NOT_FOR_REAL if is_real else ''}")
    if group.settings.limit is not None:
        lines.append(f"Limit: {group.settings.limit} examples of the validation and test parts.")
    text = Text(f"Positions: {escape(positions(group))}.")
    return [text, Folded("Settings", "\n".join(f"- {line}" for line in lines))] if lines else [text]


def positions(group: Group) -> str:
    """Returns how the backbone encodes positions, as recorded in the data's details, the settings or the curves."""
    said = [
        group.data.details.get("positions"),
        group.settings.model.get("positions"),
        *(record.curves.get("positions") for record in group.records),
    ]
    return next((value for value in said if value and isinstance(value, str)), "not recorded")


def provenance(groups: Sequence[Group], records: Sequence[Record], names: Sequence[str], output: str) -> list[Block]:
    """Returns the section on what was run, data, code and machines, with the commands that repeat the runs."""
    blocks: list[Block] = [Heading(3, "What was run"), *([matrix(groups)] if groups else []), *not_completed(groups)]
    environments = _environments(records)
    if environments is not None:
        blocks += [Heading(3, "Code, machines and data"), environments]
    data = {(group.task, group.data.sha256): group for group in groups if group.data != DataSource()}
    rows = [
        Row(words(group.task), (Printed(_source(group.data)), Printed(group.data.sha256 or numbers.MISSING)))
        for group in data.values()
    ]
    if rows:
        values = [{"task": g.task, "data": _source(g.data), "sha256": g.data.sha256} for g in data.values()]
        blocks.append(Table("data", "Data.", ["task", "data", "SHA-256"], rows, values, is_prose=True))
    commands = run_commands(groups)
    blocks += [
        Heading(3, "To repeat"),
        Listing([*commands, f"lavo-bench report {' '.join(names)} -o {output}"]),
    ]
    explained = [f"`{DATA}` is the folder of the real data."] if any(f" {DATA}" in line for line in commands) else []
    if any(FILE in line for line in commands):
        explained.append(f"`{FILE}` is the file that registers the attentions which are not in the registry.")
    blocks += [Text(" ".join(explained))] if explained else []
    return blocks


def _source(data: DataSource) -> str:
    return f"{'embedded' if data.embedded else 'real'}: {data.name or 'unnamed'}"


def _environments(records: Sequence[Record]) -> Table | None:
    """Returns a table with one row for each combination of commit, device and versions."""
    found: dict[tuple[str, str, str], int] = {}
    for record in records:
        if record.environment != Environment():
            key = _environment_words(record.environment)
            found[key] = found.get(key, 0) + 1
    if not found:
        return None
    rows = [Row(key[0], (*map(Printed, key[1:]), Printed(str(number)))) for key, number in found.items()]
    values = [dict(zip(("commit", "device", "versions"), key, strict=True)) | {"cells": n} for key, n in found.items()]
    return Table(
        "environments", "Code and machines.", ["commit", "device", "versions", "cells"], rows, values, is_prose=True
    )


def _environment_words(environment: Environment) -> tuple[str, str, str]:
    """Returns commit, device and versions as texts."""
    packages: Mapping[str, str | None] = {"python": environment.python, **environment.packages}
    versions = ", ".join(f"{name} {value}" for name, value in packages.items() if value)
    versions += f"; {environment.system}" if environment.system else ""
    commit = (environment.commit or "unknown")[:12]
    commit += " with uncommitted changes" if environment.dirty else ""
    return commit, device_words(environment), versions


def how_to_read() -> list[Block]:
    """Returns the section that explains the tables."""
    return [
        Heading(3, "How to read the tables"),
        Text(
            "- A figure is the mean over seeds ± the sample standard deviation (n − 1) of the seeds' values. With one seed there is "
            "no ±.\n"
            "- Bold is the best attention, if its mean ± deviation touches that of no other one in the table. With one seed nothing "
            "is bold.\n"
            "- The last column of a table of metrics compares each attention with the exact one: the mean difference of the first "
            "metric over the seeds that both have, with its 95 % interval (Student's t). With two or three seeds the interval is "
            "wide.\n"
            "- The last rows, in italics or below a rule, are controls: simple rules, models without attention, and in some tasks a "
            "bound. An attention that doesn't beat the simple rules has not learnt the task.\n"
            "- ↑ higher is better, ↓ lower is better. Exact attentions compute the same function by different kernels, so the "
            "difference between them is noise."
        ),
    ]
