"""How text is drawn from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charnn.config.checks import build, require, require_int, require_number
from charnn.config.model import MAX_VOCAB_SIZE

# How many tokens one continuation at the desk has: a paragraph to look at.
DESK_TOKENS = 200


@dataclass(frozen=True)
class SamplingConfig:
    """How text is drawn from a model: its length, the filters on each choice, where it stops.

    A temperature of 0 always takes the likeliest token; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and
    ``repetition_penalty`` 1 are off. ``stop`` strings end the text and are no part of it.
    """

    max_tokens: int = 500
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_int("max_tokens", self.max_tokens, 0, 2**40)
        require_number("temperature", self.temperature, 0.0, 1000.0)
        require_int("top_k", self.top_k, 0, MAX_VOCAB_SIZE)
        require_number("top_p", self.top_p, 0.0, 1.0)
        require_number("min_p", self.min_p, 0.0, 1.0)
        require_number("repetition_penalty", self.repetition_penalty, 0.1, 10.0)
        for stop in self.stop:
            require(stop != "", "stop must be a string of at least one character, got ''")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingConfig:
        """Settings by name; what is left out has its default.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        return build(cls, values)
