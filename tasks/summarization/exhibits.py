"""Summaries beside references: one table a pattern and data set, one block of rows a test example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.interface import Exhibit
from benchmark.results import Record

SHOWN_CHARACTERS = 400  # of a source


def exhibits(records: Sequence[Record]) -> list[Exhibit]:
    """One exhibit for each group of comparable records; of an attention's seeds, the lowest is shown."""
    made = []
    for (pattern, *_), group in _comparable(records).items():
        chosen: dict[str, Record] = {}
        for record in sorted(group, key=lambda record: record.cell.seed):
            chosen.setdefault(record.cell.label, record)
        forced = group[0].curves["forced_min_tokens"]
        caption = (
            f"Decoded by greedy or beam search, as the preset says. A summary ends by itself; those marked forced have at least "
            f"{forced} tokens. Sources are cut after {SHOWN_CHARACTERS} characters."
        )
        rows: list[tuple[str, ...]] = []
        for index, example in enumerate(group[0].curves["examples"]):
            rows.append((example["name"], "source", _shortened(example), ""))
            rows += [("", "reference", reference, "") for reference in example["references"]]
            for label, record in chosen.items():
                summary = record.curves["examples"][index]
                rows.append(("", label, summary["summary"], f"{summary['rouge1']:.1f}"))
                if summary["summary_forced"] != summary["summary"]:
                    rows.append(("", f"{label}, forced", summary["summary_forced"], ""))
        columns = ("example", "by", "text", "ROUGE-1")
        made.append(Exhibit(f"Summaries beside references, {pattern}", caption, columns, tuple(rows)))
    return made


def _comparable(records: Sequence[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """Records that show the same examples at the same pattern."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        curves = record.curves
        if curves.get("examples"):
            names = tuple(example["name"] for example in curves["examples"])
            groups[record.cell.pattern, curves["forced_min_tokens"], names].append(record)
    return groups


def _shortened(example: Mapping[str, Any]) -> str:
    text = f"[{example['question']}] {example['source']}" if example["question"] else example["source"]
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip("…") + "…"
