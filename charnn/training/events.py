"""What a training tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from charnn.evaluation import Score


@dataclass(frozen=True)
class StepDone:
    """One window was learnt from, or skipped (``loss`` or ``grad_norm`` not finite).

    ``loss`` is nats per token, ``tokens`` counts targets seen since step 0, ``epoch`` passes over
    the training text, ``seconds`` the time spent so far, earlier sessions included.
    """

    step: int
    max_steps: int
    tokens: int
    epoch: float
    seconds: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """Cold-256 over the validation subset; ``best`` when nothing before was lower."""

    step: int
    cold_256: Score
    best: bool


@dataclass(frozen=True)
class Sampled:
    """What the network writes at this step; the seed and prompt are always the same."""

    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """`path` is on the disk, whole."""

    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """Something to know that does not end the training."""

    step: int
    message: str


@dataclass(frozen=True)
class Ended:
    """Nothing more will come. ``reason`` is "finished" or "interrupted".

    The scores are those of the best model over the validation split, as far as there is one.
    """

    step: int
    reason: str
    cold_256: Score | None = None
    carried: Score | None = None


Event = StepDone | Evaluated | Sampled | Saved | Warned | Ended
