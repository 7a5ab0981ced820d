"""The report's section on sweeps over settings: for each varied setting a table and a figure of the metric against its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.report import numbers
from benchmark.report.differences import Verdict, tests_over_examples, verdict_of
from benchmark.report.document import Block, Heading
from benchmark.report.figures import new_figure
from benchmark.report.gallery import Gallery
from benchmark.report.groups import Entry, at_each_site, learning_rate, task_metrics, words
from benchmark.report.style import PAGE_WIDTH, style_of
from benchmark.report.tables import (
    MOST_METRICS,
    Printed,
    Row,
    Table,
    escape,
    heading,
    interval_texts,
    reason_of,
    status_words,
    summary_of,
    verdict_printed,
)
from benchmark.results import MetricValue, Record
from benchmark.settings.varied import Varied, VariedCells, only_varied, read_varied
from benchmark.statistics import PairedTest, Summary, holm, paired_t_test, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULES = {
    "default": "Each value was trained at the learning rate of the default.",
    "each": "Each value was trained at a learning rate of its own, chosen on validation data from one grid.",
    "varied": "All other settings are those of the default.",
}


class ValueRow(NamedTuple):
    """One attention at one value of a setting, over all seeds."""

    attention: str
    value: Any
    is_default: bool
    entry: Entry  # with the records that exist

    @property
    def label(self) -> str:
        """What the table calls the row."""
        return f"{self.attention}, {value_words(self.value)}{' (default)' if self.is_default else ''}"


class Sensitivity(NamedTuple):
    """One varied setting at one site, with its records."""

    varied: Varied
    rows: tuple[ValueRow, ...]  # by attention, then by value
    references: tuple[Entry, ...]  # softmax and none at their defaults

    @property
    def title(self) -> str:
        """The setting and the site."""
        one = self.varied
        return f"{one.key} · {words(one.task)} · {words(one.backbone)} · {words(one.pattern)}"

    @property
    def slug(self) -> str:
        """The text with which the names of its files begin."""
        one = self.varied
        parts = ("sensitivity", one.task, one.backbone, one.pattern, one.preset, one.key)
        return "-".join("".join(c if c.isalnum() or c == "_" else "-" for c in part) for part in parts)

    @property
    def attentions(self) -> list[str]:
        """The names of those whose setting was varied."""
        return list(dict.fromkeys(row.attention for row in self.rows))

    def of(self, attention: str) -> list[ValueRow]:
        """Returns the rows of this attention, by value."""
        return [row for row in self.rows if row.attention == attention]

    def default_of(self, attention: str) -> ValueRow | None:
        """Returns the row with which the others of this attention are compared."""
        return next((row for row in self.of(attention) if row.is_default), None)

    def metrics(self) -> dict[str, MetricValue]:
        """Returns metric -> its value in one record, for unit and direction; the task's first metric comes first."""
        found: dict[str, MetricValue] = {}
        for entry in (*(row.entry for row in self.rows), *self.references):
            for record in entry.completed:
                for name, metric in record.metrics.items():
                    found.setdefault(name, metric)
        order = [name for name in task_metrics(self.varied.task) if name in found]
        return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}


def read_all_varied(directories: Iterable[Path]) -> list[Varied]:
    """Returns what was varied in these folders.  Raises ValueError that names a damaged file."""
    return [one for directory in directories for one in read_varied(directory)]


def without_varied(records: Iterable[Record], varied: Sequence[Varied]) -> list[Record]:
    """Returns the records of the tables of defaults: those that belong to a sweep alone are left out."""
    hashes = only_varied(varied)
    return [record for record in records if record.cell.hash not in hashes]


def sensitivity_blocks(varied: Sequence[Varied], records: Sequence[Record], gallery: Gallery) -> list[Block]:
    """Returns the section; nothing if nothing was varied."""
    blocks: list[Block] = []
    for one in found_sensitivities(varied, records):
        headline = next(iter(one.metrics()), None)
        caption = (
            f"{one.title}: {headline} against the value; bars are the range of the seeds, bands that of softmax and none at their "
            "defaults, a ring marks the default."
        )
        picture = gallery.draw(one.slug, caption, partial(value_figure, one))
        blocks += [Heading(3, one.title), *picture, value_table(one)]
    return [Heading(2, "Sensitivity"), *blocks] if blocks else []


