"""The file of claims: each claim in words, with its source and the one rule that gives its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from benchmark.settings.base import Settings
from benchmark.settings.messages import validate
from benchmark.settings.yaml_files import read_yaml

DEFAULT = Path(__file__).resolve().parents[3] / "configs" / "claims.yaml"
"""The paper's claims about LAVO."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
Words = Annotated[str, Field(min_length=1, max_length=1500)]


class Growth(Settings):
    """Time grows linearly with the length in each of these modes of a sweep, and the state has one size."""

    pattern: str = "causal_self"
    modes: tuple[str, ...] = Field(default=("forward", "backward"), min_length=1)


class Reach(Settings):
    """A sweep completes at a length in each of these modes, by a kernel that isn't IO-aware."""

    pattern: str = "causal_self"
    modes: tuple[str, ...] = Field(default=("forward", "backward"), min_length=1)
    length: int = Field(default=131_072, ge=1)
    plain_kernels: tuple[str, ...] = Field(min_length=1)  # kernels made of operations that aren't IO-aware


class Extrapolation(Settings):
    """Beyond the training length the loss stays lower, and rises less, than that of every other attention."""

    task: str = "language_modeling"
    backbone: str = "gpt"
    pattern: str = "causal_self"


class Ablation(Settings):
    """Parts of the attention matter: without one of them the headline metric is worse."""

    task: str
    backbone: str
    pattern: str
    without: dict[str, dict[str, bool | int | float | str]] = Field(min_length=1)  # part -> options that switch it off


class Site(Settings):
    """One pattern in a backbone."""

    task: str
    backbone: str
    pattern: str


class Sites(Settings):
    """At some sites the attention is better than every other linear attention and than ``none``."""

    parts: dict[str, tuple[Site, ...]] = Field(min_length=1)  # part of the claim -> its sites
    metric: str | None = None  # None: the task's first metric


class Slower(Settings):
    """Up to a length a sweep's time is above that of another attention, in each of these modes."""

    than: str
    pattern: str = "causal_self"
    modes: tuple[str, ...] = Field(default=("forward", "backward"), min_length=1)
    up_to: int = Field(default=512, ge=1)


class Diagnostic(Settings):
    """A table, mostly of recall, that shows what an attention can't do by construction.  It doesn't enter the verdict."""

    task: str
    backbone: str
    pattern: str
    metric: str | None = None  # None: the task's first metric
    shows: Words  # what follows from its figures, printed after them


RULES = ("growth", "reach", "extrapolation", "ablation", "sites", "slower")
"""The fields of ``Claim`` of which each claim has exactly one."""


class Claim(Settings):
    """One claim."""

    name: Name
    claim: Words
    source: Words
    growth: Growth | None = None
    reach: Reach | None = None
    extrapolation: Extrapolation | None = None
    ablation: Ablation | None = None
    sites: Sites | None = None
    slower: Slower | None = None
    limits: str = ""  # what the verdict doesn't say, whatever it is
    diagnostics: tuple[Diagnostic, ...] = ()
    to_measure: str = ""  # the command that measures what the rule needs

    @model_validator(mode="after")
    def _has_one_rule(self) -> Claim:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one rule of {', '.join(RULES)} is wanted; given: {', '.join(given) or 'none'}")
        return self


class ClaimsFile(Settings):
    """The claims about one attention."""

    attention: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    about: str = ""  # where the claims come from, printed above them
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_one_claim_of_a_name(self) -> ClaimsFile:
        names = [claim.name for claim in self.claims]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two claims have the name {twice}")
        return self


def read_claims(path: Path | None = None) -> ClaimsFile | None:
    """Reads a file of claims; without a path the paper's, or None where the installation has no such file.

    Raises ConfigError that names the file, the key and what is allowed.
    """
    if path is None and not DEFAULT.is_file():
        return None
    path = path or DEFAULT
    found: ClaimsFile = validate(ClaimsFile, read_yaml(path), lambda _: str(path))
    return found
