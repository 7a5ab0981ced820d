"""Writes tables of results into texts, from records: ``python -m benchmark.report.readme results/quick``.

They are the table of the README and that of docs/recall.md, and stand between two marks.  They are generated, so that no figure is
typed by hand, and a test compares them with the records.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from benchmark.files import write_bytes
from benchmark.registry import load_task
from benchmark.report.cards import Card, card_of
from benchmark.report.groups import Group, group_records, words
from benchmark.report.numbers import decimals, fixed, mean_and_deviation
from benchmark.results import records
from benchmark.settings.tuned import read_rates
from benchmark.statistics import summarise

BEGIN, END = "<!-- results: written by benchmark.report.readme -->", "<!-- end of results -->"
BEST_RULE = "*best trivial rule*"
HEADLINES = {"language_modeling": "bits_per_byte"}  # for other tasks, the first of their metrics


def results_table(directory: Path) -> str:
    """Returns a markdown table of means ± deviations over seeds.

    It has one row for each task, backbone and pattern, and one column for each attention.  Rows whose site card is *resolved*
    come first, because only they tell attentions apart.
    """
    groups = group_records(records([directory]))
    names = [*dict.fromkeys(entry.label for group in groups for entry in group.entries), BEST_RULE]
    head = ["task, pattern: metric", "site", *names]
    lines = [" | ".join(head), " | ".join(["---", "---", *(["---:"] * len(names))])]
    files = read_rates().files
    judged = [(group, card_of(group, files)) for group in groups]
    for group, card in sorted(judged, key=lambda pair: pair[1] is None or not pair[1].is_resolved):
        figures = _figures(group)
        lines.append(" | ".join([_title(group), _verdict(card), *(figures.get(name, "–") for name in names)]))
    return "\n".join(f"| {line} |" for line in lines)


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
    rules = {name: found[metric][0] for name, found in group.rules().items() if found.get(metric)}
    if rules:
        higher = group.metrics()[metric].higher_is_better
        best = (max if higher else min)(rules, key=lambda name: rules[name])
        figures[BEST_RULE] = f"{fixed(rules[best], places)} ({best})"
    return figures


def fill(readme: str, table: str) -> str:
    """Returns a text with this table between the marks.  Raises ValueError if the marks are missing."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"the text lacks the marks {BEGIN} and {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", readme)


TABLES = {"README.md": results_table, "docs/recall.md": recall_table}
"""Which table stands in which text."""


def main(
    directory: Annotated[Path, typer.Argument(help="Folder of records.")],
) -> None:
    """Writes the tables into README.md and docs/recall.md of the current folder."""
    for path, table in TABLES.items():
        text = fill(Path(path).read_text(encoding="utf-8"), table(directory))
        write_bytes(Path(path), text.encode())


if __name__ == "__main__":
    typer.run(main)
