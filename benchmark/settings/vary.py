"""Plans a sweep over settings: each value gets the same seeds, steps and rule for the learning rate as the default.

Settings are varied one at a time around the default.  The cells are ordinary ones, so none is trained twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.interface import NOTHING, REFERENCE
from benchmark.registry import TASKS, attention_names, nearest, sites_of, task_name
from benchmark.settings.cell import Cell
from benchmark.settings.choices import choose, choose_attentions
from benchmark.settings.hints import right_key
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, Override, RunSettings
from benchmark.settings.plan import Planner, planned
from benchmark.settings.resolve import GROUPS
from benchmark.settings.tuned import Rates
from benchmark.settings.varied import Varied, VariedCells
from benchmark.settings.yaml_files import parse_assignment

RATE = "train.learning_rate"
Run = tuple[RunSettings, list[Override]]


class Vary(NamedTuple):
    """A setting and the values that it takes."""

    key: str  # as the user wrote it, but without "attentions." in front
    attention: str | None  # whose option it is; None for a setting that all attentions share
    task: str | None  # whose setting it is, if the key begins with a task
    overrides: tuple[Override, ...]  # one for each value

    @property
    def is_rate(self) -> bool:
        """Whether it is the learning rate, which then is not chosen by tuning."""
        return self.overrides[0].key.endswith(RATE)


class SweepPlan(NamedTuple):
    """The cells of a sweep, each once, and what the report must know about them."""

    cells: list[Cell]
    varied: list[Varied]


def parse_vary(text: str) -> Vary:
    """Parses ``lavo.window=16,32`` or ``train.learning_rate=1e-3,3e-3``.  Raises ConfigError that names the right key."""
    key, equals, values = text.partition("=")
    key = key.strip().removeprefix("attentions.")
    parts = list(_split(values)) if equals else []
    if not key or not parts:
        raise ConfigError(f"--vary {text[:80]}: must be key=value,value,…, as in --vary lavo.window=16,32,64")
    first, _, rest = key.partition(".")
    attention = task = None
    full = key
    if ".attentions." in key:
        raise ConfigError(
            f"--vary {text[:80]}: an option belongs to its attention at every task: write {key.partition('.attentions.')[2]}"
        )
    if rest and first in attention_names():
        attention, full = first, f"attentions.{key}"
    elif rest and first in GROUPS:
        pass
    else:
        task = _task_of(first) if rest else None
        if task is None:
            hint = right_key(key, prefix="")
            allowed = [*GROUPS, *attention_names(), *TASKS]
            told = f"; {hint}" if hint else f"{nearest(first, allowed)}; it begins with one of {', '.join(allowed)}"
            raise ConfigError(f"--vary {text[:80]}: unknown key {key!r}{told}")
    read = [parse_assignment(f"{key}={part}", "--vary") for part in parts]
    overrides = {repr(one.value): one._replace(key=full) for one in read}
    return Vary(key, attention, task, tuple(overrides.values()))


def _task_of(name: str) -> str | None:
    try:
        return task_name(name)
    except ValueError:
        return None


def _split(values: str) -> Iterator[str]:
    """Yields the parts between commas; commas in brackets or quotation marks divide nothing."""
    depth, quote, part = 0, "", ""
    for sign in values:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        if sign == "," and not depth and not quote:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += sign
    if part.strip():
        yield part.strip()


class SweepRuns(NamedTuple):
    """The runs of a sweep: one with the defaults, and one for each value."""

    default: Run
    values: list[tuple[Vary, Override, Run]]

    @property
    def all(self) -> list[Run]:
        """All of them, the default first."""
        return [self.default, *(run for _, _, run in self.values)]


def sweep_runs(run: RunSettings, overrides: Sequence[Override], varies: Sequence[Vary]) -> SweepRuns:
    """Returns the runs: an option is varied for its attention alone, any other setting for all attentions of ``run``.

    The default run has these attentions, and softmax and ``none`` for comparison.  Raises ConfigError for a setting that is both
    varied and set.
    """
    for vary in varies:
        both = next((one for one in overrides if one.key == vary.overrides[0].key), None)
        if both is not None:
            raise ConfigError(f"{both.origin}: {vary.key} is varied, so it can't be set as well")
    keys = [vary.key for vary in varies]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"--vary {twice}: is given twice; give all its values at once, with commas between them")
    chosen = choose_attentions(run.attentions)
    own = [AttentionSpec(name=vary.attention) for vary in varies if vary.attention is not None]
    shared = chosen if any(vary.attention is None for vary in varies) else []
    everyone = {spec.variant: spec for spec in [*shared, *own, *(AttentionSpec(name=n) for n in (REFERENCE, NOTHING))]}
    values = []
    for vary in varies:
        names = chosen if vary.attention is None else [AttentionSpec(name=vary.attention)]
        for override in vary.overrides:
            part = run.model_copy(update={"attentions": list(names)})
            values.append((vary, override, (part, [*overrides, override])))
    return SweepRuns((run.model_copy(update={"attentions": list(everyone.values())}), list(overrides)), values)


def plan_sweep(runs: SweepRuns, cache: Path, rates: Rates, *, own_rates: bool = False) -> SweepPlan:
    """Returns the cells of all runs, and what was varied at each site.

    rates: tuned learning rates.  own_rates: they hold one for each value (``--tune``).  Otherwise each value is trained at the rate that
    its attention has by default, tuned or not, because a rate that is tuned for the default alone would favour it.
    Raises ConfigError for any mistake in the settings, before anything is trained.
    """
    planner = Planner(cache, rates)
    default_run, overrides = runs.default
    defaults = list(planner.cells(default_run, overrides))
    usual = {_site(cell): cell for cell in defaults}
    found: dict[str, tuple[Vary, list[tuple[Any, Cell]]]] = {}
    for vary, override, (run, changed) in runs.values:
        cells = found.setdefault(vary.key, (vary, []))[1]
        for one in planned(run, changed):
            if vary.is_rate and vary.task in (None, one.task):
                cell = replace(planner.cell(one, run), rate_from="set")
            else:
                like = usual[one.task, one.backbone, one.pattern, one.spec.variant]
                own = rates.chosen(one.task, planner.rate_key(one, run)) if own_rates else None
                rate = like.config["train"]["learning_rate"] if own is None else own
                source = like.rate_from if own is None else "tuned"
                cell = replace(planner.cell(one, run, learning_rate=rate), rate_from=source)
            cells.append((override.value, cell))
    once: dict[str, Cell] = {}
    for cell in [*defaults, *(cell for _, some in found.values() for _, cell in some)]:
        once.setdefault(cell.hash, cell)  # of equal cells the default stays, which says where its rate is from
    varied = [
        one
        for vary, some in found.values()
        for one in _varied(vary, some, defaults, default_run, "each" if own_rates else "default")
    ]
    return SweepPlan(list(once.values()), varied)


def _site(cell: Cell) -> tuple[str, str, str, str]:
    return cell.task, cell.backbone, cell.pattern, cell.variant


def _varied(
    vary: Vary, cells: Sequence[tuple[Any, Cell]], defaults: Sequence[Cell], run: RunSettings, rule: str
) -> Iterator[Varied]:
    """Yields an entry for each site at which some value of the setting makes another cell than the default."""
    usual = {cell.hash for cell in defaults}
    names = {cell.variant for _, cell in cells}
    places = dict.fromkeys((cell.task, cell.backbone) for _, cell in cells)
    for task, backbone in places:
        for site in choose(run.patterns, sites_of(task, backbone)):

            def is_here(cell: Cell, place: tuple[str, str, str] = (task, backbone, site)) -> bool:
                sites = cell.sites or (cell.pattern,)
                return (cell.task, cell.backbone) == place[:2] and place[2] in sites and cell.unsupported is None

            here = [(value, cell, False) for value, cell in cells if is_here(cell) and cell.hash not in usual]
            if not here:
                continue
            here += [(value_of(vary, cell), cell, True) for cell in defaults if is_here(cell) and cell.variant in names]
            references = [
                (None, cell, True)
                for cell in defaults
                if is_here(cell) and cell.variant in (REFERENCE, NOTHING) and cell.variant not in names
            ]
            yield Varied(
                task=task,
                backbone=backbone,
                pattern=site,
                preset=run.preset,
                key=vary.key,
                rates="varied" if vary.is_rate else rule,  # type: ignore[arg-type]
                varied=_by_value(here),
                references=_by_value(references),
            )


def _by_value(cells: Sequence[tuple[Any, Cell, bool]]) -> tuple[VariedCells, ...]:
    """Returns the cells with those of all seeds together."""
    together: dict[tuple[str, str, bool], list[tuple[Any, Cell]]] = {}
    for value, cell, is_default in cells:
        together.setdefault((cell.variant, repr(value), is_default), []).append((value, cell))
    return tuple(
        VariedCells(
            attention=name, value=some[0][0], is_default=is_default, hashes=tuple(cell.hash for _, cell in some)
        )
        for (name, _, is_default), some in together.items()
    )


def value_of(vary: Vary, cell: Cell) -> Any:
    """Returns the value that a cell has for a setting; None if it has no such setting."""
    path = vary.overrides[0].key.split(".")
    if vary.attention is not None:
        return cell.config["options"].get(path[-1])
    inner: Any = cell.config
    for part in path[1:] if vary.task is not None else path:
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner
