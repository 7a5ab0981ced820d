"""The models of settings: training, attentions with their options, runs, and overrides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr, field_validator, model_validator

from benchmark.interface import PRESETS
from benchmark.registry import (
    check_name,
    nearest,
)
from benchmark.settings import Settings
from benchmark.settings.messages import ConfigError


class TrainSettings(Settings):
    """Settings of training, the same for every task.  A step is one update of the weights, of one or more micro-batches."""

    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=1)  # examples in a step, summed over all processes and micro-batches
    # Examples computed at once, to save memory.  Batch norms take the statistics of these examples; no other result depends on it.
    micro_batch_size: int | None = Field(default=None, ge=1)
    eval_batch_size: int = Field(default=32, ge=1)
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt", "exponential"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final_ratio: float = Field(default=0.0, ge=0, le=1)  # the lowest learning rate, as a share of the highest
    decay: float = Field(default=0.5, gt=0, le=1)  # for the exponential schedule: the factor after every decay_epochs
    decay_epochs: float = Field(default=1, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    eval_every: int | None = Field(default=None, ge=1)  # steps between validations; None: one epoch
    patience: int | None = Field(default=None, ge=1)  # validations without an improvement before training stops
    # Number of torch's threads on a CPU.  It changes the last bits of sums, so it is a setting, which --jobs leaves alone.
    threads: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=200, ge=1)  # steps between resumable checkpoints
    # How several processes (torchrun) share a training: each takes whole examples, and holds all weights (data) or a share of them
    # (fsdp); or each takes a part of every sequence.  Dumps and hashes leave it out, like the number of processes, because it
    # doesn't change the result.
    parallel: Literal["data", "fsdp", "sequence"] = Field(default="data", exclude=True)

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("two numbers from 0 to below 1")
        return betas

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs}: give exactly one of the two, null for the other"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is larger than batch_size {self.batch_size}")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than steps {self.steps}")
        return self


class AttentionSpec(Settings):
    """An attention of a run file, with its options and its name in tables."""

    name: str
    label: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, content: Any) -> Any:
        """``lavo`` is short for ``{name: lavo}``."""
        return {"name": content} if isinstance(content, str) else content

    @field_validator("label")
    @classmethod
    def _label_is_a_name(cls, label: str | None) -> str | None:
        return label if label is None else check_name(label, "label")

    @property
    def variant(self) -> str:
        """The attention's name in tables."""
        return self.label or self.name


class RunSettings(Settings):
    """One run, as a run file describes it, or the command line by options of the same names."""

    tasks: list[str] = Field(default=["all"], min_length=1)
    backbones: list[str] | None = Field(default=None, min_length=1)
    patterns: list[str] | None = Field(default=None, min_length=1)
    attentions: list[AttentionSpec] = Field(default=[AttentionSpec(name="all")], min_length=1)
    preset: str = "quick"
    seeds: list[int] | None = None
    limit: int | None = Field(default=None, ge=1)
    data_root: Path | None = None
    set: dict[str, Any] = {}
    _origin: str = PrivateAttr(default="")

    @property
    def origin(self) -> str:
        """The file and the number of the run in it; empty for a run from the command line."""
        return self._origin

    @contextmanager
    def located(self) -> Iterator[None]:
        """Adds the file's name to errors raised inside, unless they already begin with it or with an option."""
        try:
            yield
        except ValueError as error:
            if not self.origin or str(error).startswith((self.origin, "-")):
                raise
            raise ConfigError(f"{self.origin}: {error}") from error

    def with_origin(self, origin: str) -> RunSettings:
        """Returns a copy of the run with this ``origin``."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and (not seeds or any(seed < 0 or seed >= 2**32 for seed in seeds)):
            raise ValueError("one or more whole numbers from 0 to 2^32 - 1")
        return None if seeds is None else list(dict.fromkeys(seeds))

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"unknown{nearest(preset, PRESETS)}; allowed: {', '.join(PRESETS)}")
        return preset

    @field_validator("data_root")
    @classmethod
    def _root_exists(cls, root: Path | None) -> Path | None:
        if root is not None and not root.is_dir():
            raise ValueError("no such folder; one with lm/, lstf/, … is wanted")
        return root


class RunFile(RunSettings):
    """A YAML file with one run, or with several that share the settings beside ``runs``."""

    runs: list[dict[str, Any]] = []


class Override(NamedTuple):
    """A setting that replaces the preset's, and where the user wrote it."""

    key: str
    value: Any
    origin: str
