"""Published figures, from the ledger configs/published.yaml: beside ours where data, protocol and size agree, else apart.

None of them enters an average, a rank or a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import Field, model_validator

from benchmark.report import numbers
from benchmark.report.document import Block, Folded, Heading, Text
from benchmark.report.groups import Entry, Group, declared, flat, settings_by_name, words
from benchmark.report.tables import Printed, Row, Table, escape, summary_of
from benchmark.settings.base import Settings
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve

LEDGER = Path(__file__).resolve().parents[2] / "configs" / "published.yaml"
SIZE = "paper"
"""The only preset that follows published protocols."""

Filled = Annotated[str, Field(min_length=1)]


class Followed(Settings):
    """How far the preset ``paper`` of a task follows a protocol."""

    metrics: dict[str, str] = Field(min_length=1)  # published name -> ours, of the same convention
    remaining: str = ""  # what still differs, printed beside the figures


class Protocol(Settings):
    """A published way of training and measuring."""

    about: Filled
    follows: dict[str, Followed] = Field(default={})  # task -> how
    apart: dict[str, str] = Field(default={})  # task -> why its figures can't stand beside ours


class Published(Settings):
    """One published figure."""

    task: Filled
    backbone: str | None = None
    pattern: str | None = None
    attention: str | None = None
    system: str | None = None
    metric: Filled
    value: float
    data: Filled
    protocol: Filled
    source: Filled
    table: Filled
    features: str | None = None
    horizon: int | None = None
    length: int | None = None
    approximate: bool = False
    note: str | None = None


class Ledger(Settings):
    """All published figures that were read, with their sources."""

    sources: dict[str, Filled]
    notes: tuple[str, ...] = ()
    protocols: dict[str, Protocol]
    contexts: dict[str, Any] = Field(default={})  # YAML anchors of the entries
    entries: tuple[Published, ...]

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Ledger:
        for number, entry in enumerate(self.entries, 1):
            for key, known in (("source", self.sources), ("protocol", self.protocols)):
                if getattr(entry, key) not in known:
                    raise ValueError(
                        f"entry {number}: {key} {getattr(entry, key)!r}: unknown; known: {', '.join(known)}"
                    )
        return self


def read_ledger(path: Path = LEDGER) -> Ledger | None:
    """Reads and checks the ledger; None where the installation has none.  Raises ConfigError that names file and key."""
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be 'key: value' lines, got {type(content).__name__}")
    found: Ledger = validate(Ledger, content, lambda _: str(path))
    return found


class Placed(NamedTuple):
    """A published figure, our row of the same attention and site, and what differs; beside ours if nothing does."""

    published: Published
    group: Group
    entry: Entry
    metric: str | None  # ours, of the same convention; None if the protocol isn't followed
    differs: tuple[str, ...]
    remaining: str

    @property
    def is_beside(self) -> bool:
        """Whether the two figures may stand side by side."""
        return not self.differs


def place(ledger: Ledger, groups: Sequence[Group]) -> list[Placed]:
    """Returns the published figures of which the report has the attention at the site, each with the nearest of our tables."""
    found = []
    for one in ledger.entries:
        near = [(group, entry) for group in groups for entry in group.contenders if _is_same_site(one, group, entry)]
        placed = [_placed(ledger, one, group, entry) for group, entry in near]
        if placed:
            found.append(min(placed, key=lambda p: (len(p.differs), p.group.title, p.entry.label)))
    return found


def _is_same_site(one: Published, group: Group, entry: Entry) -> bool:
    if (one.task, one.backbone, one.attention) != (group.task, group.backbone, entry.attention) or not entry.completed:
        return False
    # With exact attention everywhere the pattern makes no difference; sources then name several, or none.
    several = one.pattern is None or "+" in one.pattern
    return one.pattern == group.pattern or (several and bool(declared(entry.attention).get("exact", False)))


def _placed(ledger: Ledger, one: Published, group: Group, entry: Entry) -> Placed:
    protocol = ledger.protocols[one.protocol]
    followed = protocol.follows.get(group.task)
    metric = None if followed is None else followed.metrics.get(one.metric)
    differs = [*_data_differs(one, group), *_size_differs(group, entry)]
    if followed is None:
        differs.append(f"protocol: {protocol.apart.get(group.task, f'{one.protocol} is not followed here')}")
    elif metric is None or not entry.values(metric):
        differs.append(f"metric: ours has no {one.metric} of this convention")
    if one.note in _DOUBTS:
        differs.append(f"doubted: {one.note}")
    return Placed(one, group, entry, metric, tuple(differs), "" if followed is None else followed.remaining)


_DOUBTS = ("suspect", "disputed, see notes", "before the fix")
"""Notes of entries that stand beside nothing."""


def _data_differs(one: Published, group: Group) -> list[str]:
    ours = group.data.name or "unknown"
    found = []
    if group.data.embedded is not False:
        found.append(f"data: made up here ({ours}), not {one.data}")
    elif _plain(ours) != _plain(one.data):
        found.append(f"data: {ours}, not {one.data}")
    settings = group.data.details
    lengths = settings.get("lengths")
    horizon = lengths.get("pred_len") if isinstance(lengths, Mapping) else group.settings.data.get("pred_len")
    for name, mine, theirs in (
        ("horizon", horizon, one.horizon),
        ("features", group.settings.data.get("features"), one.features),
        ("length", group.settings.data.get("context_length"), one.length),
    ):
        if theirs is not None and mine != theirs:
            found.append(f"{name}: {mine}, not {theirs}")
    return found


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


_FREE = (
    *(
        "data.file",
        "data.folder",
        "data.name",
        "data.features",
        "data.pred_len",
    ),  # which data: compared by their own names
    *("eval.drop_last", "train.eval_batch_size", "train.micro_batch_size", "train.checkpoint_every"),
)
"""Settings that may differ from those of the preset ``paper``.  That of ``eval.drop_last`` is the published one."""


def _size_differs(group: Group, entry: Entry) -> list[str]:
    if group.preset != SIZE:
        return [f"size: preset {group.preset}, not {SIZE}"]
    found = [] if group.settings.limit is None else [f"examples: the first {group.settings.limit} only"]
    wanted = _settings_of_paper(group.task, group.backbone, group.pattern, entry.attention)
    if wanted is None:
        return [*found, "settings: the task is not installed here, so they can't be compared"]
    ours = settings_by_name(group.settings) | {f"train.{k}": v for k, v in entry.completed[0].config.train.items()}
    changed = [
        f"{name}: {ours[name]}, not {value}"
        for name, value in wanted.items()
        if name in ours and ours[name] != value and name not in _FREE
    ]
    return [*found, *changed]


@cache
def _settings_of_paper(task: str, backbone: str, pattern: str, attention: str) -> dict[str, Any] | None:
    try:
        return flat(resolve(task, backbone, SIZE, AttentionSpec(name=attention), [], pattern).plain())
    except (ValueError, KeyError, ImportError):
        return None


def published_blocks(groups: Sequence[Group], ledger: Ledger | None = None) -> list[Block]:
    """Returns the section on published figures; nothing if the ledger has none for the report's attentions and sites."""
    if not groups:
        return []
    ledger = ledger if ledger is not None else read_ledger()
    placed = [] if ledger is None else place(ledger, groups)
    if ledger is None or not placed:
        return []
    beside = [one for one in placed if one.is_beside]
    apart = [one for one in placed if not one.is_beside]
    agree = f"data, size (preset {SIZE}), settings, protocol and the convention of the metric"
    stand = (
        f"{len(beside)} stand beside ours, because {agree} agree"
        if beside
        else f"None stands beside ours, because {agree} don't all agree"
    )
    text = (
        f"Of {len(ledger.entries)} published figures in the ledger, {len(placed)} are of an attention and a site in this report. {stand}. "
        "No published figure enters an average, a rank or a verdict. The ledger has no figure of the paper on LAVO, because its tables could not be read."
    )
    return [
        Heading(3, "Published figures"),
        Text(text),
        *([_beside_table(beside)] if beside else []),
        _apart_table(placed),
        *(
            [Folded(f"{len(apart)} published figures that can't stand beside ours", _apart_list(apart))]
            if apart
            else []
        ),
    ]


