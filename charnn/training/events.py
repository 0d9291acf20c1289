"""What a training tells whoever watches it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """The score of the validation subset; ``best`` when nothing before was lower.

    ``protocol`` is "cold_256", or "lines" where the model is one of lines.
    """

    step: int
    score: Score
    best: bool
    protocol: str = "cold_256"


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

    The scores, by protocol ("cold_256" and "carried", or "lines"), are those of the best model over
    the start of the validation split, `final_tokens` of it, where training is finished and there is
    one. ``ngrams`` says what was mixed in, if anything, finished or not: count, order and weights.
    """

    step: int
    reason: str
    scores: dict[str, Score] = field(default_factory=dict)
    ngrams: dict[str, Any] | None = None


Event = StepDone | Evaluated | Sampled | Saved | Warned | Ended


def log_line(event: Event, counters: dict[str, Any]) -> dict[str, Any]:
    """An event as a line of metrics.jsonl; `counters` are step, tokens, epoch and seconds."""
    counters = {**counters, "seconds": round(counters["seconds"], 3)}
    if isinstance(event, StepDone):
        values = {name: _finite(value) for name, value in vars(event).items()}
        return {"event": "step", **values, **counters}
    if isinstance(event, Evaluated):
        score = event.score.to_dict()
        return {"event": "eval", **counters, event.protocol: score, "best": event.best}
    if isinstance(event, Sampled):
        return {"event": "sample", **counters, "text": event.text}
    if isinstance(event, Saved):
        return {"event": "save", **counters, "file": event.path.name}
    if isinstance(event, Warned):
        return {"event": "warning", **counters, "message": event.message}
    found = {name: score.to_dict() for name, score in event.scores.items()}
    if event.ngrams:
        found["ngrams"] = event.ngrams
    return {"event": "end", **counters, "reason": event.reason, **found}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
