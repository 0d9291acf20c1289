"""How a text is looked at: what is reported, and how weights adapt while they are scored."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.checks import require, require_int, require_number

SCORE_UNITS = ("token", "word", "line", "document")
RESETS = ("line", "document", "never")
MAX_TOP = 100
DYNAMIC_RULES = ("rms", "sgd")
# The lowest mean over parts of two texts, Python's sources and names of villages, of which neither
# is reported; three times as much makes one of them worse than fixed weights.
DYNAMIC_RATES = {"rms": 3e-4, "sgd": 0.01}
HELD_OUT_CHARS = 200_000  # of each model's validation split, to calibrate a comparison on


@dataclass(frozen=True)
class DynamicConfig:
    """Dynamic evaluation: after each `segment` tokens, a step of `rate` down their gradient.

    `decay` is the share of the way back to the weights as they were, at each step.
    """

    rule: str = "rms"
    rate: float = DYNAMIC_RATES["rms"]
    segment: int = 20
    decay: float = 0.002

    def __post_init__(self) -> None:
        require(
            self.rule in DYNAMIC_RULES,
            f"the rule must be one of {', '.join(DYNAMIC_RULES)}, got {self.rule!r}",
        )
        require_number("the rate", self.rate, 0, 10)
        require_int("segment", self.segment, 1, 4096)
        require_number("decay", self.decay, 0, 1)
