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
from benchmark.report import inputs
from benchmark.report.by_task import task_exhibits, task_figures
from benchmark.report.cards import Card, card_of, card_table, sentence
from benchmark.report.claims import claims_blocks
from benchmark.report.claims.files import read_claims
from benchmark.report.differences import Difference, against_exact
from benchmark.report.document import Block, Folded, Heading, Shown, Text, render_html, render_markdown
from benchmark.report.gallery import Gallery
from benchmark.report.groups import Group, group_records, words
from benchmark.report.inputs import State, shown_path
from benchmark.report.sensitivity import read_all_varied, sensitivity_blocks, without_varied
from benchmark.report.speed import Sweep, crossing_table, memory_table, read_sweeps, throughput_table, time_table
from benchmark.report.tables import Table, cost_table, metric_tables, to_csv
from benchmark.settings.tuned import FOLDER, TunedFile, read_rates


class Built(NamedTuple):
    """What ``build_report`` has built."""

    markdown: Path
    html: Path
    faults: list[str]  # a line for each figure that is left out: its name and the exception
    changed: bool  # False if the report was already there, built from the same inputs
    damaged: list[str]  # a line for each file of the results that could not be read: its name and the fault


def build_report(
    directories: Sequence[Path], output: Path, *, force: bool = False, claims: Path | None = None
) -> Built:
    """Writes ``report.md`` and ``report.html`` into ``output``, with ``figures/`` and ``tables/``.

    claims: a file of claims, whose verdicts the report shows; None for the paper's, about LAVO.

    If nothing has changed since a complete report was built, it does nothing, unless ``force`` is set.  Figures that fail and
    damaged records are left out, and the report names them.  Raises ValueError for a folder that isn't there, and ConfigError for
    a damaged file of claims.
    """
    directories = [Path(directory) for directory in directories]
    read_claims(claims)  # a damaged file ends the command before anything is drawn
    markdown, page = output / "report.md", output / "report.html"
    digests = inputs.digests(directories, claims)
    before = inputs.read_state(output) if page.exists() and markdown.exists() and not force else None
    if before is not None and before.inputs == digests and not before.faults:
        return Built(markdown, page, [], changed=False, damaged=before.damaged)
    names = [shown_path(directory) for directory in directories]
    gallery = Gallery(output / "figures", f"lavo-bench report {' '.join(names)} -o {shown_path(output)}")
    found = inputs.read(directories)
    verified = read_rates(FOLDER).files
    builder = _Builder(output / "tables", gallery, verified, claims)
    blocks = builder.blocks(found, directories, names, shown_path(output))
    title = f"Attention benchmark: {output.name}"
    write_bytes(markdown, render_markdown(title, blocks).encode())
    write_bytes(page, render_html(title, blocks, gallery.folder).encode())
    inputs.write_state(output, State(digests, gallery.failures, found.damaged))
    return Built(markdown, page, gallery.failures, changed=True, damaged=found.damaged)


class _Builder:
    """Collects the blocks of the page in their order, and writes the files of the tables."""

    def __init__(self, tables: Path, gallery: Gallery, verified: Sequence[TunedFile], claims: Path | None) -> None:
        self.tables, self.gallery, self.verified, self.claims = tables, gallery, verified, claims

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
        tables = {id(group): self._written(metric_tables(group, differences[id(group)])) for group in groups}
        costs = {id(group): self._written([t for t in [cost_table(group)] if t is not None]) for group in groups}
        cards = [(group, card) for group in groups if (card := card_of(group, self.verified)) is not None]
        by_group = {id(group): card for group, card in cards}
        blocks: list[Block] = [
            *header(groups, found.records, found.damaged),
            *self._summary(groups, cards, differences),
        ]
        task = None
        for group in groups:
            if group.task != task:
                task = group.task
                blocks.append(Heading(2, words(task).capitalize()))
            blocks += self._group(group, by_group.get(id(group)), tables[id(group)], costs[id(group)])
        blocks += sensitivity_blocks(varied, found.records, self.gallery)
        if sweeps:
            blocks += self._speed(sweeps, read_peaks(directories))
        judged = claims_blocks(groups, cards, sweeps, self.claims)
        if judged:
            write_bytes(self.tables.with_name("claims.md"), render_markdown("Claims", judged).encode())
            blocks += [Heading(2, "Claims"), *judged]
        blocks += [*how_to_read(), *provenance(groups, found.records, names, output)]
        self._written([block for block in blocks if isinstance(block, Table)])
        return blocks

    def _written(self, tables: Sequence[Table]) -> list[Table]:
        from benchmark.report.latex import to_latex

        for table in tables:
            write_bytes(self.tables / f"{table.slug}.csv", to_csv(table).encode())
            write_bytes(self.tables / f"{table.slug}.tex", to_latex(table).encode())
        return list(tables)

    def _summary(
        self,
        groups: Sequence[Group],
        cards: Sequence[tuple[Group, Card]],
        differences: Mapping[int, Mapping[str, Difference]],
    ) -> list[Block]:
        from benchmark.report.aggregate import across_figure, aggregate_table
        from benchmark.report.figures import overview
        from benchmark.report.summary import summary_table

        resolved = [group for group, card in cards if card.is_resolved]
        table, across = summary_table(groups, differences), aggregate_table(resolved)
        if table is None:
            return []
        caption = "Difference of each attention's first metric from that of exact attention, in per cent; further right is better."
        picture = self.gallery.draw("overview", caption, partial(overview, groups))
        if across is not None:
            words_below = "Left: the share of runs above each score. Right: mean ranks; a bar joins those that don't differ at 5 %."
            drawn = self.gallery.draw("across", words_below, partial(across_figure, resolved))
            return [Heading(2, "At a glance"), across, *drawn, table, *picture, card_table(cards)]
        return [Heading(2, "At a glance"), table, *picture, card_table(cards)]

    def _group(self, group: Group, card: Card | None, tables: Sequence[Table], costs: Sequence[Table]) -> list[Block]:
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
        shown = self._exhibits(group)
        verdict = [] if card is None else [Text(sentence(card, next(iter(group.metrics()))))]
        return [Heading(3, group.title), *verdict, *settings_of(group), *tables, *curves, *own, *shown, *costs]

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
        blocks: list[Block] = [
            Heading(2, "Time and memory by length"),
            *(table for table in across if table is not None),
        ]
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
