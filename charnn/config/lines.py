"""Which lines are to be drawn from a model."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.checks import require, require_int

LINE_TRIES = 1000  # for one line; whoever asks for what the model does not write gets an end
LINE_TOKENS = 100_000  # of all tries for one line together


@dataclass(frozen=True)
class LineConfig:
    """How many lines, and what each of them must be; lengths are in characters, prefix included.

    ``unique`` wants no line twice. A line ends where the model ends it: one that would be shorter
    than ``min_length`` is not let end before, one that would be longer than ``max_length`` is
    drawn again.
    """

    count: int = 1
    prefix: str = ""
    min_length: int = 1
    max_length: int = 1000
    unique: bool = False

    def __post_init__(self) -> None:
        require_int("lines", self.count, 1, 2**32)
        require_int("min_length", self.min_length, 1, 2**20)
        require_int("max_length", self.max_length, 1, 2**20)
        require(
            self.min_length <= self.max_length,
            f"min_length {self.min_length} is above max_length {self.max_length}: no line fits",
        )
        require(
            "\n" not in self.prefix, "prefix must be the beginning of one line, without a newline"
        )
        require(
            len(self.prefix) <= self.max_length,
            f"the prefix has {len(self.prefix)} characters, and max_length is {self.max_length}",
        )
