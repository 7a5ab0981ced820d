"""The tables of a group's metrics, and tables as markdown and CSV (costs: ``costs.py``; LaTeX: ``latex.py``)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from benchmark.report import numbers
from benchmark.report.degenerate import MARK, faults
from benchmark.report.degenerate import notes as degenerate_notes
from benchmark.report.differences import FEWEST_EQUAL, Difference, Verdict, has_no_spread
from benchmark.report.groups import Entry, Group, task_metrics, words
from benchmark.report.rates import rate_notes
from benchmark.report.versions import in_words
from benchmark.results import DataSource, Record
from benchmark.settings.tuned import TunedFile
from benchmark.statistics import PairedTest, Summary, best_outside_spread, summarise

MOST_METRICS = 6  # in one table; the rest go into further tables
STATUS_WORDS = {"failed": "failed", "out_of_memory": "out of memory", "unsupported": "not supported"}


class Printed(NamedTuple):
    """One figure as it is printed.

    shade: from -1 (much worse) to 1 (much better), which colours the cell; None for no colour.
    """

    text: str
    bold: bool = False
    shade: float | None = None


class Row(NamedTuple):
    """A label with its figures, or with a message that says why there are none."""

    label: str
    printed: tuple[Printed, ...] = ()
    message: str | None = None
    is_control: bool = False


@dataclass
class Table:
    """A table as it is printed, and its plain values for the CSV file."""

    slug: str
    caption: str
    columns: list[str]  # headings; the first is that of the labels
    rows: list[Row]
    values: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # markdown, below the table
    is_prose: bool = False  # True if it holds words, which are aligned left
    is_dense: bool = False  # True if the HTML page sets it small, because many columns must be seen at once


def to_markdown(table: Table) -> str:
    """Returns a pipe table.  Controls are in italics, because markdown has no rules between rows."""
    width = len(table.columns)
    ruler = ["---", *["---" if table.is_prose else "---:"] * (width - 1)]
    lines = [pipe_row(map(escape, table.columns)), pipe_row(ruler)]
    for row in table.rows:
        label = f"*{escape(row.label)}*" if row.is_control else escape(row.label)
        if row.message is not None:
            printed = [f"*{escape(row.message)}*", *[""] * (width - 2)]
        else:
            printed = [f"**{escape(one.text)}**" if one.bold else escape(one.text) for one in row.printed]
        lines.append(pipe_row([label, *printed]))
    return "\n".join(lines)


def pipe_row(texts: Iterable[str]) -> str:
    """Returns one line of a markdown table."""
    return f"| {' | '.join(texts)} |"


def escape(text: str) -> str:
    """Escapes plain text for markdown."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|~#" else character for character in text)


