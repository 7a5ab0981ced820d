"""The work of ``lavo-bench tune``: chooses learning rates on validation data, and verifies sites at twice the steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.interface import NOTHING, REFERENCE
from benchmark.registry import load_task
from benchmark.results import Record, read_record
from benchmark.running import runner
from benchmark.settings.cell import Cell
from benchmark.settings.command import Run
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import Planned, Planner, is_exact, planned
from benchmark.settings.tuned import (
    MOST_RATES,
    Chosen,
    RateKey,
    Rates,
    TunedFile,
    Verified,
    best_rate,
    file_of,
    next_rates,
    read_tuned,
    rounded,
    settings_of_site,
    write_tuned,
)

GRID = (1 / 3, 1.0, 3.0)
"""Factors of the preset's learning rate that are tried for every attention."""

RunCells = Callable[[Sequence[Cell]], None]
Say = Callable[[str], None]
Tried = dict[RateKey, dict[float, float | None]]
"""The rates that were tried for each attention, with the value on validation data, or None where training diverged."""


class Contender(NamedTuple):
    """One attention at some sites, whose rate is to be chosen."""

    run: RunSettings
    one: Planned
    key: RateKey

    def grid(self, factors: Sequence[float]) -> list[float]:
        """Returns the rates that are tried first."""
        return [rounded(self.one.settings.train.learning_rate * factor) for factor in factors]


class Site(NamedTuple):
    """One site whose attention was verified."""

    task: str
    preset: str
    backbone: str
    name: str
    data: str
    steps: int
    settings: str  # ``settings_of_site``