def found_sensitivities(varied: Sequence[Varied], records: Sequence[Record]) -> list[Sensitivity]:
    """Returns the sweeps of which there are records."""
    by_hash: dict[str, list[Record]] = {}
    for record in records:
        for copy in at_each_site(record):
            by_hash.setdefault(record.cell.hash, []).append(copy)

    def entry(cells: VariedCells, pattern: str, label: str) -> Entry:
        copies = [copy for one in cells.hashes for copy in by_hash.get(one, []) if copy.cell.pattern == pattern]
        return Entry(label, cells.attention, tuple(sorted(copies, key=lambda copy: copy.cell.seed)))

    found = []
    for one in varied:
        rows = [
            ValueRow(cells.attention, cells.value, cells.is_default, entry(cells, one.pattern, cells.attention))
            for cells in one.varied
        ]
        names = list(dict.fromkeys(row.attention for row in rows))
        rows.sort(key=lambda row: (names.index(row.attention), _order(row.value)))
        references = [entry(cells, one.pattern, cells.attention) for cells in one.references]
        references = [reference for reference in references if reference.completed]
        if any(row.entry.records for row in rows):
            found.append(Sensitivity(one, tuple(rows), tuple(references)))
    return found


def _order(value: Any) -> tuple[int, float, str]:
    """Returns a key that sorts numbers by size, and puts all other values behind them."""
    if is_number(value):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def is_number(value: Any) -> bool:
    """Returns whether a value lies on an axis of numbers; true and false do not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_words(value: Any) -> str:
    """Writes a value as a YAML file would have it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


class Change(NamedTuple):
    """A value against the default of the same attention, in the first metric."""

    over_seeds: PairedTest
    over_examples: PairedTest | None
    p_holm: float | None
    verdict: Verdict


def changes(one: Sensitivity) -> dict[str, Change]:
    """Returns label -> difference to the default, over the seeds that both have; p is adjusted over all rows of the table."""
    metrics = one.metrics()
    if not metrics:
        return {}
    metric = next(iter(metrics))
    found: dict[str, tuple[PairedTest, PairedTest | None]] = {}
    for row in one.rows:
        default = one.default_of(row.attention)
        if default is None or row.is_default:
            continue
        first, second = default.entry.values(metric), row.entry.values(metric)
        seeds = [seed for seed in first if seed in second]
        if seeds:
            over_seeds = paired_t_test([first[seed] for seed in seeds], [second[seed] for seed in seeds])
            over_examples = tests_over_examples(default.entry, row.entry, [metric], one.varied.task).get(metric)
            found[row.label] = over_seeds, over_examples
    adjusted = holm([over_seeds.p for over_seeds, _ in found.values()])
    return {
        label: Change(*pair, p, verdict_of(*pair, p, higher_is_better=metrics[metric].higher_is_better))
        for (label, pair), p in zip(found.items(), adjusted, strict=True)
    }


def value_table(one: Sensitivity) -> Table:
    """Returns the table of metrics by value: mean ± deviation over seeds, difference to the default, and the validation metric."""
    metrics = one.metrics()
    names = list(metrics)[:MOST_METRICS]
    against = changes(one)
    entries = [*(row.entry for row in one.rows), *one.references]
    places = {
        name: numbers.decimals([s for entry in entries if (s := summary_of(entry, name)) is not None]) for name in names
    }
    validated = {id(row): summarise(values) if (values := validation_values(row.entry)) else None for row in one.rows}
    validation_places = numbers.decimals([summary for summary in validated.values() if summary is not None])
    chosen = {name: _best_on_validation(one, name, validated) for name in one.attentions}
    columns = [f"attention, {one.varied.key}", "seeds", *(_heading(name, metrics[name]) for name in names)]
    columns += (
        [f"{names[0]} {numbers.MINUS} default", "95 % over seeds", "one seed, 95 % over test", "verdict"]
        if names
        else []
    )
    columns.append(f"{_selection(one) or 'metric'} on validation")
    rows: list[Row] = []
    for row in one.rows:
        if not row.entry.completed:
            rows.append(Row(row.label, message=_missing(row.entry)))
            continue
        printed = [Printed(str(len(row.entry.completed)))]
        printed += [_mean(row.entry, name, places[name]) for name in names]
        if names:
            printed += _against(row, against.get(row.label), places[names[0]])
        summary = validated[id(row)]
        text = numbers.MISSING if summary is None else numbers.mean_and_deviation(summary, validation_places)
        rows.append(Row(row.label, (*printed, Printed(text, bold=row is chosen[row.attention]))))
    for reference in one.references:
        printed = [Printed(str(len(reference.completed))), *(_mean(reference, name, places[name]) for name in names)]
        printed += [Printed(numbers.MISSING)] * (len(columns) - 1 - len(printed))
        rows.append(Row(reference.label, tuple(printed), is_control=True))
    caption = f"{one.title}. Preset: {one.varied.preset}. {RULES[one.varied.rates]} Seeds and steps are the same for all values."
    return Table(one.slug, caption, columns, rows, _plain(one, names, against, validated), _notes(one, against))