def to_csv(table: Table) -> str:
    """Returns the plain values, unrounded, as CSV; unknown values are empty."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in table.values for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in table.values)
    return text.getvalue()


def heading(metric: str, higher_is_better: bool, unit: str) -> str:
    """Returns a heading such as ``mse ↓`` or ``bits_per_byte ↓ (bits/byte)``."""
    arrow = "↑" if higher_is_better else "↓"
    return f"{metric} {arrow} ({unit})" if unit else f"{metric} {arrow}"


def metric_tables(group: Group, differences: Mapping[str, Difference], files: Sequence[TunedFile] = ()) -> list[Table]:
    """Returns tables of mean ± deviation over seeds, of up to six metrics each: attentions, and controls below.

    differences: of the first metric from that of the exact attention, by label.
    files: those of ``lavo-bench tune``, which say how learning rates were chosen.
    """
    names = list(group.metrics())
    parts = [names[start : start + MOST_METRICS] for start in range(0, len(names), MOST_METRICS)] or [[]]
    tables = [_metric_table(group, part, index, differences) for index, part in enumerate(parts)]
    tables[0].notes += map(escape, rate_notes(group, files))
    return tables


def _metric_table(group: Group, names: Sequence[str], part: int, differences: Mapping[str, Difference]) -> Table:
    metrics = group.metrics()
    entries = [*group.contenders, *(entry for entry in group.entries if entry.is_control)]
    compared = group.compared
    reference = group.reference if part == 0 and names else None
    columns = ["attention", "seeds"]
    columns += [heading(name, metrics[name].higher_is_better, metrics[name].unit) for name in names]
    if reference is not None:
        columns += [
            f"{names[0]} {numbers.MINUS} {reference.label}",
            "95 % over seeds",
            "one seed, 95 % over test",
            "verdict",
        ]
    summaries = {name: [summary_of(entry, name) for entry in entries] for name in names}
    places = {name: numbers.decimals([s for s in summaries[name] if s is not None]) for name in names}
    best = {
        name: best_outside_spread(
            [summary if entry in compared else None for entry, summary in zip(entries, summaries[name], strict=True)],
            higher_is_better=metrics[name].higher_is_better,
        )
        for name in names
    }
    rows = []
    for index, entry in enumerate(entries):
        if not entry.completed:
            rows.append(Row(entry.label, message=_reason(entry), is_control=entry.is_control))
            continue
        printed = [Printed(_seeds(entry))]
        degenerate = MARK if faults(entry) else ""
        for name in names:
            summary = summaries[name][index]
            text = numbers.MISSING if summary is None else numbers.mean_and_deviation(summary, places[name])
            printed.append(Printed(text + _mark(entry, name) + degenerate, bold=best[name] == index))
        if reference is not None:
            printed += _against(differences.get(entry.label), places[names[0]])
        rows.append(Row(entry.label, tuple(printed), is_control=entry.is_control))
    rows += [_control_row(name, values, names, places, len(columns)) for name, values in group.controls().items()]
    suffix = f"-{part + 1}" if part else ""
    caption = (
        f"{words(group.task).capitalize()}, {group.title}. Data: {data_words(group.data)}. Preset: {group.preset}."
    )
    table = Table(f"{group.slug}{suffix}", caption, columns, rows, _values(group, entries, names))
    table.notes = _notes(group, entries, names, any(index is not None for index in best.values())) if part == 0 else []
    table.notes += [difference_note(differences)] if reference is not None else []
    return table


def summary_of(entry: Entry, metric: str) -> Summary | None:
    """Returns mean and deviation over seeds, or None if no seed has a value."""
    values = list(entry.values(metric).values())
    return summarise(values) if values else None


def _seeds(entry: Entry) -> str:
    done, asked = len(entry.completed), entry.asked
    return str(done) if done == asked else f"{done} of {asked}"


def _mark(entry: Entry, metric: str) -> str:
    """Returns a dagger if a completed seed has no finite value, because the mean then leaves out a bad seed."""
    return "" if len(entry.values(metric)) in (0, len(entry.completed)) else "†"


def status_words(record: Record) -> str:
    """Returns the outcome of a cell that didn't complete, in words."""
    return STATUS_WORDS.get(record.status, record.status)


def reason_of(record: Record) -> str:
    """Returns on one line why a cell didn't complete."""
    return " ".join((record.reason or "no reason recorded").split())


def _reason(entry: Entry) -> str:
    return f"{status_words(entry.records[0])}: {reason_of(entry.records[0])}"


def _against(found: Difference | None, places: int) -> list[Printed]:
    """Returns the mean difference over the seeds that both have, its interval, that of one seed with its own, and the verdict."""
    if found is None:
        return [Printed(numbers.MISSING)] * 4
    texts = [
        numbers.signed(found.over_seeds.difference, places),
        *interval_texts(found.over_seeds, found.over_examples, places),
    ]
    return [*map(Printed, texts), verdict_printed(found.verdict, found.over_seeds)]


def verdict_printed(verdict: Verdict, over_seeds: PairedTest) -> Printed:
    """Returns the verdict on a difference, which says so if there is one seed, or no spread over several."""
    if over_seeds.n < 2:
        return Printed("test sampling only")
    shade = {"better": 1.0, "worse": -1.0, "open": None}[verdict]
    return Printed(f"{verdict} (no spread)" if has_no_spread(over_seeds) else verdict, shade=shade)


def interval_texts(over_seeds: PairedTest, over_examples: PairedTest | None, places: int) -> tuple[str, str]:
    """Returns the interval over seeds, and the difference in the one seed whose examples were compared, with its interval."""
    seeds, examples = (
        f"[{numbers.signed(test.low, places)}, {numbers.signed(test.high, places)}]"
        if test is not None and test.low is not None and test.high is not None
        else numbers.MISSING
        for test in (over_seeds, over_examples)
    )
    if over_examples is not None and examples != numbers.MISSING:
        examples = f"{numbers.signed(over_examples.difference, places)} {examples}"
    return seeds, examples


