"""The settings of recall: which families, how hard, and how large the model of each is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from benchmark.settings import Settings
from tasks.recall.families import FAMILIES

Difficulty = tuple[int, int]  # pairs, length


class Sizes(Settings):
    """The difficulties of one family, as [pairs, length].

    pairs   what must be remembered: pairs, words or facts; in state tracking, the number of places that are asked
    length  words of the sequence, or of the source in cross-attention; what is left beside the pairs is filled up
    """

    train: tuple[Difficulty, ...] = Field(min_length=1)  # each takes an equal share of the training texts
    test: tuple[Difficulty, ...] = Field(
        min_length=1
    )  # the figures are those of the ones in ``train``; curves have all

    @model_validator(mode="after")
    def _trained_ones_are_tested(self) -> Sizes:
        for name in ("train", "test"):
            for pairs, length in getattr(self, name):
                if pairs < 1 or length < 1:
                    raise ValueError(f"{name} [{pairs}, {length}]: pairs and length are at least 1")
        if not set(self.train) & set(self.test):
            raise ValueError(f"test {_plain(self.test)} has none of train {_plain(self.train)}: figures need one")
        return self


def _plain(difficulties: tuple[Difficulty, ...]) -> list[list[int]]:
    return [list(difficulty) for difficulty in difficulties]


class DataSettings(Settings):
    """The families and their sizes.  Families that the cell's pattern doesn't have are left out."""

    families: tuple[str, ...] = Field(min_length=1)
    vocab_size: int = Field(default=128, ge=20, multiple_of=2)
    num_train: int = Field(default=4096, ge=1)  # texts of each family
    num_validation: int = Field(default=64, ge=1)  # texts of each family and difficulty
    num_test: int = Field(default=128, ge=1)  # texts of each difficulty that is trained
    num_curve: int = Field(default=64, ge=1)  # test texts of each other difficulty
    seed: int = Field(default=0, ge=0)
    mqar: Sizes = Sizes(train=((4, 32),), test=((4, 32),))
    fused: Sizes = Sizes(train=((8, 16),), test=((8, 16),))
    fused_far: Sizes = Sizes(train=((4, 72),), test=((4, 72),))
    fuzzy: Sizes = Sizes(train=((4, 24),), test=((4, 24),))
    induction: Sizes = Sizes(train=((4, 32),), test=((4, 32),))
    selective_copy: Sizes = Sizes(train=((4, 24),), test=((4, 24),))
    compression: Sizes = Sizes(train=((4, 5),), test=((4, 5),))
    memorisation: Sizes = Sizes(train=((8, 8),), test=((8, 8),))
    parity: Sizes = Sizes(train=((8, 16),), test=((8, 16),))
    permutations: Sizes = Sizes(train=((8, 16),), test=((8, 16),))

    @field_validator("families")
    @classmethod
    def _families_exist(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for family in families:
            if family not in FAMILIES:
                raise ValueError(f"{family!r}: unknown; allowed: {', '.join(FAMILIES)}")
        return tuple(dict.fromkeys(families))


class ModelSettings(Settings):
    """Sizes of the probe; each family has one of its own."""

    embed_dim: int = Field(default=64, ge=1)
    num_layers: int = Field(default=1, ge=1)  # at least; a family that needs two gets two
    num_heads: int = Field(default=2, ge=1)
    feed_forward_dim: int | None = Field(
        default=128, ge=1
    )  # None: layers have no feed-forward part, as in Zoology's figure 2
    shift: int | None = Field(
        default=None, ge=0
    )  # words before its own that a place sees; None: as many as its family needs
    positions: Literal["needed", "all"] = "needed"  # learned ones, for families that need them, or for all
    encoder_dim: int | None = Field(
        default=None, ge=1
    )  # of a feed-forward layer before the attention; None: no such layer

    @model_validator(mode="after")
    def _widths_divide(self) -> ModelSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self


class EvalSettings(Settings):
    """Which families the headline is the mean of: those that exact softmax solves with these settings."""

    solvable: tuple[str, ...] = ()  # all that the cell has, if empty


class RecallSettings(Settings):
    """All settings of ``probe``."""

    data: DataSettings
    model: ModelSettings = ModelSettings()
    eval: EvalSettings = EvalSettings()