def _heading(name: str, metric: MetricValue) -> str:
    return heading(name, metric.higher_is_better, metric.unit)


def _missing(entry: Entry) -> str:
    if not entry.records:
        return "not trained yet"
    return f"{status_words(entry.records[0])}: {reason_of(entry.records[0])}"


def _mean(entry: Entry, name: str, places: int) -> Printed:
    summary = summary_of(entry, name)
    return Printed(numbers.MISSING if summary is None else numbers.mean_and_deviation(summary, places))


def _against(row: ValueRow, found: Change | None, places: int) -> list[Printed]:
    """Returns the difference to the default, its two intervals, and whether it is resolved."""
    if found is None:
        return [Printed("default" if row.is_default else numbers.MISSING), *[Printed(numbers.MISSING)] * 3]
    texts = [
        numbers.signed(found.over_seeds.difference, places),
        *interval_texts(found.over_seeds, found.over_examples, places),
    ]
    return [*map(Printed, texts), verdict_printed(found.verdict, found.over_seeds)]


def validation_values(entry: Entry) -> list[float]:
    """Returns the selection metric on validation data at the step whose weights were kept, one for each seed that has it."""
    values = []
    for record in entry.completed:
        curve = record.curves.get("validation") or {}
        names = [name for name in curve if name not in ("step", "seconds")]
        steps = curve.get("step") or []
        if names and record.efficiency.best_step in steps:
            value = curve[names[0]][steps.index(record.efficiency.best_step)]
            values += [] if value is None else [float(value)]
    return values


def _best_on_validation(one: Sensitivity, attention: str, validated: Mapping[int, Summary | None]) -> ValueRow | None:
    """Returns the row that would be chosen on validation data, among those with all seeds; None if no value is known."""
    known = [(row, summary) for row in one.of(attention) if (summary := validated[id(row)]) is not None]
    if not known:
        return None
    most = max(summary.n for _, summary in known)
    sign = -1 if _selection_rises(one) else 1
    return min(((row, s) for row, s in known if s.n == most), key=lambda pair: sign * pair[1].mean)[0]


def _selection(one: Sensitivity) -> str | None:
    """Returns the name of the metric that was measured on validation data."""
    for row in one.rows:
        for record in row.entry.completed:
            for name in record.curves.get("validation") or {}:
                if name not in ("step", "seconds"):
                    return str(name)
    return None


def _selection_rises(one: Sensitivity) -> bool:
    """Returns whether a higher value of the metric on validation data is better."""
    known, name = task_metrics(one.varied.task), _selection(one)
    return name is not None and name in known and known[name].higher_is_better


def _notes(one: Sensitivity, against: Mapping[str, Change]) -> list[str]:
    notes = []
    if against:
        notes.append(
            "Difference: to the default of the same attention, mean over seeds, with the 95 % interval over seeds (Student's t) and, for "
            "the first seed, over the test examples. Better, worse: resolved, that is p below 5 % over seeds, adjusted by Holm in this table, "
            "and over test examples; open: not resolved."
        )
    notes.append(
        "Bold: the value that would be chosen on validation data. The best value of a test metric is no choice: it is the best of "
        "several draws."
    )
    rates = {
        row.label: sorted({f"{rate:g}" for r in row.entry.completed if (rate := learning_rate(r)) is not None})
        for row in one.rows
    }
    if one.varied.rates == "each" and any(rates.values()):
        listed = "; ".join(f"{escape(label)}: {', '.join(some)}" for label, some in rates.items() if some)
        notes.append(f"Learning rates: {listed}.")
    return notes


