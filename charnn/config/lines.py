"""Which lines are sampled from a model."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.settings import check, require, setting, switch, whole

LINES = "Lines"  # a section of the help
LENGTH = 2**20


@dataclass(frozen=True)
class LineConfig:
    """How many lines, and what each of them must be; lengths include the prefix.

    The model ends a line. It cannot end a line before ``min_length``; a line longer than
    ``max_length`` is sampled again.
    """

    count: int = 1
    prefix: str = setting("", "With --lines: beginning of every line.", section=LINES)
    min_length: int = whole(
        1, 1, LENGTH, "With --lines: lowest length in characters.", section=LINES
    )
    max_length: int = whole(
        1000,
        1,
        LENGTH,
        "With --lines: highest length in characters; longer lines are sampled again.",
        section=LINES,
    )
    unique: bool = switch("With --lines: no line twice.", section=LINES)

    def __post_init__(self) -> None:
        check(self)
        require(
            type(self.count) is int and 1 <= self.count <= 2**32,
            f"lines must be a whole number from 1 to {2**32}, got {self.count!r}",
        )
        require(
            self.min_length <= self.max_length,
            f"min_length {self.min_length} is above max_length {self.max_length}: no line fits",
        )
        require(
            "\n" not in self.prefix, "prefix must be the beginning of one line, without a newline"
        )
        require(
            len(self.prefix) <= self.max_length,
            f"the prefix has {len(self.prefix)} characters, and max_length is {self.max_length}: "
            "give a shorter prefix or a higher max_length",
        )
