"""Writes figures of results into texts, from records: ``python -m benchmark.report.readme results/quick``.

In README.md and docs/ each table and sentence of figures stands between two marks, of which the first names it, so that no figure is
typed by hand: ``<!-- results: NAME -->`` and ``<!-- end of results -->``.  A test compares the texts with the records.  What a page
tells of single runs, whose records were not kept, stands between ``<!-- dated -->`` and ``<!-- end of dated -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmark.files import write_bytes
from benchmark.registry import load_task
from benchmark.report.cards import Card, card_of
from benchmark.report.degenerate import MARK, faults
from benchmark.report.groups import Group, group_records, words
from benchmark.report.numbers import decimals, fixed, mean_and_deviation
from benchmark.report.quoted import QUOTED
from benchmark.results import records
from benchmark.settings.tuned import read_rates
from benchmark.statistics import summarise

OWN_TABLE = "written by benchmark.report.readme"
REAL_TABLE, REAL_RESOLVED = "table of small-real", "resolved rows of small-real"
BEGIN, END = f"<!-- results: {OWN_TABLE} -->", "<!-- end of results -->"
_MARKED = re.compile(f"(<!-- results: ([^>]*?) -->)(.*?){re.escape(END)}", re.DOTALL)
BEST_RULE = "*best trivial rule*"
HEADLINES = {"language_modeling": "bits_per_byte"}  # for other tasks, the first of their metrics


def results_table(directory: Path, *, resolved_only: bool = False) -> str:
    """Returns a markdown table of means ± deviations over seeds.

    It has one row for each task, backbone and pattern, and one column for each attention.  Rows whose site card is *resolved*
    come first, because only they tell attentions apart; with resolved_only there are no others.
    """
    groups = group_records(records([directory]))
    names = [*dict.fromkeys(entry.label for group in groups for entry in group.entries), BEST_RULE]
    head = ["task, pattern: metric", "site", *(_with_seed(name, groups) for name in names)]
    lines = [" | ".join(head), " | ".join(["---", "---", *(["---:"] * len(names))])]
    files = read_rates().files
    judged = [(group, card_of(group, files)) for group in groups]
    for group, card in sorted(judged, key=lambda pair: pair[1] is None or not pair[1].is_resolved):
        if resolved_only and not (card is not None and card.is_resolved):
            continue
        figures = _figures(group)
        lines.append(" | ".join([_title(group), _verdict(card), *(figures.get(name, "–") for name in names)]))
    return "\n".join(f"| {line} |" for line in lines)


def _with_seed(name: str, groups: Sequence[Group]) -> str:
    """Returns the column's name, with the seed where it is one alone beside rows of several."""
    entries = [entry for group in groups for entry in group.entries if entry.label == name]
    seeds = {record.cell.seed for entry in entries for record in entry.records}
    is_alone = len(seeds) == 1 and any(len(group.seeds) > 1 for group in groups)
    return f"{name} (seed {min(seeds)})" if is_alone else name


def _verdict(card: Card | None) -> str:
    if card is None or card.verdict is None:
        return "–"
    return f"**{words(card.verdict)}**" if card.is_resolved else words(card.verdict)


def recall_table(directory: Path) -> str:
    """Returns a markdown table of ``recall``: a row for each pattern and attention, a column for each family."""
    groups = [group for group in group_records(records([directory])) if group.task == "recall"]
    if not groups:
        return ""
    families = [
        name for name in groups[0].metrics() if name not in (_headline(groups[0]), load_task("recall").selection)
    ]
    head = ["pattern", "attention", "mean", *(f"`{family}`" for family in families)]
    lines = [" | ".join(head), " | ".join(["---", "---", *["---:"] * (len(families) + 1)])]
    for group in groups:
        for entry in group.entries:
            summaries = [summarise(list(entry.values(name).values())) for name in (_headline(group), *families)]
            figures = [mean_and_deviation(summary, 1) for summary in summaries]
            lines.append(" | ".join([words(group.pattern), entry.label, *figures]))
    return "\n".join(f"| {line} |" for line in lines)


def _headline(group: Group) -> str:
    return HEADLINES.get(group.task, next(iter(load_task(group.task).metrics)))


def _title(group: Group) -> str:
    metric = _headline(group)
    arrow = "↑" if group.metrics()[metric].higher_is_better else "↓"
    several = len(load_task(group.task).backbones) > 1
    backbone = f" ({words(group.backbone)})" if several else ""
    return f"{words(group.task)}{backbone}, {words(group.pattern)}: {words(metric)} {arrow}"


def _figures(group: Group) -> dict[str, str]:
    """Returns attention -> text of its figure, and the best trivial rule, which shows what is reached without a model."""
    metric = _headline(group)
    values = {entry.label: list(entry.values(metric).values()) for entry in group.entries}
    summaries = {label: summarise(found) for label, found in values.items() if found}
    places = decimals(list(summaries.values()))
    figures = {label: mean_and_deviation(summary, places) for label, summary in summaries.items()}
    figures |= {
        entry.label: figures[entry.label] + MARK for entry in group.entries if entry.label in figures and faults(entry)
    }
    rules = {name: found[metric][0] for name, found in group.rules().items() if found.get(metric)}
    if rules:
        higher = group.metrics()[metric].higher_is_better
        best = (max if higher else min)(rules, key=lambda name: rules[name])
        figures[BEST_RULE] = f"{fixed(rules[best], places)} ({best})"
    return figures


def fill(text: str, parts: Callable[[str], str]) -> str:
    """Returns the text with each marked part written anew.

    parts: the name of a part -> its text.  Raises ValueError for a text without marks, or with a mark that isn't closed.
    """

    def written(found: re.Match[str]) -> str:
        part = parts(found[2])
        # On lines of its own if it was, because a mark at the start of a line keeps markdown from reading the rest of that line.
        return (
            f"{found[1]}\n{part}\n{END}"
            if part.startswith("|") or found[3].startswith("\n")
            else f"{found[1]}{part}{END}"
        )

    filled, count = _MARKED.subn(written, text)
    if not count or text.count(END) != count or text.count("<!-- results:") != count:
        raise ValueError(f"the text lacks the marks {BEGIN} and {END}, or has one without the other")
    return filled


def written(page: str, directory: Path) -> Callable[[str], str]:
    """Returns what writes the parts of a page.  It raises ValueError for a name that no part has."""

    def part(name: str) -> str:
        if name == OWN_TABLE:
            return TABLES[page](directory)
        if name in (REAL_TABLE, REAL_RESOLVED):
            return results_table(directory.parent / "small-real", resolved_only=name == REAL_RESOLVED)
        if name not in QUOTED:
            raise ValueError(f"{page}: no results are named {name!r}; there are {', '.join(QUOTED)}")
        return QUOTED[name](directory.parent)

    return part


TABLES = {"README.md": results_table, "docs/recall.md": recall_table}
"""Which table stands in which text as its own."""

PAGES = ("README.md", "docs/recall.md", "docs/small-real.md", "docs/efficiency.md")
"""The texts that quote results."""


def main(
    directory: Annotated[Path, typer.Argument(help="Folder of records; the other folders of results lie beside it.")],
) -> None:
    """Writes the figures into README.md and the pages of docs/ that quote results, in the current folder."""
    for page in PAGES:
        text = fill(Path(page).read_text(encoding="utf-8"), written(page, directory))
        write_bytes(Path(page), text.encode())


if __name__ == "__main__":
    typer.run(main)