def _plain(
    one: Sensitivity, names: Sequence[str], against: Mapping[str, Change], validated: Mapping[int, Summary | None]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in one.rows:
        rates = {rate for record in row.entry.completed if (rate := learning_rate(record)) is not None}
        values: dict[str, Any] = {
            "attention": row.attention,
            "value": value_words(row.value),
            "is_default": row.is_default,
            "seeds": len(row.entry.completed),
            "learning_rate": rates.pop() if len(rates) == 1 else None,
            **_means(row.entry, names),
        }
        summary, change = validated[id(row)], against.get(row.label)
        values["validation_mean"] = None if summary is None else summary.mean
        if change is not None:
            for name, test in (("seeds", change.over_seeds), ("test", change.over_examples)):
                values |= {} if test is None else {f"low_over_{name}": test.low, f"high_over_{name}": test.high}
            values |= {"difference": change.over_seeds.difference, "p_holm": change.p_holm}
        rows.append(values)
    rows += [
        {"attention": entry.label, "value": "reference", "seeds": len(entry.completed), **_means(entry, names)}
        for entry in one.references
    ]
    return rows


def _means(entry: Entry, names: Sequence[str]) -> dict[str, float | None]:
    found = {name: summary_of(entry, name) for name in names}
    means = {f"{name}_mean": None if summary is None else summary.mean for name, summary in found.items()}
    return means | {f"{name}_deviation": None if s is None else s.deviation for name, s in found.items()}


def value_figure(one: Sensitivity) -> Figure | None:
    """Draws the first metric against the value: a line for each attention, and a band for softmax and ``none``."""
    metric = next(iter(one.metrics()), None)
    rows = [row for row in one.rows if metric is not None and row.entry.values(metric)]
    if metric is None or not rows:
        return None
    figure, axes = new_figure(width=PAGE_WIDTH / 1.4, height=2.6)
    axis = axes[0, 0]
    numeric = all(is_number(row.value) for row in rows)
    ticks = sorted({row.value for row in rows}) if numeric else list(dict.fromkeys(value_words(r.value) for r in rows))
    for name in one.attentions:
        own = [row for row in rows if row.attention == name]
        xs = [row.value if numeric else ticks.index(value_words(row.value)) for row in own]
        found = [np.array(list(row.entry.values(metric).values())) for row in own]
        means = np.array([values.mean() for values in found])
        errors = [means - [values.min() for values in found], [values.max() for values in found] - means]
        style = style_of(name)._asdict() | ({} if numeric else {"linestyle": "none"})
        axis.errorbar(xs, means, yerr=errors, label=name, elinewidth=0.8, capsize=2, **style)
        for row, x, mean in zip(own, xs, means, strict=True):
            if row.is_default:
                axis.plot(
                    [x], [mean], marker="o", markersize=9, fillstyle="none", color=style["color"], linestyle="none"
                )
    for entry in one.references:
        _band(axis, entry, metric)
    _value_axis(axis, ticks, numeric)
    unit = one.metrics()[metric].unit
    axis.set(xlabel=one.varied.key, ylabel=f"{metric} ({unit})" if unit else metric)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(axis: Axes, entry: Entry, metric: str) -> None:
    """Draws the mean of a reference as a horizontal line, and the range of its seeds as a band."""
    values = list(entry.values(metric).values())
    if not values:
        return
    color = style_of(entry.attention).color
    axis.axhline(float(np.mean(values)), color=color, linestyle=":", label=entry.label)
    if len(values) > 1:
        axis.axhspan(min(values), max(values), color=color, alpha=0.15, linewidth=0)


def scale_of(values: Sequence[Any]) -> str:
    """Returns the scale of the axis of values: ``log2`` for powers of two, ``log10`` if they span a factor of ten, else ``linear``."""
    if len(values) < 2 or not all(is_number(value) and value > 0 for value in values):
        return "linear"
    if all(math.log2(value).is_integer() for value in values):
        return "log2"
    return "log10" if max(values) / min(values) >= 10 else "linear"


def _value_axis(axis: Axes, ticks: Sequence[Any], numeric: bool) -> None:
    """Puts a tick at each value."""
    from matplotlib.ticker import NullLocator

    scale = scale_of(ticks) if numeric else "linear"
    if scale != "linear":
        axis.set_xscale("log", base=2 if scale == "log2" else 10)
        axis.xaxis.set_minor_locator(NullLocator())
    places = list(ticks) if numeric else list(range(len(ticks)))
    axis.set_xticks(places, [value_words(tick) for tick in ticks])
    if not numeric:
        axis.set_xlim(-0.5, len(ticks) - 0.5)