def _beside_table(placed: Sequence[Placed]) -> Table:
    rows = []
    for one in placed:
        assert one.metric is not None
        summary = summary_of(one.entry, one.metric)
        assert summary is not None
        spread = "" if summary.deviation is None else f" ± {numbers.significant(summary.deviation, 2)}"
        cells = (
            _site(one),
            one.published.metric,
            _value(one.published),
            f"{numbers.significant(summary.mean)}{spread} ({summary.n} {'seed' if summary.n == 1 else 'seeds'})",
            one.remaining or numbers.MISSING,
            f"{one.published.source}: {one.published.table}",
        )
        rows.append(Row(one.entry.label, tuple(map(Printed, cells))))
    columns = ["attention", "site", "metric", "published", "ours", "what still differs", "source"]
    return Table(
        "published-beside",
        "Published figures beside ours.",
        columns,
        rows,
        [_csv_row(one) for one in placed],
        is_prose=True,
    )


def _apart_table(placed: Sequence[Placed]) -> Table:
    """Returns the number of published figures for each site, and all that differs; its CSV file has every figure."""
    sites: dict[str, list[Placed]] = {}
    for one in placed:
        sites.setdefault(f"{words(one.group.task)}, {_site(one)}", []).append(one)
    rows = []
    for site, found in sites.items():
        reasons = dict.fromkeys(text.split(":")[0] for one in found for text in one.differs)
        cells = (str(len(found)), str(sum(one.is_beside for one in found)), ", ".join(reasons) or numbers.MISSING)
        rows.append(Row(site, tuple(map(Printed, cells))))
    columns = ["site", "published figures", "beside ours", "what differs"]
    values = [_csv_row(one) for one in placed]
    return Table(
        "published", "Published figures of the attentions in this report.", columns, rows, values, is_prose=True
    )


