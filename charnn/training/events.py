"""Events that a trainer yields, and their lines in metrics.jsonl."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charnn.evaluation import Score
from charnn.training.final_step import NOTHING_DONE, Completed


@dataclass(frozen=True)
class StepDone:
    """One optimizer step, or a skipped window (``loss`` or ``grad_norm`` not finite).

    ``loss`` is nats per token, ``tokens`` counts targets since step 0, ``epoch`` passes over the
    training text, ``seconds`` training time including earlier sessions. ``communication`` is the
    share of the step that several processes spent exchanging gradients and waiting for each other.
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
    communication: float | None = None


@dataclass(frozen=True)
class Validated:
    """A score on the validation part; ``best`` if it is the lowest so far.

    ``protocol`` is "cold_256", or "lines" for a list of lines.
    """

    step: int
    score: Score
    best: bool
    protocol: str = "cold_256"


@dataclass(frozen=True)
class Sampled:
    """A sample of the network at this step, always with the same seed and no prompt."""

    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """`path` was written durably."""

    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """A problem that does not end the run."""

    step: int
    message: str


@dataclass(frozen=True)
class Stage:
    """The start of a stage of work after the last step; it is not logged."""

    step: int
    doing: str


@dataclass(frozen=True)
class Ended:
    """The last event. ``reason`` is "finished" or "interrupted".

    ``scores`` by protocol ("cold_256" and "carried", or "lines") are those of the best model on the
    first `final_tokens` tokens of the validation split; a run that is not finished has none.
    ``completed`` tells what the final step did.
    """

    step: int
    reason: str
    scores: dict[str, Score] = field(default_factory=dict)
    completed: Completed = NOTHING_DONE


Logged = StepDone | Validated | Sampled | Saved | Warned | Ended
Event = Logged | Stage


def log_line(event: Logged, counters: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics.jsonl line of an event; `counters`: step, tokens, epoch, seconds."""
    counters = {**counters, "seconds": round(counters["seconds"], 3)}
    if isinstance(event, StepDone):
        values = {name: _finite(value) for name, value in vars(event).items() if value is not None}
        return {"event": "step", **values, **counters}
    if isinstance(event, Validated):
        score = event.score.to_dict()
        return {"event": "eval", **counters, event.protocol: score, "best": event.best}
    if isinstance(event, Sampled):
        return {"event": "sample", **counters, "text": event.text}
    if isinstance(event, Saved):
        return {"event": "save", **counters, "file": event.path.name}
    if isinstance(event, Warned):
        return {"event": "warning", **counters, "message": event.message}
    found = {name: score.to_dict() for name, score in event.scores.items()}
    facts = event.completed.facts
    return {"event": "end", **counters, "reason": event.reason, **found, **facts}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
