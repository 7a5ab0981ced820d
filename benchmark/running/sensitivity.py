"""The work of ``lavo-bench sweep``: trains what a sweep over settings lacks, each value with the same budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmark.files import write_bytes
from benchmark.running import command, runner
from benchmark.running.tune import Tuner
from benchmark.settings.choices import choose_tasks
from benchmark.settings.messages import ConfigError, shown
from benchmark.settings.models import Override, RunSettings
from benchmark.settings.tuned import Rates, file_of, read_rates, tuned_files
from benchmark.settings.varied import add_varied
from benchmark.settings.vary import SweepPlan, SweepRuns, Vary, plan_sweep, sweep_runs

Say = Callable[[str], None]


class Sweeper:
    """Plans and trains a sweep.

    place    for the records, which are ordinary ones
    rates    folder of tuned learning rates; None for those that ``run`` uses
    trials   folder for the records of ``--tune``, and for the rates that it chooses
    """

    def __init__(self, place: runner.Place, rates: Path | None, trials: Path, console: Console, say: Say) -> None:
        self.place, self.rates, self.trials, self.console, self.say = place, rates, trials, console, say

    def sweep(
        self,
        run: RunSettings,
        overrides: Sequence[Override],
        varies: Sequence[Vary],
        *,
        jobs: int | None,
        retry_failed: bool = False,
        grid: Sequence[float] | None = None,
    ) -> int:
        """Trains all cells that have no record yet, in one pool.  Returns the exit status: 1 if a cell has failed, else 0.

        grid: if given, each value gets its own learning rate, chosen on validation data from these factors of the preset's.
        """
        runs = sweep_runs(run, overrides, varies)
        plan_sweep(runs, self.place.cache, read_rates(self.rates))  # finds mistakes before any trial is trained
        if grid is not None:
            rated = next((vary.key for vary in varies if vary.is_rate), None)
            if rated is not None:
                raise ConfigError(f"--tune: {rated} is varied, so it can't be tuned as well")
            rates = self._tuned(runs, grid, jobs)
        else:
            rates = read_rates(self.rates)
        plan = plan_sweep(runs, self.place.cache, rates, own_rates=grid is not None)
        for line in in_words(plan):
            self.say(line)
        add_varied(self.place.output, plan.varied)
        redo = runner.Redo(failed=retry_failed)
        return command.run_cells_of(plan.cells, self.place, self.console, self.say, jobs=jobs, redo=redo)

    def _tuned(self, runs: SweepRuns, grid: Sequence[float], jobs: int | None) -> Rates:
        """Chooses the rate of each value, and of the defaults, by the rules of ``lavo-bench tune``."""
        place = replace(self.place, output=self.trials, part="validation", log=())
        folder = self.trials / "tuned"
        for run, _ in runs.all[:1]:
            for task in run.tasks:
                self._begin_with_known_rates(folder, task, run.preset)
        tuner = Tuner(
            place, folder, lambda cells: command.train_missing(cells, place, self.console, jobs=jobs), self.say
        )
        tuner.tune(runs.all, grid)
        return read_rates(folder)

    def _begin_with_known_rates(self, folder: Path, task: str, preset: str) -> None:
        """Copies the file with the rates of the defaults, so that their trials are not repeated."""
        for name in choose_tasks([task]):
            own = file_of(folder, name, preset)
            known = [file for file in tuned_files(self.rates) if file.name == own.name]
            if known and not own.exists():
                write_bytes(own, known[-1].read_bytes())


RULES = {
    "default": "the learning rate of the default",
    "each": "a learning rate of its own, from one grid, chosen on validation",
    "varied": "the learning rate that it names",
}


def in_words(plan: SweepPlan) -> list[str]:
    """Returns a line for each sweep at each site: the values, and the budget that all of them have."""
    cells = {cell.hash: cell for cell in plan.cells}
    lines = []
    for one in plan.varied:
        values = dict.fromkeys(f"{shown(c.value)} (default)" if c.is_default else shown(c.value) for c in one.varied)
        train = cells[one.varied[0].hashes[0]].config["train"]
        steps = f"{train['steps']} steps" if train["steps"] is not None else f"{train['epochs']} epochs"
        seeds = max(len(c.hashes) for c in one.varied)
        lines.append(
            f"{one.task}/{one.backbone}.{one.pattern}: {one.key} = {', '.join(values)}; each value has {seeds} "
            f"seed{'s' if seeds != 1 else ''}, {steps} and {RULES[one.rates]}"
        )
    return lines
