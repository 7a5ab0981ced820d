"""The strict base of every settings model: unknown keys are refused, values are frozen and never coerced from text."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings; tasks and the engine derive theirs from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False, validate_default=True)