def difference_note(differences: Mapping[str, Difference]) -> str:
    """Returns a note on how the differences are judged."""
    if not differences:
        return ""
    seeds = max(found.over_seeds.n for found in differences.values())
    note = (
        f"Differences: mean over seeds; 95 % interval over {seeds} seeds (Student's t) and, for the first seed, over the test examples "
        "(paired bootstrap, a jackknife below 100; of documents, shapes or stretches of a series, where the records name them because "
        "examples depend on each other). Better, worse: resolved, "
        "that is p below 5 % over seeds, adjusted by Holm in this table, and over test examples; open: not resolved, or the "
        "first seed's examples say the opposite of the mean."
    )
    if seeds < 2:
        return f"{note} With one seed nothing is resolved: the interval tells of test sampling only."
    equal = [label for label, found in differences.items() if found.has_no_spread]
    return f"{note} {no_spread_note(equal)}" if equal else note


def no_spread_note(labels: Sequence[str]) -> str:
    """Returns a note on rows that differ from the reference by the same figure in every seed."""
    return (
        f"No spread: {escape(', '.join(labels))} differ{'s' if len(labels) == 1 else ''} by the same figure in every seed, so there is no "
        f"interval and no p. From {FEWEST_EQUAL} seeds on this counts as resolved over seeds. Equal figures are plausible at the end of a scale, or "
        "where every answer is the same; elsewhere they point to seeds that repeat one run."
    )


def _control_row(
    name: str, values: Mapping[str, list[float]], metrics: Sequence[str], places: Mapping[str, int], width: int
) -> Row:
    printed = [Printed(numbers.MISSING)]
    for metric in metrics:
        found = values.get(metric)
        text = numbers.MISSING if not found else numbers.mean_and_deviation(summarise(found), places[metric])
        printed.append(Printed(text))
    printed += [Printed(numbers.MISSING)] * (width - 1 - len(printed))
    return Row(name, tuple(printed), is_control=True)


