"""Builds a report: its tables, its figures, and the two pages that show both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmark.files import write_bytes
from benchmark.interface import Sound
from benchmark.measuring.peaks import Peaks, read_peaks
from benchmark.measuring.points import WHOLE_MODEL
from benchmark.report import inputs, parquet
from benchmark.report.by_task import task_exhibits, task_figures
from benchmark.report.cards import Card, card_of, card_table, sentence
from benchmark.report.claims import claims_blocks
from benchmark.report.claims.files import read_claims
from benchmark.report.costs import cost_table
from benchmark.report.differences import Difference, against_exact
from benchmark.report.document import Beside, Block, Folded, Heading, Shown, Text, View, render_markdown
from benchmark.report.gallery import Gallery
from benchmark.report.groups import Group, group_records, words
from benchmark.report.html import render_html
from benchmark.report.inputs import State, shown_path
from benchmark.report.sensitivity import read_all_varied, sensitivity_blocks, without_varied
from benchmark.report.speed import Sweep, crossing_table, memory_table, read_sweeps, throughput_table, time_table
from benchmark.report.tables import Table, escape, metric_tables, to_csv
from benchmark.settings.tuned import TunedFile, read_rates

RECALL = "recall"  # the task that has a view of its own


class Built(NamedTuple):
    """What ``build_report`` has built."""

    markdown: Path
    html: Path
    faults: list[str]  # a line for each figure that is left out: its name and the exception
    changed: bool  # False if the report was already there, built from the same inputs
    damaged: list[str]  # a line for each file of the results that could not be read: its name and the fault
    notes: tuple[str, ...] = ()  # a line for each form that is not written because its library is missing


def build_report(
    directories: Sequence[Path],
    output: Path,
    *,
    force: bool = False,
    for_paper: bool = False,
    claims: Path | None = None,
    tuned: Path | None = None,
) -> Built:
    """Writes ``report.md`` and ``report.html`` into ``output``, with ``figures/`` and ``tables/``.

    for_paper: also writes ``paper/``, a LaTeX document; a report that has this folder keeps it up to date.
    claims: a file of claims, whose verdicts the report shows; None for the paper's, about LAVO.
    tuned: a folder of files by ``lavo-bench tune``; None for those that ``run`` uses.

    If nothing has changed since a complete report was built, it does nothing, unless ``force`` is set.  Figures that fail and
    damaged records are left out, and the report names them.  Raises ValueError for a folder that isn't there, and ConfigError for
    a damaged file of claims.
    """
    directories = [Path(directory) for directory in directories]
    read_claims(claims)  # a damaged file ends the command before anything is drawn
    markdown, page = output / "report.md", output / "report.html"
    digests = inputs.digests(directories, claims, tuned)
    notes = () if parquet.is_available() else (parquet.MISSING_EXTRA,)
    paper = output / "paper" / "main.tex"
    whole = page.exists() and markdown.exists() and (paper.exists() or not for_paper)
    before = inputs.read_state(output) if whole and not force else None
    if before is not None and before.inputs == digests and not before.faults:
        return Built(markdown, page, [], changed=False, damaged=before.damaged, notes=notes)
    names = [shown_path(directory) for directory in directories]
    repeat = f"lavo-bench report {' '.join(names)} -o {shown_path(output)}"
    repeat += "" if tuned is None else f" --tuned {shown_path(tuned)}"
    for_paper = for_paper or paper.exists()
    gallery = Gallery(output / "figures", repeat, outlines=paper.parent / "figures" if for_paper else None)
    found = inputs.read(directories)
    builder = _Builder(output / "tables", gallery, read_rates(tuned).files, claims)
    blocks = builder.blocks(found, directories, names, shown_path(output))
    title = f"Attention benchmark: {output.name}"
    write_bytes(markdown, render_markdown(title, blocks).encode())
    write_bytes(page, render_html(title, blocks, gallery.folder).encode())
    if not notes:
        parquet.write_records(output, found.records)
    if for_paper:
        from benchmark.report.paper import write_paper

        groups, sweeps = group_records(found.records), read_sweeps(directories)
        write_paper(output, blocks, groups, sweeps, name=output.name, repeat=f"{repeat} --for-paper")
    inputs.write_state(output, State(digests, gallery.failures, found.damaged))
    return Built(markdown, page, gallery.failures, changed=True, damaged=found.damaged, notes=notes)


class _Shown(NamedTuple):
    """What the views show, computed once."""

    found: inputs.Readable
    groups: Sequence[Group]
    sweeps: Sequence[Sweep]
    differences: Mapping[int, Mapping[str, Difference]]  # ``id`` of a group -> label -> from the exact attention
    cards: Sequence[tuple[Group, Card]]


class _Builder:
    """Collects the blocks of the page, view by view, and writes the files of the tables."""

    def __init__(self, tables: Path, gallery: Gallery, tuned: Sequence[TunedFile], claims: Path | None) -> None:
        self.tables, self.gallery, self.tuned, self.claims = tables, gallery, tuned, claims

    def blocks(
        self, found: inputs.Readable, directories: Sequence[Path], names: Sequence[str], output: str
    ) -> list[Block]:
        """Returns the whole page.

        names, output: the folders of results and of the report, as the published page shows them.
        """
        from benchmark.report.sections import header, how_to_read, provenance

        varied = read_all_varied(directories)
        groups, sweeps = group_records(without_varied(found.records, varied)), read_sweeps(directories)
        differences = {id(group): against_exact(group) for group in groups}
        cards = [(group, card) for group in groups if (card := card_of(group, self.tuned)) is not None]
        shown = _Shown(found, groups, sweeps, differences, cards)
        # Tables are written before any figure is drawn, because figures take long.
        written = {id(group): self._written(self._tables(shown, group)) for group in groups}
        views: dict[str, list[Block]] = {
            "Overview": self._overview(shown),
            "Recall": self._recall(shown, written),
            "Tasks": self._tasks(shown, written),
            "Sensitivity": sensitivity_blocks(varied, found.records, self.gallery)[1:],
            "Efficiency": self._speed(sweeps, read_peaks(directories)) if sweeps else [],
            "Claims": self._claims(shown),
            "Provenance": [*how_to_read(), *provenance(groups, found.records, names, output)],
        }
        blocks: list[Block] = header(found.records, found.damaged)
        for title, part in views.items():
            blocks += [View(title), *part] if part else []
        self._written([table for block in blocks for table in _tables_of(block)])
        return blocks

    def _written(self, tables: Sequence[Table]) -> list[Table]:
        from benchmark.report.latex import to_latex

        for table in tables:
            write_bytes(self.tables / f"{table.slug}.csv", to_csv(table).encode())
            write_bytes(self.tables / f"{table.slug}.tex", to_latex(table).encode())
            if parquet.is_available():
                parquet.write_table(self.tables, table)
        return list(tables)

    def _tables(self, shown: _Shown, group: Group) -> list[Table]:
        cost = cost_table(group)
        return [*metric_tables(group, shown.differences[id(group)], self.tuned), *([] if cost is None else [cost])]

    def _overview(self, shown: _Shown) -> list[Block]:
        """Returns the first view: one row an attention and one a site side by side, and below what all tables say together."""
        from benchmark.report.aggregate import across_figure, aggregate_table, averaged, score_intervals, scores_of
        from benchmark.report.figures import overview
        from benchmark.report.overview import costs_of, overview_table, quality_and_cost
        from benchmark.report.summary import summary_table

        groups, cards = shown.groups, shown.cards
        summary = summary_table(groups, shown.differences, {id(group): card for group, card in cards})
        if summary is None:
            return []
        entering = averaged(cards)
        scores = scores_of(entering.groups)
        intervals, costs = score_intervals(scores), costs_of(groups, shown.sweeps)
        counted = [shown.differences[id(group)] for group in entering.groups]
        table = overview_table(groups, counted, intervals, costs)
        caption = "Quality against cost: further left is cheaper, higher is better; no attention beats one on the dashed front in both."
        picture = self.gallery.draw("quality-and-cost", caption, partial(quality_and_cost, groups, intervals, costs))
        blocks: list[Block] = [Beside([*([] if table is None else [table]), *picture], [summary])]
        across = aggregate_table(scores, intervals)
        if across is not None:
            across.notes += [
                f"{escape(group.title)} is left out: softmax or none is degenerate in it." for group in entering.broken
            ]
            below = "Left: the share of runs above each score. Right: mean ranks; a bar joins those that don't differ at 5 %."
            drawn = self.gallery.draw("across", below, partial(across_figure, scores))
            blocks += [Heading(3, "All resolved sites together"), across, *drawn]
        caption = (
            "Difference of each attention's first metric from that of exact attention, in per cent, with its 95 % interval over "
            "seeds; further right is better. Bands: how much two exact attentions differ, and the seeds of none."
        )
        drawn = self.gallery.draw("overview", caption, partial(overview, groups, shown.differences))
        return [*blocks, Heading(3, "Site by site"), *drawn, card_table(cards)]

    def _recall(self, shown: _Shown, written: Mapping[int, Sequence[Table]]) -> list[Block]:
        """Returns the view of the recall task: accuracy against state by pattern, and a section for each pattern."""
        from benchmark.report.recall import state_figure, state_table

        groups = [group for group in shown.groups if group.task == RECALL]
        if not groups:
            return []
        caption = (
            "Accuracy on the asked tokens against the bytes of the state after the same texts, those of the trained lengths (both "
            "are means over families), by pattern; bars are the range of the seeds."
        )
        picture = self.gallery.draw("recall-by-state", caption, partial(state_figure, groups))
        table = state_table(groups)
        sections = [block for group in groups for block in self._group(shown, group, written[id(group)], level=3)]
        return [*picture, *([] if table is None else [table]), *sections]

    def _tasks(self, shown: _Shown, written: Mapping[int, Sequence[Table]]) -> list[Block]:
        blocks: list[Block] = []
        task = None
        for group in shown.groups:
            if group.task == RECALL:
                continue
            if group.task != task:
                task = group.task
                blocks.append(Heading(3, words(task).capitalize()))
            blocks += self._group(shown, group, written[id(group)], level=4)
        return blocks

    def _claims(self, shown: _Shown) -> list[Block]:
        """Returns the view of the claims, and writes them to a file of their own as well."""
        judged = claims_blocks(shown.groups, shown.cards, shown.sweeps, self.claims)
        if judged:
            write_bytes(self.tables.with_name("claims.md"), render_markdown("Claims", judged).encode())
        return list(judged)

    def _group(self, shown: _Shown, group: Group, tables: Sequence[Table], *, level: int) -> list[Block]:
        from benchmark.report.figures import training_curves
        from benchmark.report.sections import settings_of

        name = f"{words(group.task).capitalize()}, {group.title}"
        caption = f"{name}: training by step, mean over seeds; the band is the range of the seeds."
        curves = self.gallery.draw(f"{group.slug}-training", caption, partial(training_curves, group))
        own = self.gallery.draw_all(
            group.slug,
            partial(task_figures, group),
            lambda figure: f"{name}: {words(figure)}.",
        )
        exhibits = self._exhibits(group)
        card = next((card for other, card in shown.cards if other is group), None)
        verdict = [] if card is None else [Text(sentence(card, next(iter(group.metrics()))))]
        metrics = [table for table in tables if not table.slug.endswith("-cost")]
        costs = [table for table in tables if table.slug.endswith("-cost")]
        title = Heading(level, group.title)
        return [title, *verdict, *metrics, *settings_of(group), *curves, *own, *exhibits, *costs]

    def _exhibits(self, group: Group) -> list[Block]:
        """Returns the task's exhibits, and writes their sounds as files."""
        try:
            exhibits = task_exhibits(group)
        except Exception as error:  # a task's exhibits may raise anything, and the report goes on
            return [self.gallery.failed(f"{group.slug}-exhibits", error)]
        blocks: list[Block] = []
        for number, exhibit in enumerate(exhibits, 1):
            shown = Shown(f"{group.slug}-{number}", exhibit)
            for sound in (one for row in exhibit.rows for one in row if isinstance(one, Sound)):
                write_bytes(self.tables.with_name("sounds") / shown.file(sound), sound.content)
            blocks.append(shown)
        return blocks

    def _speed(self, sweeps: Sequence[Sweep], known: Sequence[Peaks]) -> list[Block]:
        from benchmark.report import scaling
        from benchmark.report.figures import time_and_memory

        across = [crossing_table(sweeps), scaling.slope_table(sweeps)]
        blocks: list[Block] = [table for table in across if table is not None]
        for sweep in sweeps:
            caption = sweep.timed_caption("time and memory by length; bars are 95 % intervals")
            picture = self.gallery.draw(sweep.slug, caption, partial(time_and_memory, sweep.points))
            blocks += [Heading(3, f"{sweep.title}"), *picture, time_table(sweep), memory_table(sweep)]
            if sweep.mode in WHOLE_MODEL:
                blocks.append(throughput_table(sweep))
            blocks += self._limits(sweep, scaling.peaks_of(sweep, known))
        write_bytes(self.tables / "efficiency.txt", (scaling.listing(sweeps) + "\n").encode())
        return [*blocks, Folded("All points: mode B T H D attention", f"```text\n{scaling.listing(sweeps)}\n```")]

    def _limits(self, sweep: Sweep, peaks: Peaks | None) -> list[Block]:
        """Returns the longest length that fits into a given memory, and the share of the machine's peaks that is reached."""
        from benchmark.report import scaling

        caption = sweep.caption("the longest length that fits into a given memory")
        reached = partial(scaling.reach_figure, sweep)
        blocks = [*self.gallery.draw(f"{sweep.slug}-reach", caption, reached), scaling.reach_table(sweep)]
        if peaks is not None:
            what = "rate of matrix products at each length, below the highest rates measured on the machine"
            caption = sweep.caption(what)
            blocks += self.gallery.draw(f"{sweep.slug}-roofline", caption, partial(scaling.roofline, sweep, peaks))
            rates = scaling.share_table(sweep, peaks)
            blocks += [rates] if rates is not None else []
        return blocks


def _tables_of(block: Block) -> list[Table]:
    parts = [*block.first, *block.second] if isinstance(block, Beside) else [block]
    return [part for part in parts if isinstance(part, Table)]
