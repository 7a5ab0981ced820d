"""Builds a report: tables first, then figures, then the pages that show both."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.files import write_bytes
from benchmark.interface import Exhibit, Sound
from benchmark.measuring.peaks import Peaks, peak_files, read_peaks
from benchmark.measuring.points import WHOLE_MODEL
from benchmark.registry import TASKS
from benchmark.report.document import Block, Folded, Heading, Picture, Shown, Warned, render_html, render_markdown
from benchmark.report.groups import Group, Record, group_records, variant, words
from benchmark.report.speed import (
    Sweep,
    crossing_table,
    memory_table,
    read_sweeps,
    sweep_files,
    throughput_table,
    time_table,
)
from benchmark.report.tables import Table, cost_table, escape, metric_tables, to_csv
from benchmark.results import EXAMPLES_SUFFIX, record_files, records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
INPUTS = "inputs.json"


class Built(NamedTuple):
    """What ``build_report`` made."""

    markdown: Path
    html: Path
    faults: list[str]  # a line for every figure that had to be left out: its name and the exception
    changed: bool  # False where it was there already, of the same inputs


def build_report(directories: Sequence[Path], output: Path, *, force: bool = False) -> Built:
    """``report.md`` and ``report.html`` in ``output``, with ``figures/`` and ``tables/``.

    Does nothing where nothing changed since it was last built whole, unless ``force``.  A figure that fails is left
    out and named in the report.  Raises ValueError for a folder that isn't there and for a file in it that is no record.
    """
    directories = [Path(directory) for directory in directories]
    markdown, page = output / "report.md", output / "report.html"
    inputs = digests(directories)
    if not force and page.exists() and markdown.exists() and _built_from(output) == inputs:
        return Built(markdown, page, [], changed=False)
    found = records(directories)
    groups = group_records(found)
    names = [shown_path(directory) for directory in directories]
    gallery = Gallery(output / "figures", f"lavo-bench report {' '.join(names)} -o {shown_path(output)}")
    builder = _Builder(output / "tables", gallery)
    blocks = builder.blocks(groups, found, directories, names, shown_path(output))
    title = f"Attention benchmark: {output.name}"
    write_bytes(markdown, render_markdown(title, blocks).encode())
    write_bytes(page, render_html(title, blocks, gallery.folder).encode())
    state = {"inputs": inputs, "faults": gallery.failures}
    write_bytes(output / INPUTS, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode())
    return Built(markdown, page, gallery.failures, changed=True)


def _built_from(output: Path) -> dict[str, str] | None:
    """What the report in this folder was built from; None where it is not whole."""
    path = output / INPUTS
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return None if state["faults"] else state["inputs"]


def digests(directories: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of everything that the report depends on: records, sweeps, and the code that makes it."""
    files = {}
    for directory in directories:
        name = shown_path(directory)
        if not directory.is_dir():
            raise ValueError(f"{directory}: no such folder of results")
        examples = directory.glob(f"*/*{EXAMPLES_SUFFIX}")
        for file in [*record_files(directory), *sorted(examples), *sweep_files([directory]), *peak_files([directory])]:
            files[f"{name}/{file.relative_to(directory).as_posix()}"] = file
    for file in sorted(Path(__file__).parent.rglob("*")):
        if file.suffix in (".py", ".jinja"):
            files[f"benchmark/report/{file.relative_to(Path(__file__).parent).as_posix()}"] = file
    for task in TASKS:
        for part in ("figures", "exhibits"):
            spec = importlib.util.find_spec(_part(task, part)) if _has_package(task) else None
            if spec is not None and spec.origin is not None:
                files[f"{part} of {task}"] = Path(spec.origin)
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    return found | {"version of lavo-bench": package_version()}


def package_version() -> str:
    try:
        return version("lavo-bench")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def shown_path(path: Path) -> str:
    """Relative to the working folder, else the name alone: reports are published and name no one's folders."""
    path = path.resolve()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