class Tuner:
    """Runs trials (cells that are judged on validation data) and keeps what they gave in the files of ``folder``.

    run_cells   trains cells and writes their records into ``place.output``
    folder      of the files with the rates
    """

    def __init__(self, place: runner.Place, folder: Path, run_cells: RunCells, say: Say) -> None:
        assert place.part == "validation"
        self.place, self.folder, self.run_cells, self.say = place, folder, run_cells, say
        self.planner = Planner(place.cache, Rates())

    def tune(self, runs: Sequence[Run], factors: Sequence[float] = GRID) -> int:
        """Chooses the rate of every attention of the runs.  Returns the exit status: 1 if one has no rate, else 0.

        The seed is the first of each run.  A choice at the edge of the grid extends the grid.
        """
        contenders = list(self._contenders(runs))
        tried = {one.key: self._tried_before(one) for one in contenders}
        failed: set[RateKey] = set()  # a trial has no result, so the search can't go on
        while waiting := self._next_trials([one for one in contenders if one.key not in failed], tried, factors):
            self.run_cells([cell for _, _, cell in waiting])
            for contender, rate, cell in waiting:
                record = self._record(cell)
                if record is None or not (record.is_completed or runner.has_diverged(record)):
                    failed.add(contender.key)
                else:
                    tried[contender.key][rate] = record.value(load_task(contender.one.task).selection)
            self._write(contenders, tried, factors)
        self._write(contenders, tried, factors)
        return self._sum_up(contenders, tried, failed)

    def verify(self, runs: Sequence[Run], rates: Rates) -> int:
        """Trains softmax and the control at each site for twice the steps, over all seeds, and stores what they gave."""
        doubled = [(contender, self._doubled(contender, rates)) for contender in self._for_verification(runs)]
        self.run_cells([cell for _, cell in doubled])
        values: dict[Site, dict[str, dict[int, float]]] = {}
        learning_rates: dict[tuple[Site, str], float] = {}
        is_missing = False
        for contender, cell in doubled:
            one, train = contender.one, cell.config["train"]
            record = self._record(cell)
            value = None if record is None else record.value(headline(one.task))
            if value is None:
                is_missing = True
                continue
            for name in one.sites:
                steps = train["steps"] or train["epochs"]
                settings = settings_of_site(cell.config)
                site = Site(one.task, contender.run.preset, one.backbone, name, contender.key.data, steps, settings)
                values.setdefault(site, {}).setdefault(one.spec.name, {})[one.seed] = value
                learning_rates[site, one.spec.name] = train["learning_rate"]
        for site, found in values.items():
            if len(found) == 2:
                self._store(site, found, (learning_rates[site, REFERENCE], learning_rates[site, NOTHING]))
        return 1 if is_missing else 0

    def _contenders(self, runs: Sequence[Run]) -> Iterable[Contender]:
        """Yields each attention at each site once, at the first seed; exact attentions share the rates of softmax."""
        seen: set[tuple[str, RateKey]] = set()
        for run, overrides in runs:
            for one in planned(run, overrides):
                if is_exact(one.spec.name) and one.spec.name != REFERENCE:
                    continue
                contender = Contender(run, one, self.planner.rate_key(one, run))
                if (one.task, contender.key) in seen or self.planner.cell(one, run).unsupported is not None:
                    continue
                seen.add((one.task, contender.key))
                yield contender

    def _for_verification(self, runs: Sequence[Run]) -> Iterable[Contender]:
        for run, overrides in runs:
            for one in planned(run, overrides):
                if one.spec.name in (REFERENCE, NOTHING):
                    yield Contender(run, one, self.planner.rate_key(one, run))

    def _next_trials(
        self,
        contenders: Sequence[Contender],
        tried: Tried,
        factors: Sequence[float],
    ) -> list[tuple[Contender, float, Cell]]:
        waiting = []
        for contender in contenders:
            one = contender.one
            rates = next_rates(
                tried[contender.key],
                contender.grid(factors),
                higher_is_better=_selection(one.task).higher_is_better,
                most=max(MOST_RATES, len(factors)),
            )
            waiting += [(contender, rate, self.planner.cell(one, contender.run, learning_rate=rate)) for rate in rates]
        return waiting

    def _doubled(self, contender: Contender, rates: Rates) -> Cell:
        """Returns the cell with twice the steps, at the rate that was chosen for the preset's own steps."""
        one, train = contender.one, contender.one.settings.train
        twice = {name: 2 * value for name in ("steps", "epochs") if (value := getattr(train, name)) is not None}
        settings = one.settings._replace(train=train.model_copy(update=twice))
        rate = rates.chosen(one.task, contender.key)
        return self.planner.cell(one._replace(settings=settings), contender.run, learning_rate=rate)

    def _record(self, cell: Cell) -> Record | None:
        """Returns the record of a trial, or None if it was not run; says why it has no value."""
        path = cell.path(self.place.output)
        record: Record | None = read_record(path) if path.is_file() else None
        if record is None or not record.is_completed:
            self.say(f"{cell.title}: {record.reason if record is not None else 'not run'}")
        return record

    def _file(self, task: str, preset: str) -> TunedFile:
        """Returns what the file holds, or an empty one if there is none, or if its values are of another metric than the task selects by."""
        path, selection = file_of(self.folder, task, preset), load_task(task).selection
        if path.is_file() and (file := read_tuned(path)).metric == selection:
            return file
        higher = _selection(task).higher_is_better
        return TunedFile(task=task, preset=preset, metric=selection, higher_is_better=higher)

    def _tried_before(self, contender: Contender) -> dict[float, float | None]:
        for chosen in self._file(contender.one.task, contender.run.preset).chosen:
            if chosen.key == contender.key:
                return dict(chosen.tried)
        return {}

    def _write(self, contenders: Sequence[Contender], tried: Tried, factors: Sequence[float]) -> None:
        """Writes what was tried so far.

        Entries of other settings for the same attention, sites and data are left out, unless they are among these
        contenders: the rows of one run may differ in options.
        """
        files = {(one.one.task, one.run.preset) for one in contenders}
        for task, preset in files:
            file = self._file(task, preset)
            mine = [one for one in contenders if (one.one.task, one.run.preset) == (task, preset)]
            keys = {one.key for one in mine}
            places = {_place(key) for key in keys}
            entries = {one.key: one for one in file.chosen if one.key in keys or _place(one.key) not in places}
            for contender in mine:
                values = tried[contender.key]
                rate = best_rate(values, higher_is_better=file.higher_is_better)
                if rate is not None:
                    entries[contender.key] = Chosen(
                        **contender.key._asdict(),
                        learning_rate=rate,
                        seed=contender.one.seed,
                        grid=tuple(sorted(contender.grid(factors))),
                        tried=tuple(sorted(values.items())),
                    )
            write_tuned(file_of(self.folder, task, preset), file.model_copy(update={"chosen": tuple(entries.values())}))

    def _store(self, site: Site, found: Mapping[str, Mapping[int, float]], learning_rates: tuple[float, float]) -> None:
        softmax, nothing = found[REFERENCE], found[NOTHING]
        seeds = tuple(seed for seed in softmax if seed in nothing)
        metric = headline(site.task)
        verified = Verified(
            backbone=site.backbone,
            site=site.name,
            data=site.data,
            steps=site.steps,
            metric=metric,
            higher_is_better=load_task(site.task).metrics[metric].higher_is_better,
            settings=site.settings,
            learning_rates=learning_rates,
            seeds=seeds,
            softmax=tuple(softmax[seed] for seed in seeds),
            none=tuple(nothing[seed] for seed in seeds),
        )
        file = self._file(site.task, site.preset)
        mine = (site.backbone, site.name, site.data, site.settings)
        others = [one for one in file.verified if (one.backbone, one.site, one.data, one.settings) != mine]
        path = file_of(self.folder, site.task, site.preset)
        write_tuned(path, file.model_copy(update={"verified": (*others, verified)}))

    def _sum_up(self, contenders: Sequence[Contender], tried: Tried, failed: Collection[RateKey]) -> int:
        without = 0
        for contender in contenders:
            one, values = contender.one, tried[contender.key]
            rate = best_rate(values, higher_is_better=_selection(one.task).higher_is_better)
            without += rate is None or contender.key in failed
            shown = "no rate works" if rate is None else f"{rate:g} of {', '.join(f'{r:g}' for r in sorted(values))}"
            if contender.key in failed:
                shown = "a trial failed, so no rate is chosen; the same command tries it again"
            self.say(f"{one.task}/{one.backbone}.{one.pattern}.{one.spec.label or one.spec.name}: {shown}")
        return 1 if without else 0


def headline(task: str) -> str:
    """Returns the name of the task's first metric."""
    return next(iter(load_task(task).metrics))


def _selection(task: str) -> Any:
    cls = load_task(task)
    return cls.metrics[cls.selection]


def _place(key: RateKey) -> tuple[Any, ...]:
    """Returns what an entry is about: the same attention on the same data, whatever its settings were."""
    return key.backbone, key.sites, key.attention, key.data
