"""The strict base of every settings model: unknown keys are refused, values are frozen, and yes is no number."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """A group of settings; tasks and the engine derive theirs from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` and ``on`` as true, and pydantic true as 1: ``steps: yes`` would train one step."""
        annotation = str(cls.model_fields[info.field_name or ""].annotation)
        values = value if isinstance(value, list | tuple) else [value]
        if (
            any(isinstance(one, bool) for one in values)
            and re.search(r"\b(int|float)\b", annotation)
            and "bool" not in annotation
        ):
            raise ValueError("a number is wanted, not true or false (which yes, no, on and off are in YAML)")
        return value