class Gallery:
    """Draws figures into a folder, each in three formats, and goes on where one fails."""

    def __init__(self, folder: Path, repeat: str) -> None:
        self.folder, self.repeat = folder, repeat
        self.failures: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, slug: str, caption: str, make: Callable[[], Figure | None]) -> list[Block]:
        """The picture's block; none where there is nothing to draw, a warning where drawing failed."""
        return self.draw_all(slug, lambda: {"": make()}, lambda _: caption)

    def draw_all(
        self, slug: str, make: Callable[[], Mapping[str, Figure | None]], caption: Callable[[str], str]
    ) -> list[Block]:
        """As ``draw``, for a function that gives several figures by name."""
        import matplotlib

        from benchmark.report.style import SETTINGS

        with matplotlib.rc_context(SETTINGS):
            try:
                figures = make()
            except Exception as error:  # a task's figure, or a record that it didn't expect: the report goes on
                return [self.failed(slug, error)]
            blocks: list[Block] = []
            for name, figure in figures.items():
                if figure is None:
                    continue
                own = f"{slug}-{name}" if name else slug
                try:
                    self._save(figure, own)
                    blocks.append(Picture(own, caption(name)))
                except Exception as error:  # as above
                    blocks.append(self.failed(own, error))
        return blocks

    def _save(self, figure: Figure, slug: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)  # whatever canvas a task's pyplot gave it
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for all three formats
        for suffix in FORMATS:
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
            figure.savefig(self.folder / f"{slug}.{suffix}", metadata=metadata)

    def failed(self, slug: str, error: Exception) -> Warned:
        reason = f"{slug}: {type(error).__name__}: {error}"
        self.failures.append(reason)
        return Warned(f"The figure {escape(reason)} could not be drawn. To repeat: `{self.repeat}`")


class _Builder:
    """Collects blocks in the order of the page, and writes tables as it goes."""

    def __init__(self, tables: Path, gallery: Gallery) -> None:
        self.tables, self.gallery = tables, gallery

    def blocks(
        self,
        groups: Sequence[Group],
        found: Sequence[Record],
        directories: Sequence[Path],
        names: Sequence[str],
        output: str,
    ) -> list[Block]:
        from benchmark.report.sections import header, how_to_read, provenance

        sweeps = read_sweeps(directories)
        tables = {id(group): self._written(metric_tables(group)) for group in groups}
        costs = {id(group): self._written([t for t in [cost_table(group)] if t is not None]) for group in groups}
        blocks: list[Block] = [*header(groups, found), *self._summary(groups)]
        task = None
        for group in groups:
            if group.task != task:
                task = group.task
                blocks.append(Heading(2, words(task).capitalize()))
            blocks += self._group(group, tables[id(group)], costs[id(group)])
        if sweeps:
            blocks += self._speed(sweeps, read_peaks(directories))
        blocks += [*how_to_read(), *provenance(groups, found, names, output)]
        self._written([block for block in blocks if isinstance(block, Table)])
        return blocks

    def _written(self, tables: Sequence[Table]) -> list[Table]:
        from benchmark.report.latex import to_latex

        for table in tables:
            write_bytes(self.tables / f"{table.slug}.csv", to_csv(table).encode())
            write_bytes(self.tables / f"{table.slug}.tex", to_latex(table).encode())
        return list(tables)

    def _summary(self, groups: Sequence[Group]) -> list[Block]:
        from benchmark.report.figures import overview
        from benchmark.report.summary import summary_table

        table = summary_table(groups)
        if table is None:
            return []
        caption = "Relative difference of the headline metric to exact attention; to the right is better."
        picture = self.gallery.draw("overview", caption, partial(overview, groups))
        return [Heading(2, "At a glance"), table, *picture]

    def _group(self, group: Group, tables: Sequence[Table], costs: Sequence[Table]) -> list[Block]:
        from benchmark.report.figures import training_curves
        from benchmark.report.sections import settings_of

        caption = f"{words(group.task).capitalize()}, {group.title}: mean over seeds; the band is their range."
        curves = self.gallery.draw(f"{group.slug}-training", caption, partial(training_curves, group))
        own = self.gallery.draw_all(
            group.slug,
            partial(task_figures, group),
            lambda name: f"{words(group.task).capitalize()}, {group.title}: {words(name)}.",
        )
        shown = self._exhibits(group)
        return [Heading(3, group.title), *settings_of(group), *tables, *curves, *own, *shown, *costs]

    def _exhibits(self, group: Group) -> list[Block]:
        """Test examples beside what was made of them; their sounds are written as files."""
        try:
            exhibits: Sequence[Exhibit] = _made_by_task(group, "exhibits") or ()
        except Exception as error:  # as with a figure: a record that the task didn't expect costs this part alone
            return [self.gallery.failed(f"{group.slug}-exhibits", error)]
        blocks: list[Block] = []
        for number, exhibit in enumerate(exhibits, 1):
            shown = Shown(f"{group.slug}-{number}", exhibit)
            for sound in (cell for row in exhibit.rows for cell in row if isinstance(cell, Sound)):
                write_bytes(self.tables.with_name("sounds") / shown.file(sound), sound.content)
            blocks.append(shown)
        return blocks

    def _speed(self, sweeps: Sequence[Sweep], known: Sequence[Peaks]) -> list[Block]:
        from benchmark.report import scaling
        from benchmark.report.figures import time_and_memory

        across = [crossing_table(sweeps), scaling.slope_table(sweeps)]
        blocks: list[Block] = [
            Heading(2, "Time and memory by length"),
            *(table for table in across if table is not None),
        ]
        for sweep in sweeps:
            caption = f"{sweep.title}: time and memory by length, with 95 % intervals. {sweep.conditions}."
            picture = self.gallery.draw(sweep.slug, caption, partial(time_and_memory, sweep.points))
            blocks += [Heading(3, f"{sweep.title}"), *picture, time_table(sweep), memory_table(sweep)]
            if sweep.mode in WHOLE_MODEL:
                blocks.append(throughput_table(sweep))
            blocks += self._limits(sweep, scaling.peaks_of(sweep, known))
        write_bytes(self.tables / "efficiency.txt", (scaling.listing(sweeps) + "\n").encode())
        return [*blocks, Folded("All points: mode B T H D attention", f"```text\n{scaling.listing(sweeps)}\n```")]

    def _limits(self, sweep: Sweep, peaks: Peaks | None) -> list[Block]:
        """How far a memory reaches, and how near the machine's own limits a call comes."""
        from benchmark.report import scaling

        caption = f"{sweep.title}: the longest length within a memory. {sweep.conditions}."
        reached = partial(scaling.reach_figure, sweep)
        blocks = [*self.gallery.draw(f"{sweep.slug}-reach", caption, reached), scaling.reach_table(sweep)]
        if peaks is not None:
            caption = (
                f"{sweep.title}: points by length under the roof that was measured on the machine. {sweep.conditions}."
            )
            blocks += self.gallery.draw(f"{sweep.slug}-roofline", caption, partial(scaling.roofline, sweep, peaks))
            rates = scaling.share_table(sweep, peaks)
            blocks += [rates] if rates is not None else []
        return blocks


