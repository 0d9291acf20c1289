"""Dynamic evaluation: weights that adapt while a text is scored."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.settings import check, choice, number, whole

# The rates with the lowest mean over parts of two other texts, Python's sources and names of
# villages; three times as high, one of them scores worse than with fixed weights.
DYNAMIC_RATES = {"rms": 3e-4, "sgd": 0.01}


@dataclass(frozen=True)
class DynamicConfig:
    """Dynamic evaluation: after each segment, a step down the gradient of its loss."""

    rule: str = choice("rms", tuple(DYNAMIC_RATES), "Rule by which the weights adapt.")
    rate: float = number(DYNAMIC_RATES["rms"], 0, 10, "Size of a step.")
    segment: int = whole(20, 1, 4096, "Tokens between two steps.")
    decay: float = number(0.002, 0, 1, "Share of the way back to the fixed weights at each step.")

    def __post_init__(self) -> None:
        check(self)
