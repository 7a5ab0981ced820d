"""Tuned learning rates: files in configs/tuned/ with every rate that was tried, and the one that was best on validation data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field

from benchmark.files import write_bytes
from benchmark.settings.base import Settings
from benchmark.settings.cell import digest, without_places
from benchmark.settings.messages import validate
from benchmark.settings.shipped import CONFIGS, IS_INSTALLED
from benchmark.settings.yaml_files import read_yaml

FOLDER = CONFIGS / "tuned"
"""The files that came with this code."""

OWN = Path("configs") / "tuned"
"""The files of the current folder.  An installation writes there, because its own folder may be shared or read-only."""

HEADER = (
    "# Learning rates by `lavo-bench tune`, chosen on validation data.  `tried`: rate and validation value, null if it diverged.\n"
    "# `lavo-bench run` uses a rate where task, sites, attention, data and all other settings are the same.\n"
)


MOST_RATES = 6
"""Rates tried for one attention, after which the grid is no longer extended."""


class RateKey(NamedTuple):
    """What must be equal for a tuned rate to be used."""

    backbone: str
    sites: tuple[str, ...]
    attention: str
    data: str  # SHA-256 of the data
    settings: str  # digest of all settings but the learning rate, and of the versions of task and attention

    @classmethod
    def of(
        cls,
        *,
        backbone: str,
        sites: Iterable[str],
        attention: str,
        config: Mapping[str, Any],
        fingerprint: str,
    ) -> RateKey:
        """Returns the key of a cell with this configuration, whatever its learning rate."""
        train = {name: value for name, value in config["train"].items() if name != "learning_rate"}
        settings = digest(without_places({**config, "train": train}))
        return cls(backbone, tuple(sites), attention, fingerprint, settings)


class Chosen(Settings):
    """The learning rate of one attention at some sites, and what was tried."""

    backbone: str
    sites: tuple[str, ...]
    attention: str
    data: str
    settings: str
    seed: int
    learning_rate: float = Field(gt=0)
    grid: tuple[float, ...] = ()  # the rates of the grid before it was extended; empty in a file written by hand
    tried: tuple[tuple[float, float | None], ...]  # rate and value on validation data

    @property
    def key(self) -> RateKey:
        """What must be equal for this rate to be used."""
        return RateKey(self.backbone, self.sites, self.attention, self.data, self.settings)


class Verified(Settings):
    """Softmax and the control ``none`` at one site after twice the steps: a value on validation data for each seed."""

    backbone: str
    site: str
    data: str
    steps: int = Field(ge=1)  # twice those of the preset, or its epochs
    metric: str
    higher_is_better: bool
    settings: str = ""  # ``settings_of_site``
    learning_rates: tuple[float, ...] = ()  # of softmax and of none
    seeds: tuple[int, ...]
    softmax: tuple[float, ...]
    none: tuple[float, ...]


class TunedFile(Settings):
    """One file of ``configs/tuned``: one task at one preset."""

    task: str
    preset: str
    metric: str
    higher_is_better: bool
    chosen: tuple[Chosen, ...] = ()
    verified: tuple[Verified, ...] = ()


class Rates:
    """The tuned rates of some files."""

    def __init__(self, files: Iterable[TunedFile] = ()) -> None:
        self.files = tuple(files)
        self._rates = {
            (file.task, one.key): one.learning_rate
            for file in self.files
            for one in file.chosen
            if _is_made(one, higher_is_better=file.higher_is_better)
        }

    def chosen(self, task: str, key: RateKey) -> float | None:
        """Returns the rate that was chosen for cells of this key; None if none was, or if tuning ended before its grid did."""
        return self._rates.get((task, key))


def read_rates(folder: Path | None = None) -> Rates:
    """Returns the rates of all files in a folder; none if there is no such folder.

    Without a folder, they are the rates that ``run`` uses unless it is told otherwise: those that came with this code and,
    in an installation, those of the current folder, which win.  Raises ConfigError for a damaged file.
    """
    return Rates(read_tuned(path) for path in tuned_files(folder))


def tuned_files(folder: Path | None = None) -> list[Path]:
    """Returns the files of a folder, or those that are read if none is named: where two differ, the later one counts."""
    if folder is not None:
        return _files_in(folder)
    return [*_files_in(FOLDER), *(_files_in(OWN) if IS_INSTALLED else [])]


def writing_folder() -> Path:
    """Returns the folder into which ``tune`` writes if it is told no other."""
    return OWN if IS_INSTALLED else FOLDER


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.yaml")) if not path.name.startswith(".")]


def file_of(folder: Path, task: str, preset: str) -> Path:
    """Returns the file with the rates of a task at a preset."""
    return folder / f"{preset}.{task}.yaml"


def read_tuned(path: Path) -> TunedFile:
    """Reads one file.  Raises ConfigError that names the file and the key."""
    return validate(TunedFile, read_yaml(path), lambda _: str(path))


def write_tuned(path: Path, file: TunedFile) -> None:
    """Writes one file; equal content gives equal bytes."""
    content = file.model_dump(mode="json")
    content["chosen"].sort(key=_order)
    content["verified"].sort(key=_order)
    text = yaml.dump(content, Dumper=_Compact, sort_keys=False, allow_unicode=True, width=160)
    write_bytes(path, (HEADER + text).encode())


def _order(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry.get(key, "")) for key in ("backbone", "sites", "site", "attention", "data", "settings"))


class _Compact(yaml.SafeDumper):
    """Writes lists of plain values on one line."""


def _sequence(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    inner = any(isinstance(value, Mapping) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=not inner)


_Compact.add_representer(list, _sequence)


def settings_of_site(config: Mapping[str, Any]) -> str:
    """Returns a digest of the settings that softmax and ``none`` share at a site, whatever the steps and learning rates."""
    train = {k: v for k, v in config["train"].items() if k not in ("steps", "epochs", "learning_rate")}
    parts = {name: config[name] for name in ("data", "model", "eval")}
    return digest(without_places({**parts, "train": train, "limit": config.get("limit")}))


def best_rate(tried: Mapping[float, float | None], *, higher_is_better: bool) -> float | None:
    """Returns the rate with the best value, the lower of two equal ones; None if training diverged at every rate."""
    sign = -1 if higher_is_better else 1
    known = {rate: value for rate, value in tried.items() if value is not None and math.isfinite(value)}
    return min(sorted(known), key=lambda rate: sign * known[rate]) if known else None


def next_rates(
    tried: Mapping[float, float | None], grid: Iterable[float], *, higher_is_better: bool, most: int
) -> list[float]:
    """Returns the rates to try next: those of the grid, then one beyond the edge on which the best lies.

    most: number of rates after which an edge is no longer extended.  Returns an empty list when the choice is made.
    """
    waiting = [rate for rate in grid if rate not in tried]
    if waiting or len(tried) >= most or len(tried) < 2:  # a single rate, written by hand, has no edges
        return waiting
    best, ordered = best_rate(tried, higher_is_better=higher_is_better), sorted(tried)
    if best is None:
        return [rounded(ordered[0] * ordered[0] / ordered[1])]  # everything diverged, so a lower one is tried
    if best == ordered[0]:
        return [rounded(best * best / ordered[1])]
    return [rounded(best * best / ordered[-2])] if best == ordered[-1] else []


def _is_made(chosen: Chosen, *, higher_is_better: bool) -> bool:
    """Returns whether the choice is final.  The best rate so far of a tuning that was cut off may lie at the edge of its grid."""
    most = max(MOST_RATES, len(chosen.grid))
    return not next_rates(dict(chosen.tried), chosen.grid, higher_is_better=higher_is_better, most=most)


def rounded(rate: float) -> float:
    """Returns the rate with three digits, so that a file is easy to read and factors of a grid meet again."""
    return float(f"{rate:.3g}")
