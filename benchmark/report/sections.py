"""The sections of a report as blocks: what was run, the tables, speed, and where everything comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.report import numbers
from benchmark.report.document import Block, Folded, Heading, Listing, Text, Warned
from benchmark.report.groups import Group, Record, flat, words
from benchmark.report.tables import STATUS_WORDS, Cell, Row, Table, data_words, escape

PUBLISHED_SIZE = "paper"
"""The one preset that follows the published protocols."""


def header(groups: Sequence[Group], records: Sequence[Record]) -> list[Block]:
    """What was run, and what its figures are not."""
    if not records:
        return [Text("No records of cells in these folders.")]
    blocks: list[Block] = [Text(_counts(records)), *map(Warned, caveats(records)), matrix(groups)]
    lost = [row for group in groups for row in _lost(group)]
    if lost:
        blocks.append(
            Table("not-completed", "Cells without a result.", ["cell", "why"], [*map(_lost_row, lost)], lost, [], True)
        )
    return blocks


def _counts(records: Sequence[Record]) -> str:
    statuses: dict[str, int] = {}
    for record in records:
        statuses[record["status"]] = statuses.get(record["status"], 0) + 1
    counted = ", ".join(f"{number} {STATUS_WORDS.get(status, status)}" for status, number in statuses.items())
    seeds = sorted({record["cell"]["seed"] for record in records})
    presets = sorted({record["cell"]["preset"] for record in records})
    devices = sorted({device_words(record) for record in records if record.get("environment")})
    return (
        f"{len(records)} cells: {counted}. Preset: {', '.join(presets)}. Seeds: {', '.join(map(str, seeds))}. "
        f"Device: {escape('; '.join(devices) or 'not recorded')}."
    )


def caveats(records: Sequence[Record]) -> list[str]:
    """Whether these figures may be held against published ones, in plain words."""
    found = []
    used = [record for record in records if record["status"] == "completed"]
    embedded = sorted({words(r["cell"]["task"]) for r in used if (r.get("data") or {}).get("embedded")})
    small = sorted({r["cell"]["preset"] for r in records if r["cell"]["preset"] != PUBLISHED_SIZE})
    if embedded:
        found.append(
            f"The data of {', '.join(embedded)} is **embedded**: made by the project on the spot. Figures on it compare attentions "
            "with each other; they reproduce no published figure and can't be compared with one."
        )
    if small:
        found.append(
            f"Preset **{', '.join(small)}** trains smaller models for a shorter time than the published protocols: its figures are "
            "not reproductions of published ones."
        )
    return found


def device_words(record: Record) -> str:
    environment = record.get("environment") or {}
    threads = environment.get("threads")
    return f"{environment.get('device') or 'unknown'}" + (
        f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    )


def matrix(groups: Sequence[Group]) -> Table:
    """One row a table: its data, attentions and seeds."""
    rows, values = [], []
    for group in groups:
        done = sum(len(entry.completed) for entry in group.entries)
        seeds = sorted({record["cell"]["seed"] for record in group.records})
        row = {
            "table": f"{words(group.task)}: {group.title}",
            "preset": group.preset,
            "data": data_words(group.data),
            "attentions": ", ".join(entry.label for entry in group.entries),
            "seeds": ", ".join(map(str, seeds)),
            "completed": f"{done} of {len(group.records)}",
        }
        rows.append(Row(row["table"], tuple(Cell(row[key]) for key in list(row)[1:])))
        values.append(row)
    columns = ["table", "preset", "data (SHA-256)", "attentions", "seeds", "completed"]
    return Table("matrix", "What was run.", columns, rows, values, [], True)


def _lost(group: Group) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for entry in group.entries:
        for record in entry.records:
            if record["status"] != "completed":
                reason = " ".join(str(record.get("reason") or "no reason recorded").split())
                rows.setdefault((entry.label, record["status"], reason), []).append(str(record["cell"]["seed"]))
    where = f"{words(group.task)}: {group.title}"
    return [
        {"where": where, "attention": label, "seeds": ", ".join(seeds), "status": status, "reason": reason}
        for (label, status, reason), seeds in rows.items()
    ]


def _lost_row(lost: dict[str, Any]) -> Row:
    status = STATUS_WORDS.get(lost["status"], lost["status"])
    return Row(f"{lost['where']}, {lost['attention']}, seed {lost['seeds']}", (Cell(f"{status}: {lost['reason']}"),))


def settings_of(group: Group) -> list[Block]:
    """How the backbone encodes positions, and all settings, folded away."""
    lines = []
    for part in ("data", "model", "train", "eval"):
        settings = flat(group.settings.get(part) or {})
        known = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
        if known:
            lines.append(f"{part.capitalize()}: {escape(known)}.")
    if group.settings.get("limit") is not None:
        lines.append(f"Limit: {group.settings['limit']} examples of each part.")
    text = Text(f"Positions: {escape(positions(group))}.")
    return [text, Folded("Settings", "\n".join(f"- {line}" for line in lines))] if lines else [text]


def positions(group: Group) -> str:
    """How the backbone encodes positions, by its settings, its data's details, or what it said after training."""
    curves = [(record.get("curves") or {}).get("positions") for record in group.records]
    said = [
        (group.data.get("details") or {}).get("positions"),
        (group.settings.get("model") or {}).get("positions"),
        *(value for value in curves if isinstance(value, str)),
    ]
    return next((str(value) for value in said if value), "not recorded")


