"""The strict base class of all settings models: it refuses unknown keys and booleans for numbers; values are frozen."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """A group of settings; the engine and every task derive their own groups from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses a boolean where a number is wanted.

        YAML reads ``yes`` and ``on`` as true, and pydantic reads true as 1, so ``steps: yes`` would train one step.
        """
        types = _types_in(cls.model_fields[info.field_name or ""].annotation)
        values = value if isinstance(value, list | tuple) else [value]
        if bool not in types and types & {int, float} and any(isinstance(one, bool) for one in values):
            raise ValueError("a number is wanted, not true or false (YAML reads yes, no, on and off as these)")
        return value


def _types_in(annotation: Any) -> set[Any]:
    """Returns the plain types in an annotation, such as str, int and NoneType in ``dict[str, int | None]``."""
    inner = get_args(annotation)
    return {annotation} if not inner else {kind for part in inner for kind in _types_in(part) if isinstance(kind, type)}