def _part(task: str, part: str) -> str:
    """The module beside the task's own that makes its ``figures`` or ``exhibits``."""
    module = TASKS[task].partition(":")[0]
    return f"{module.rpartition('.')[0]}.{part}"


def _has_package(task: str) -> bool:
    return importlib.util.find_spec(_part(task, "task").rpartition(".")[0]) is not None


def _made_by_task(group: Group, part: str) -> Any:
    """What the task's own ``figures(records)`` or ``exhibits(records)`` makes of the completed records; None without."""
    if group.task not in TASKS or not _has_package(group.task):
        return None
    if importlib.util.find_spec(_part(group.task, part)) is None:
        return None
    completed = [_with_short_variant(record) for record in group.records if record["status"] == "completed"]
    return getattr(importlib.import_module(_part(group.task, part)), part)(completed) if completed else None


def task_figures(group: Group) -> Mapping[str, Figure | None]:
    """The task's own figures of this group, in the report's colours."""
    from benchmark.report.style import recolour, style_of

    figures: Mapping[str, Figure | None] = _made_by_task(group, "figures") or {}
    styles = {entry.label: style_of(entry.label) for entry in group.entries}
    for entry in group.entries:
        styles[f"{entry.attention} ({variant(entry.records[0])})"] = styles[entry.label]
    for figure in figures.values():
        if figure is not None:
            recolour(figure, styles)
    # The group's slug and title say the pattern already.
    return {name.replace(f"_{group.pattern}", ""): figure for name, figure in figures.items()}


def _with_short_variant(record: Record) -> Record:
    """The record with a variant only where that says more than the attention's name: figures print both."""
    cell = record["cell"]
    return {
        **record,
        "cell": {**cell, "variant": None if cell.get("variant") == cell["attention"] else cell.get("variant")},
    }
