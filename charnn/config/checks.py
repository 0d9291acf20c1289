"""What every setting is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from charnn.errors import ConfigError

MAX_SEED = 2**32 - 1

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Raises ConfigError unless `value` is a whole number from `low` to `high`."""
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    require(good, f"{name} must be a whole number from {low} to {high}, got {value!r}")


def require_number(name: str, value: object, low: float, high: float) -> None:
    """Raises ConfigError unless `value` is a number from `low` to `high`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = number and low <= value <= high  # type: ignore[operator]  # a number, as just asked
    require(good, f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def require_text(name: str, value: object) -> None:
    """Raises ConfigError unless `value` is a string that is not empty."""
    good = isinstance(value, str) and value != ""
    require(good, f"{name} must be a string of at least one character, got {value!r}")


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass by the names of its fields.

    Raises:
        ConfigError: a setting is missing, unknown or out of range.
    """
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # only dataclasses come here
    unknown = sorted(set(values) - known)
    require(not unknown, f"unknown settings: {', '.join(map(str, unknown))}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"incomplete settings: {error}") from None