def _site(one: Placed) -> str:
    return f"{words(one.group.backbone)} · {words(one.published.pattern or 'any pattern')}".replace("+", " and ")


def _value(one: Published) -> str:
    return f"{'about ' if one.approximate else ''}{one.value:g}"


def _conditions(one: Published) -> str:
    parts = [one.data, one.features, None if one.horizon is None else f"horizon {one.horizon}"]
    return ", ".join(part for part in [*parts, None if one.length is None else f"{one.length} tokens"] if part)


def _apart_list(apart: Sequence[Placed]) -> str:
    """Returns one line for each site, data set and source, with its figures and what differs."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for one in apart:
        pub = one.published
        key = (words(pub.task), _site(one), _conditions(pub), f"{pub.source}: {pub.table}", "; ".join(one.differs))
        lines.setdefault(key, []).append(f"{pub.system or pub.attention} {pub.metric} {_value(pub)}")
    return "\n".join(
        f"- {escape(f'{task}, {site}, {conditions}')}: {escape(', '.join(figures))}. Differs: {escape(differs)}. ({escape(source)})"
        for (task, site, conditions, source, differs), figures in lines.items()
    )


def _csv_row(one: Placed) -> dict[str, Any]:
    summary = None if one.metric is None else summary_of(one.entry, one.metric)
    ours = {"ours": None if summary is None else summary.mean, "our_table": one.group.title, "is_beside": one.is_beside}
    return one.published.model_dump() | ours | {"differs": "; ".join(one.differs), "remaining": one.remaining}
