"""``lavo-bench board``: merges packs into one page, with what could be verified of each."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmark.files import write_bytes
from benchmark.interface import REFERENCE
from benchmark.registry import ATTENTIONS
from benchmark.report.cards import card_of
from benchmark.report.differences import against_exact
from benchmark.report.document import Block, Folded, Heading, Text, Warned, render_markdown
from benchmark.report.groups import canonical, group_records, own_settings, words
from benchmark.report.html import render_html
from benchmark.report.latex import to_latex
from benchmark.report.numbers import significant
from benchmark.report.summary import summary_table
from benchmark.report.tables import Printed, Row, Table, escape, metric_tables, to_csv
from benchmark.results import Record
from benchmark.settings.messages import ConfigError, shortened
from benchmark.settings.tuned import read_rates
from benchmark.sharing.audit import Attention, built_in, faults, reference_version, task_version
from benchmark.sharing.manifest import Manifest
from benchmark.sharing.repeat import commands
from benchmark.sharing.unpack import Pack, read_pack

ENDING = ".zip"


class Verified(NamedTuple):
    """A pack that was accepted: its records agree with its manifest, their hashes and their values by example."""

    manifest: Manifest
    digest: str  # SHA-256 of the file
    records: list[Record]  # of tasks whose version is that of here
    sources: dict[str, bytes]
    left_out: list[str]  # a line for each task whose cells are left out


class Board(NamedTuple):
    """What ``build_board`` has written."""

    html: Path
    markdown: Path
    refused: list[str]  # a line for each pack that is not shown
    left_out: list[str]  # a line for each task of a pack whose cells are not shown


def pack_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the packs among these files and in these folders.  Raises ConfigError for one that holds none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob(f"*{ENDING}")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(
                f"{path}: no packs (*{ENDING}) in this folder; lavo-bench submit packs a folder of records"
            )
        if not path.is_dir() and not path.is_file():
            raise ConfigError(f"{path}: no such pack")
        found += inside
    return list(dict.fromkeys(found))


def build_board(paths: Sequence[Path], output: Path) -> Board:
    """Reads packs and writes ``board.html``, ``board.md``, tables as CSV and LaTeX, and the sources of attentions into ``output``.

    A pack that is not as its manifest, hashes and values by example say is refused with one line.  No code of a pack is run.
    Raises ConfigError if no pack is left.
    """
    refused: list[str] = []
    packs: list[Verified] = []
    with tempfile.TemporaryDirectory(prefix="lavo-bench-board-") as folder:
        for number, path in enumerate(pack_files(paths)):
            try:
                pack = verify(path, Path(folder) / str(number))
                same = next((other for other in packs if other.manifest.name == pack.manifest.name), None)
                if same is not None:
                    raise ConfigError(f"{path}: refused: another pack is called {pack.manifest.name!r} too")
            except ConfigError as error:
                refused.append(str(error).replace(f"{path}", path.name, 1))
                continue
            packs.append(pack)
        if not packs:
            raise ConfigError(
                refused[0] if len(refused) == 1 else f"no pack is left: {refused[0]} (and {len(refused) - 1} more)"
            )
        blocks = _page(packs, refused, output)
        title = f"Leaderboard: {output.name}"
        write_bytes(output / "board.md", render_markdown(title, blocks).encode())
        write_bytes(output / "board.html", render_html(title, blocks, output / "figures").encode())
    left_out = [f"{pack.manifest.name}: {line}" for pack in packs for line in pack.left_out]
    return Board(output / "board.html", output / "board.md", refused, left_out)


def verify(path: Path, folder: Path) -> Verified:
    """Reads a pack into ``folder`` and checks all that can be checked without running anything.

    Raises ConfigError with the first fault.
    """
    pack = read_pack(path, folder)
    lines = [*_faults_of_attentions(pack)]
    here = {task: version for task in pack.manifest.tasks if (version := _version_here(task)) is not None}
    kept = [r for r in pack.records if here.get(r.cell.task) == pack.manifest.tasks.get(r.cell.task, -1)]
    known = {
        name: Attention(entry.version, None if entry.source is None else pack.manifest.files[entry.source].sha256)
        for name, entry in pack.manifest.attentions.items()
    }
    if not lines:
        lines = [f"{where}: {line}" if where else line for where, line in faults(kept, known)]
    if lines:
        more = f" (and {len(lines) - 1} more faults)" if len(lines) > 1 else ""
        raise ConfigError(f"{path}: refused: {shortened(lines[0], 200)}{more}")
    left_out = []
    for task in sorted({record.cell.task for record in pack.records}):
        count, version = sum(record.cell.task == task for record in pack.records), pack.manifest.tasks.get(task)
        if version is None or version != here.get(task):
            left_out.append(
                f"{count} cells of {task}, version {version}, left out: the version here is {here.get(task)}"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Verified(pack.manifest, digest, kept, pack.sources, left_out)


def _version_here(task: str) -> int | None:
    try:
        return task_version(task)
    except ValueError:
        return None


def _faults_of_attentions(pack: Pack) -> Iterator[str]:
    described = pack.manifest
    if described.reference != reference_version():
        yield f"made with {REFERENCE} of version {described.reference}; here it is {reference_version()}"
    for name, entry in described.attentions.items():
        if name in ATTENTIONS and entry.source is not None:
            yield f"attention {name}: is one of this project, but the pack has a source of it"
        failed = [row for row in entry.checks if row.outcome == "failed"]
        if failed:
            yield f"attention {name}: fails the check {failed[0].check} at {failed[0].pattern}"


def _page(packs: Sequence[Verified], refused: Sequence[str], output: Path) -> list[Block]:
    groups = group_records(_labelled(packs))
    differences = {id(group): against_exact(group) for group in groups}
    tuned = read_rates().files
    cards = {id(group): card for group in groups if (card := card_of(group, tuned)) is not None}
    summary = summary_table(groups, differences, cards)
    count = sum(len(pack.records) for pack in packs)
    blocks: list[Block] = [
        Text(
            f"{count} cells of {len(packs)} pack{'s' if len(packs) != 1 else ''}. A row is an attention and, after the dot, the pack from which it comes. "
            "One table holds only cells of the same task, backbone, pattern, preset, data and settings; learning rates and options are the row's own."
        ),
        *(Warned(f"Not shown: {escape(line)}") for line in refused),
        Heading(2, "Packs"),
        _pack_table(packs),
        Text(
            "*Verified* says that the files are those of the manifest, that each hash is that of the record's configuration, data and versions, "
            "and that each metric is that of its values by example. It does not say that the values come from a run: the commands below run "
            "the cells again. Checks were run by the submitter."
        ),
    ]
    if summary is not None:
        blocks += [Heading(2, "At a glance"), summary]
    blocks += _conflicts(packs)
    task = None
    for group in groups:
        if group.task != task:
            task = group.task
            blocks.append(Heading(2, words(task).capitalize()))
        blocks += [Heading(3, group.title), *metric_tables(group, differences[id(group)], tuned)]
    blocks.append(Heading(2, "To run the cells again"))
    for pack in packs:
        blocks.append(Folded(escape(pack.manifest.name), "\n".join(["```bash", *_commands_of(pack, output), "```"])))
    for table in (block for block in blocks if isinstance(block, Table)):
        write_bytes(output / "tables" / f"{table.slug}.csv", to_csv(table).encode())
        write_bytes(output / "tables" / f"{table.slug}.tex", to_latex(table).encode())
    return blocks


def _labelled(packs: Iterable[Verified]) -> list[Record]:
    """Returns all records with the packs in their labels; a row that several packs share, to the last digit, is one row."""
    rows: dict[str, list[tuple[str, list[Record]]]] = {}
    for pack in packs:
        own: dict[str, list[Record]] = {}
        for record in pack.records:
            cell = record.cell
            names = [cell.task, cell.backbone, cell.pattern, cell.sites, cell.attention, cell.label, cell.preset]
            own.setdefault(canonical([*names, own_settings(record), record.data.sha256]), []).append(record)
        for row in own.values():
            content = canonical(sorted([r.cell.hash, *(_values(r).items())] for r in row))
            rows.setdefault(content, []).append((pack.manifest.name, row))
    found = []
    for same in rows.values():
        names_of_packs = ", ".join(name for name, _ in same)
        for record in same[0][1]:
            cell = record.cell
            # A label is the submitter's to choose, so the attention's name always stands beside it.
            own_name = cell.attention if cell.label == cell.attention else f"{cell.label} ({cell.attention})"
            label = f"{own_name}{_version_note(record, packs, same[0][0])} · {names_of_packs}"
            # Curves are not in a pack.
            found.append(replace(record, cell=replace(cell, variant=label), curves_file=None))
    return found


def _version_note(record: Record, packs: Iterable[Verified], name: str) -> str:
    """Returns " v3" for an attention of this project whose version is not that of here."""
    pack = next(pack for pack in packs if pack.manifest.name == name)
    version, here = pack.manifest.attentions[record.cell.attention].version, built_in(record.cell.attention)
    return f" v{version}" if here is not None and here.version != version else ""


def _values(record: Record) -> dict[str, float | None]:
    return {name: metric.value for name, metric in record.metrics.items()}


def _pack_table(packs: Sequence[Verified]) -> Table:
    columns = ["pack", "state", "cells", "lavo-bench", "attentions", "SHA-256"]
    rows, values = [], []
    for pack in packs:
        described = pack.manifest
        attentions = ", ".join(_attention_words(pack, name) for name in described.attentions)
        state = "verified" + (f"; {'; '.join(pack.left_out)}" if pack.left_out else "")
        texts = [state, str(len(pack.records)), described.lavo_bench, attentions, pack.digest[:16]]
        rows.append(Row(described.name, tuple(map(Printed, texts))))
        values.append(dict(zip(columns, [described.name, *texts[:-1], pack.digest], strict=True)))
    return Table("packs", "What was verified.", columns, rows, values, is_prose=True)


def _attention_words(pack: Verified, name: str) -> str:
    """Returns ``lavo 3 (checks passed)`` or ``mine 1 (source; checks not run)``."""
    entry = pack.manifest.attentions[name]
    lacking = sum(row.outcome == "missing" for row in entry.checks)
    checks = "not run" if not entry.checks else f"passed, {lacking} missing" if lacking else "passed"
    unseen = name not in ATTENTIONS and entry.source is None
    return f"{name} {entry.version} ({'no source; ' if unseen else 'source; ' if entry.source else ''}checks {checks})"


def _conflicts(packs: Sequence[Verified]) -> list[Block]:
    """Returns a table of the cells that several packs have with different values."""
    by_hash: dict[str, list[tuple[str, Record]]] = {}
    for pack in packs:
        for record in pack.records:
            if record.is_completed:
                by_hash.setdefault(record.cell.hash, []).append((pack.manifest.name, record))
    rows, values = [], []
    for same in by_hash.values():
        if len({canonical(_values(record)) for _, record in same}) > 1:
            cell, metric = same[0][1].cell, next(iter(same[0][1].metrics))
            where = f"{cell.task}/{cell.backbone}.{cell.pattern}.{cell.attention}.s{cell.seed}"
            figures = {name: record.value(metric) for name, record in same}
            shown = ", ".join(f"{name} {'–' if one is None else significant(one, 5)}" for name, one in figures.items())
            rows.append(Row(where, (Printed(metric), Printed(shown))))
            values.append({"cell": where, "metric": metric, "values": shown})
    if not rows:
        return []
    words_above = "The same cell with different values: another device or another version of a library rounds otherwise, or one is not of a run."
    return [
        Heading(2, "Cells that differ between packs"),
        Table("conflicts", words_above, ["cell", "metric", "values"], rows, values, is_prose=True),
    ]


def _commands_of(pack: Verified, output: Path) -> list[str]:
    """Writes the sources of the pack's attentions, and returns the commands that run its cells again."""
    written = {}
    for name, entry in pack.manifest.attentions.items():
        if entry.source is not None:
            place = Path("sources") / pack.manifest.name / Path(entry.source).name
            write_bytes(output / place, pack.sources[entry.source])
            written[name] = place.as_posix()
    warning = ["# Read these files before you run them: " + ", ".join(written.values())] if written else []
    return [*warning, *commands(pack.records, written)]