def _values(group: Group, entries: Sequence[Entry], names: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for entry in entries:
        row: dict[str, Any] = {"attention": entry.label, "kind": "control" if entry.is_control else "attention"}
        row |= {"seeds": len(entry.completed), "seeds_asked": entry.asked}
        for name in names:
            summary = summary_of(entry, name)
            row[f"{name}_mean"] = summary.mean if summary else None
            row[f"{name}_deviation"] = summary.deviation if summary else None
            row[f"{name}_n"] = next((r.metrics[name].n for r in entry.completed if name in r.metrics), None)
        lost = [record for record in entry.records if not record.is_completed]
        row["status"] = ", ".join(sorted({record.status for record in lost})) or "completed"
        row["reason"] = lost[0].reason if lost else None
        rows.append(row)
    for control, metrics in group.controls().items():
        means = {f"{name}_mean": summarise(metrics[name]).mean for name in names if metrics.get(name)}
        rows.append({"attention": control, "kind": "control", **means, "status": "completed"})
    return rows


def _notes(group: Group, entries: Sequence[Entry], names: Sequence[str], any_bold: bool) -> list[str]:
    notes = [
        margin_note(group, entries, names),
        bold_note(group, names, any_bold),
        *_noise_floor(group, names),
        *_incomplete(entries, names),
        *_other_versions(group),
        *map(escape, degenerate_notes(entries)),
    ]
    sizes = {f"{name} {numbers.count(group.metrics()[name].n)}" for name in names}
    examples = {group.metrics()[name].n for name in names}
    if len(examples) == 1:
        notes.append(f"n = {numbers.count(examples.pop())} in the test part.")
    elif sizes:
        notes.append(f"n in the test part: {escape(', '.join(sorted(sizes)))}.")
    cards = task_metrics(group.task)
    described = [f"{escape(name)}: {escape(cards[name].card)}" for name in names if name in cards and cards[name].card]
    return [*notes, f"{'; '.join(described)}." if described else ""]


def margin_note(group: Group, entries: Sequence[Entry], names: Sequence[str]) -> str:
    """Returns a note on how far the exact attention is ahead of the best control, which shows whether the model has learnt."""
    reference = group.reference
    if reference is None or not names:
        return ""
    metric = group.metrics()[names[0]]
    found = {
        entry.label: summary.mean
        for entry in entries
        if entry.is_control and (summary := summary_of(entry, names[0])) is not None
    }
    found |= {name: summarise(values[names[0]]).mean for name, values in group.rules().items() if values.get(names[0])}
    own = summary_of(reference, names[0])
    if own is None or not found:
        return ""
    best = (max if metric.higher_is_better else min)(found, key=lambda name: found[name])
    ahead = own.mean - found[best] if metric.higher_is_better else found[best] - own.mean
    share = f" ({100 * abs(ahead / found[best]):.0f} %)" if found[best] else ""
    verdict = "better" if ahead > 0 else "worse" if ahead < 0 else "neither better nor worse"
    return (
        f"Against the best control, {escape(best)} ({numbers.significant(found[best])}), {escape(reference.label)} is "
        f"{verdict} by {numbers.significant(abs(ahead))}{share} in {escape(names[0])}."
    )


def bold_note(group: Group, names: Sequence[str], any_bold: bool) -> str:
    """Returns a note on what bold means in this table, or why nothing is bold."""
    compared = group.compared
    single = [entry.label for entry in compared if len(entry.completed) == 1]
    if not names or not any(entry.completed for entry in compared):
        return ""
    if single:
        return (
            "Nothing is bold: with one seed the spread is unknown"
            + (f" ({escape(', '.join(single))})" if len(single) < len(compared) else "")
            + ", so a best can't be told from chance."
        )
    if any_bold:
        return "Bold: the best, where its mean ± deviation over seeds touches that of no other attention (exact ones count once)."
    return "Nothing is bold: the mean ± deviation of the best touches that of another attention."


def _noise_floor(group: Group, names: Sequence[str]) -> list[str]:
    """Returns a note on how much two exact attentions, which compute the same function, differ."""
    exact = [entry for entry in group.entries if entry.is_exact and entry.completed]
    if len(exact) < 2 or not names:
        return []
    first, second = exact[:2]
    parts: list[str] = []
    seeds, largest = 0, 0.0
    for name in names:
        a, b = first.values(name), second.values(name)
        differences = [b[seed] - a[seed] for seed in a if seed in b]
        if differences:
            mean = sum(abs(difference) for difference in differences) / len(differences)
            parts.append(f"{escape(name)} {numbers.significant(mean, 2)}")
            seeds, largest = max(seeds, len(differences)), max(largest, mean)
    if not parts:
        return []
    over = "one seed" if seeds == 1 else f"{seeds} seeds"
    meaning = "Differences between attentions that are not larger may come from rounding alone."
    if largest == 0:
        meaning = "Rounding changed nothing there, which sets no limit for other seeds or attentions."
    elif seeds == 1:
        meaning = "Rounding alone can change figures by about as much; one seed gives no more than an example of it."
    return [
        f"Noise floor: {escape(second.label)} computes the same function as {escape(first.label)}; over {over}, their mean absolute "
        f"difference is {', '.join(parts)}. {meaning}"
    ]


def _incomplete(entries: Sequence[Entry], names: Sequence[str]) -> list[str]:
    notes = []
    for entry in entries:
        lost = [record for record in entry.records if not record.is_completed]
        if entry.completed and lost:
            seeds = ", ".join(str(record.cell.seed) for record in lost)
            reason = escape(reason_of(lost[0]))
            notes.append(f"{escape(entry.label)}, seed {seeds}: {status_words(lost[0])} ({reason}).")
        if any(_mark(entry, name) for name in names):
            notes.append(f"† {escape(entry.label)}: the mean leaves out seeds without a finite value.")
    return notes


def _other_versions(group: Group) -> list[str]:
    """Returns notes on cells that are left out because another version of the code made them."""
    shown = next((entry.versions for entry in group.entries if entry.versions is not None), None)
    rows: dict[tuple[str, str], list[int]] = {}
    for entry in group.entries:
        for record in entry.outdated:
            words_of = in_words(record.versions, entry.versions)
            rows.setdefault((entry.label, words_of), []).append(record.cell.seed)
    for record in group.left_out:
        own = record.versions
        # The table has no row of this attention, so only task and softmax can differ.
        here = own and shown and replace(own, task=shown.task, reference=shown.reference)
        rows.setdefault((record.cell.label, in_words(own, here)), []).append(record.cell.seed)
    return [
        f"{escape(label)}, seed {', '.join(map(str, sorted(seeds)))}: left out, because another version of the code made "
        f"{'it' if len(seeds) == 1 else 'them'} ({difference or 'which one is unknown'}); to be run again."
        for (label, difference), seeds in rows.items()
    ]


def data_words(data: DataSource) -> str:
    """Returns the data's name and the beginning of their fingerprint, such as ``embedded (3f2a91c0)``."""
    name = data.name or "unknown"
    if data.embedded and name != "embedded":
        name = f"embedded, {name}"
    return f"{name} ({data.sha256[:8]})" if data.sha256 else name
