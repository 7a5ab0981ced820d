"""The options of each engine, ``--launcher-option key=value``, checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from benchmark.settings import Settings
from benchmark.settings.messages import ConfigError, shortened, validate

FLAG = "--launcher-option"
MINUTES = 24 * 60


class SlurmOptions(Settings):
    """Of ``--launcher slurm``; each worker is one job of an array.

    time             minutes that a job may take; a job that needs longer is requeued and goes on from its last checkpoint
    gpus, cpus       of one worker
    memory           of one worker, in GB; that of the partition if it is left out
    parallel         how many of the workers may run at the same time
    timeouts         how often a worker is requeued at its time limit; requeues after preemption don't count
    signal           seconds before the end of a job at which its cells are stopped
    sbatch           further options of sbatch, as ``sbatch.reservation=NAME``
    executor         submitit's: slurm, or local and debug for processes on this machine, to try a command out
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: int = Field(MINUTES, ge=1)
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    memory: float | None = Field(None, gt=0)
    parallel: int | None = Field(None, ge=1)
    timeouts: int = Field(100, ge=0)
    signal: int = Field(90, ge=1)
    sbatch: dict[str, str] = {}
    executor: Literal["slurm", "local", "debug"] = "slurm"

    @field_validator("sbatch")
    @classmethod
    def _names_of_options(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                raise ValueError("names of sbatch's long options are wanted, as sbatch.reservation=NAME")
        return value


class RayOptions(Settings):
    """Of ``--launcher ray``.

    address      of the cluster: ``auto`` for the one that this machine belongs to, HOST:PORT, or ``local`` to start one here
    gpus, cpus   of one worker; those of the node if they and --workers are left out, else no GPU and one CPU
    """

    address: str = Field("auto", pattern=r"^(auto|local|[\w.\[\]:-]+:[0-9]+|ray://.+)$")
    gpus: float | None = Field(None, ge=0)
    cpus: int | None = Field(None, ge=1)

    def for_workers(self, workers: int | None) -> RayOptions:
        """Returns the options with the CPUs and GPUs of a worker, unless it takes a whole node."""
        if workers is None and self.gpus is None and self.cpus is None:
            return self
        return self.model_copy(update={"gpus": self.gpus or 0, "cpus": self.cpus or 1})

    @field_validator("address")
    @classmethod
    def _no_client(cls, value: str) -> str:
        if value.startswith("ray://"):
            raise ValueError(
                "Ray's client is not supported; run the command on a machine of the cluster, with HOST:PORT"
            )
        return value


def options_in(model: type[Settings], texts: Sequence[str]) -> Any:
    """Reads texts such as ``gpus=1`` into the options of an engine.  Raises ConfigError that names the text and what is allowed."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise ConfigError(f"{FLAG} {shortened(text)!r}: must be key=value, as in {FLAG} cpus=4")
        group, dot, name = key.partition(".")
        inside = values.setdefault(group, {}) if dot else values
        if not isinstance(inside, dict):
            raise ConfigError(f"{FLAG} {shortened(text)!r}: {group} has the value {shortened(inside)!r} already")
        inside[name if dot else key] = value
    return validate(model, values, lambda key: f"{FLAG} {key}")