def provenance(groups: Sequence[Group], records: Sequence[Record], names: Sequence[str], output: str) -> list[Block]:
    """Data, code, machines, and the commands that give the same again."""
    blocks: list[Block] = [Heading(2, "Provenance")]
    environments = _environments(records)
    if environments is not None:
        blocks.append(environments)
    data = {(g.task, str(g.data.get("sha256"))): g for g in groups if g.data}
    rows = [
        Row(words(group.task), (Cell(_whose(group.data)), Cell(str(group.data.get("sha256") or numbers.MISSING))))
        for group in data.values()
    ]
    if rows:
        values = [{"task": g.task, "data": _whose(g.data), "sha256": g.data.get("sha256")} for g in data.values()]
        blocks.append(Table("data", "Data.", ["task", "data", "SHA-256"], rows, values, [], True))
    blocks += [Text("To repeat:"), Listing([*_commands(groups), f"lavo-bench report {' '.join(names)} -o {output}"])]
    if any(not (group.data.get("embedded")) for group in groups if group.data):
        blocks.append(
            Text("`DATA` is the folder of the real data. Settings given by `--set` are in each record's `config`.")
        )
    return blocks


def _whose(data: Any) -> str:
    return f"{'embedded' if data.get('embedded') else 'real'}: {data.get('name') or 'unnamed'}"


def _environments(records: Sequence[Record]) -> Table | None:
    """One row a distinct environment, without its differences from run to run such as dates."""
    found: dict[tuple[str, ...], int] = {}
    for record in records:
        environment = record.get("environment")
        if environment:
            packages = {"python": environment.get("python"), **(environment.get("packages") or {})}
            versions = ", ".join(f"{name} {value}" for name, value in packages.items() if value)
            versions += f"; {environment['system']}" if environment.get("system") else ""
            commit = str(environment.get("commit") or "unknown")[:12]
            commit += " with uncommitted changes" if environment.get("dirty") else ""
            key = (commit, device_words(record), versions)
            found[key] = found.get(key, 0) + 1
    if not found:
        return None
    rows = [Row(key[0], (*map(Cell, key[1:]), Cell(str(number)))) for key, number in found.items()]
    values = [dict(zip(("commit", "device", "versions"), key, strict=True)) | {"cells": n} for key, n in found.items()]
    return Table(
        "environments", "Code and machines.", ["commit", "device", "versions", "cells"], rows, values, [], True
    )


def _commands(groups: Sequence[Group]) -> list[str]:
    commands = []
    for group in groups:
        attentions = ",".join(dict.fromkeys(entry.attention for entry in group.entries))
        seeds = ",".join(map(str, sorted({record["cell"]["seed"] for record in group.records})))
        command = f"lavo-bench run {group.task} --backbone {group.backbone} --pattern {group.pattern}"
        command += f" -a {attentions} --preset {group.preset} --seeds {seeds}"
        commands.append(command if group.data.get("embedded", True) else f"{command} --data-root DATA")
    return list(dict.fromkeys(commands))


def how_to_read() -> list[Block]:
    """The rules that the tables follow."""
    return [
        Heading(2, "How to read the tables"),
        Text(
            "- A figure is the mean over seeds ± the sample standard deviation (n − 1) of the seeds' values; one value has no ±.\n"
            "- Bold: the best, if its mean ± deviation touches that of no other attention in the table. With one seed nothing is "
            "bold.\n"
            "- The last column of a table of metrics is the mean paired difference of the headline metric to the exact attention over the "
            "seeds that both have, with its 95 % interval (Student's t). With two or three seeds such an interval is wide, as it "
            "should be.\n"
            "- Below the rule stand controls: what trivial rules score, and models without attention. What an attention does no "
            "better than its controls, it hasn't learnt.\n"
            "- ↑ higher is better, ↓ lower is better. Exact attentions compute one function by different kernels: how far they "
            "lie apart is noise."
        ),
    ]
